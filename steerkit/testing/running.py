"""What the checks of a backend share: tokens to run, reading points, and an edit to try."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from steerkit.backends.base import Batch, Hook, Model, pad
from steerkit.errors import LayerError
from steerkit.points import SITES, Point, Site
from steerkit.positions import Pass


def batch_of(rows: Sequence[Sequence[int]], *, left: bool = True) -> Batch:
    """Rows of tokens, all of them prompt."""
    return pad(rows, [len(row) for row in rows], pad_id=0, left=left)


def read(model: Model, batch: Batch, points: Sequence[Point], *edits: tuple[Point, Hook]) -> dict[Point, Tensor]:
    """Activations of one pass, after the edits."""
    seen: dict[Point, Tensor] = {}

    def keep(point: Point) -> Callable[[Tensor, Pass], None]:
        return lambda hidden, _: seen.__setitem__(point, hidden.detach().clone())

    with ExitStack() as stack:
        for point, edit in edits:
            stack.enter_context(model.hook(point, edit))
        for point in points:
            stack.enter_context(model.hook(point, keep(point)))
        model.forward(batch)
    return seen


def delta_of(width: int) -> Tensor:
    """What the checks add."""
    return torch.linspace(-1, 1, width)


def adding(*, at: int | None = None, since: int = 0) -> Hook:
    """An edit that adds `delta_of` the width at one position, or at all since one."""

    def add(hidden: Tensor, pass_: Pass) -> Tensor:
        position = pass_.position.to(hidden.device)
        chosen = (position >= since if at is None else position == at).unsqueeze(-1)
        delta = delta_of(hidden.shape[-1]).to(hidden.device)
        return torch.where(chosen, (hidden.float() + delta).to(hidden.dtype), hidden)

    return add


def sites_of(model: Model, layer: int) -> tuple[Site, ...]:
    """The sites that a block offers: those that can be hooked."""
    return tuple(site for site in SITES if _offers(model, Point(layer, site)))


def _offers(model: Model, point: Point) -> bool:
    try:
        with model.hook(point, lambda _hidden, _pass: None):
            return True
    except LayerError:
        return False


def kinds_of(model: Model) -> dict[tuple[str, ...], int]:
    """One layer of each kind of block, by its sites and by the classes of its parts where they are known."""
    parts = getattr(model, "parts", None)
    kinds: dict[tuple[str, ...], int] = {}
    for layer in range(model.info.num_layers):
        kind: tuple[str, ...] = sites_of(model, layer)
        if parts is not None:
            named = [parts.attn(layer)] if "attn_out" in kind else []
            named += [parts.mlp(layer)] if "mlp_out" in kind else []
            kind = (*kind, type(parts.blocks[layer]).__name__, *(type(part).__name__ for part in named))
        kinds.setdefault(kind, layer)
    return kinds
