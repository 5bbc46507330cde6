"""Do sites hold, and take, what their names say?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from steerkit.backends.base import Batch, Model
from steerkit.points import SITES, Point, Site
from steerkit.positions import Pass
from steerkit.testing.checks import distance
from steerkit.testing.running import adding, delta_of, kinds_of, read, sites_of

Values = dict[Site, Tensor]


def measure_sites(model: Model, batch: Batch) -> Iterator[tuple[str, float]]:
    """Name and largest relative difference of every equation, over one block of each kind.

    At a block, with `pre`, `attn`, `mid`, `mlp`, `post` for its sites:
    `pre + attn = mid`, `pre + attn + mlp = post`, also while one of them is edited; what is added to `mlp` (and, where
    the MLP does not read it, to `attn`) arrives in `post` as it is; an edit of `mid` is the same edit of `attn`; the
    MLP sees an edit of `attn` where there is a `mid`, and only there; `attn` is the output projection of `z`, also of
    a `z` that was set to 0.

    Args:
        model: The model.
        batch: One row of tokens.
    """
    layers = list(kinds_of(model).values())
    for name, check, needs in _CHECKS:
        able = [layer for layer in layers if set(needs) <= set(sites_of(model, layer))]
        found = [check(model, batch, layer) for layer in able]
        if found:
            yield name, max(found)


def _values(model: Model, batch: Batch, layer: int, *edited: Site, token: int | None = None) -> Values:
    at = batch.input_ids.shape[1] - 2 if token is None else token
    points = [Point(layer, site) for site in sites_of(model, layer)]
    edits = [(Point(layer, site), adding(at=at)) for site in edited]
    return {point.site: value.float() for point, value in read(model, batch, points, *edits).items()}


def _off(values: Values, *, edited: Site | None = None) -> float:
    """How far a block is from its input plus what its parts add."""
    nothing = torch.zeros((), device=values["resid_pre"].device)
    attn, mlp = (values.get(site, nothing) for site in ("attn_out", "mlp_out"))
    if "attn_out" not in values or edited == "resid_post":
        return 0.0
    if "resid_mid" not in values:
        return distance(values["resid_pre"] + attn + mlp, values["resid_post"])
    before_mid = 0.0 if edited == "resid_mid" else distance(values["resid_pre"] + attn, values["resid_mid"])
    return max(before_mid, distance(values["resid_mid"] + mlp, values["resid_post"]))


def _sum(model: Model, batch: Batch, layer: int) -> float:
    return _off(_values(model, batch, layer))


def _written(model: Model, batch: Batch, layer: int) -> float:
    """Every site in turn: the equations hold of the edited values, and the site itself has moved by what was added."""
    before, worst, token = _values(model, batch, layer), 0.0, batch.input_ids.shape[1] - 2
    others = [i for i in range(batch.input_ids.shape[1]) if i != token]
    for site in before:
        after = _values(model, batch, layer, site)
        wanted = before[site][0, token] + delta_of(before[site].shape[-1]).to(before[site].device)
        worst = max(worst, distance(after[site][0, token], wanted))
        worst = max(worst, distance(after[site][0, others], before[site][0, others]))
        worst = max(worst, _off(after, edited=site))
    return worst


def _arrives(model: Model, batch: Batch, layer: int) -> float:
    """What is added to a part that nothing in the block reads arrives in the block's output as it is."""
    before, worst = _values(model, batch, layer), 0.0
    parts: list[Site] = ["mlp_out"] if "mlp_out" in before else ["attn_out"]
    if "resid_mid" not in before and "attn_out" in before:
        parts = ["attn_out", *(["mlp_out"] if "mlp_out" in before else [])]  # type: ignore[list-item]
    for site in parts:
        after = _values(model, batch, layer, site)
        shift = adding(at=batch.input_ids.shape[1] - 2)(before["resid_post"], _pass(batch))
        assert shift is not None
        worst = max(worst, distance(after["resid_post"], shift))
    return worst


def _pass(batch: Batch) -> Pass:
    rows, width = batch.input_ids.shape
    return Pass(rows, width, batch.prompt_length, given=batch.position)


def _mid(model: Model, batch: Batch, layer: int) -> float:
    by_mid, by_attn = (_values(model, batch, layer, site) for site in ("resid_mid", "attn_out"))
    return distance(by_mid["resid_post"], by_attn["resid_post"])


def _order(model: Model, batch: Batch, layer: int) -> float:
    """The MLP sees an edit of attention where there is a stream between them, and only there."""
    before, after = _values(model, batch, layer), _values(model, batch, layer, "attn_out")
    moved = distance(after["mlp_out"], before["mlp_out"], exact=True)
    return float("inf") if (moved > 0) != ("resid_mid" in before) else 0.0


def _next_block(model: Model, batch: Batch, layer: int) -> float:
    """An edit of what enters a block is the same edit of what left the one before."""
    if layer == 0:
        return 0.0
    point = Point(model.info.num_layers - 1)
    token = adding(at=batch.input_ids.shape[1] - 2)
    one = read(model, batch, [point], (Point(layer, "resid_pre"), token))
    other = read(model, batch, [point], (Point(layer - 1), token))
    return distance(one[point], other[point])


def _heads(model: Any, batch: Batch, layer: int) -> float:
    """What attention adds is the projection of `z` (and the norm after it), for `z` as it is and for `z = 0`."""
    parts = model.parts
    attn, project = parts.attn(layer), parts.heads(layer)
    inside = any(module is project for module in attn.modules())

    def adds(z: Tensor) -> Tensor:
        with torch.no_grad():
            return project(z) if inside else attn(project(z))  # type: ignore[no-any-return]

    points = [Point(layer, "z"), Point(layer, "attn_out")]
    worst = 0.0
    for edits in ([], [(points[0], _nothing)]):
        z, attn_out = (read(model, batch, points, *edits)[point] for point in points)
        wanted = z.shape[-1] == model.info.width("z") and (not edits or not z.any())
        worst = max(worst, distance(attn_out, adds(z)) if wanted else float("inf"))
    return worst


def _nothing(hidden: Tensor, _pass: Pass) -> Tensor:
    return torch.zeros_like(hidden)


_Check = Callable[[Any, Batch, int], float]
_CHECKS: Sequence[tuple[str, _Check, tuple[Site, ...]]] = (
    ("input + attention + MLP = output", _sum, ("attn_out",)),
    ("every site takes what is written", _written, SITES[:1]),
    ("what is added to a part arrives", _arrives, ("attn_out",)),
    ("resid_mid is written like attn_out", _mid, ("resid_mid",)),
    ("resid_mid lies where the MLP reads", _order, ("attn_out", "mlp_out")),
    ("resid_pre is written like resid_post", _next_block, ("resid_pre",)),
    ("attention adds the projection of z", _heads, ("z", "attn_out")),
)
