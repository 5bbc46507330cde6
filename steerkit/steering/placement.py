"""From edits to what acts at each point of a model: every check that can be made before any compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from steerkit.backends.base import ModelInfo
from steerkit.errors import LayerError, SteeringError, VectorError
from steerkit.points import SITES, Point, Site
from steerkit.positions import Positions
from steerkit.steering.edits import Edit, strength
from steerkit.steering.operations.base import meaning
from steerkit.steering.strength import raw_coef
from steerkit.vectors import SteeringVector


@dataclass(frozen=True, eq=False)
class Placed:
    """An edit at one point of a model, or the edits of several rows there.

    Args:
        point: Where.
        operation: How.
        positions: Which tokens.
        vector: `[hidden]`, or `[row, hidden]` where rows differ; float32 on the CPU.
        coef: In the operation's own terms; a `[row]` tensor where rows differ.
        edits: Each edit that it stands for, with its row; the row is `None` for an edit of the whole batch.
    """

    point: Point
    operation: Any
    positions: Positions
    vector: Tensor
    coef: float | Tensor
    edits: tuple[tuple[Edit, int | None], ...]

    @property
    def rows(self) -> int | None:
        """For how many rows it is made; `None` for any batch."""
        return len(self.coef) if isinstance(self.coef, Tensor) else None

    @property
    def acting(self) -> list[bool]:
        """Which rows it changes at all; one answer for the whole batch where rows do not differ."""
        coefs = self.coef.tolist() if isinstance(self.coef, Tensor) else [self.coef]
        still = meaning(self.operation) in ("multiple", "share")
        named = {row for _, row in self.edits}
        return [(None in named or row in named) and not (still and coef == 0) for row, coef in enumerate(coefs)]


def place(edit: Edit, info: ModelInfo, *, row: int | None = None) -> list[Placed]:
    """An edit at each of its layers.

    Raises:
        LayerError: The model has no such layer or site.
        VectorError: The vector has another hidden size or site, lacks a layer, or has no direction where one is needed.
        MismatchError: The vector was made with another model.
        SteeringError: The unit has no meaning for the operation.
    """
    site = _site(edit)
    layers = _layers(edit, info, site)
    if isinstance(edit.vector, SteeringVector):
        edit.vector.check_fits(info.as_dict(), override=edit.override)
    else:
        _check_width(edit.vector, info, site)
    placed = []
    for layer in layers:
        vector = _row(edit.vector, layer)
        norm = float(vector.double().norm())
        if norm == 0 and (edit.unit != "raw" or meaning(edit.operation) in ("share", "value")):
            raise VectorError(f"the vector at layer {layer} is zero and has no direction for {edit.operation!r}; leave "
                              "the layer out")  # fmt: skip
        coef = raw_coef(edit, layer=layer, norm=norm)
        placed.append(Placed(Point(layer, site), edit.operation, edit.positions, vector, coef, ((edit, row),)))
    return placed


def place_rows(rows: Sequence[Sequence[Edit]], info: ModelInfo) -> list[Placed]:
    """Edits by row of the batch, with like edits of different rows joined into one.

    The first edits of all rows come before the second ones, and so on, so each row keeps its order.

    Raises:
        SteeringError: `rows` is no list of lists of edits, or an edit in it has a coefficient per row.
    """
    _check_rows(rows)
    joined: list[Placed] = []
    for turn in range(max((len(edits) for edits in rows), default=0)):
        alike: list[list[Placed]] = []
        for row, edits in enumerate(rows):
            for one in place(edits[turn], info, row=row) if turn < len(edits) else ():
                group = next((group for group in alike if _same_kind(group[0], one)), None)
                if group is None:
                    alike.append([one])
                else:
                    group.append(one)
        joined += [_join(group, len(rows)) for group in alike]
    return joined


def describe_coef(placed: Placed, *, row: int | None) -> str:
    """The coefficient in the operation's own terms."""
    if isinstance(placed.coef, Tensor) and row is not None:
        return strength(float(placed.coef[row]))
    return strength(placed.coef)


def _check_rows(rows: Sequence[Sequence[Edit]]) -> None:
    if not isinstance(rows, Sequence) or not rows:
        raise SteeringError("rows is empty; give one list of edits for each row of the batch, [] for a row left alone")
    for row, edits in enumerate(rows):
        if not isinstance(edits, Sequence) or not all(isinstance(edit, Edit) for edit in edits):
            raise SteeringError(f"row {row} is {edits!r}; give a list of Edit, or [] for a row left alone")
        for edit in edits:
            if isinstance(edit.coef, Tensor):
                raise SteeringError(f"row {row} has coef={edit.strength}; an edit of one row takes one number")


def _same_kind(a: Placed, b: Placed) -> bool:
    return bool((a.point, a.operation) == (b.point, b.operation) and _same_positions(a.positions, b.positions))


def _same_positions(a: Positions, b: Positions) -> bool:
    return type(a) is type(b) and bool(a == b)


def _join(group: list[Placed], rows: int) -> Placed:
    vector = torch.ones(rows, len(group[0].vector))
    coef = torch.zeros(rows)
    for one in group:
        (_, row), *_ = one.edits
        vector[row], coef[row] = one.vector, one.coef
    return replace(group[0], vector=vector, coef=coef, edits=tuple(one.edits[0] for one in group))


def _site(edit: Edit) -> Any:
    own = edit.vector.site if isinstance(edit.vector, SteeringVector) else "resid_post"
    if edit.site is not None and edit.site not in SITES:
        raise LayerError(f"site={edit.site!r} is not valid; choose one of {', '.join(SITES)}")
    if edit.site is not None and isinstance(edit.vector, SteeringVector) and edit.site != own:
        raise VectorError(f"the vector belongs to site {own!r}, not {edit.site!r}; leave site out, or give the bare "
                          "row vector.at(layer) to use it elsewhere")  # fmt: skip
    return edit.site or own


def _layers(edit: Edit, info: ModelInfo, site: Site) -> list[int]:
    if isinstance(edit.vector, SteeringVector) and edit.layer == "all":
        return list(edit.vector.layers)
    layers = info.choose_layers(edit.layer, site=site)
    if isinstance(edit.vector, SteeringVector):
        for layer in layers:
            edit.vector.at(layer)
    return layers


def _check_width(vector: Tensor, info: ModelInfo, site: Site) -> None:
    width = info.width(site)
    if len(vector) == width:
        return
    mine = f"hidden size {len(vector)}" if site != "z" else f"width {len(vector)}"
    there = str(width) if site != "z" else f"{width} at z ({info.heads} heads of {info.head_size})"
    raise VectorError(f"the tensor has {mine}, {info.name} has {there}; make the vector with this model")


def _row(vector: SteeringVector | Tensor, layer: int) -> Tensor:
    """A copy of its own: what the caller does to the tensor later does not reach the edit."""
    with torch.inference_mode(False), torch.no_grad():
        one = vector.at(layer) if isinstance(vector, SteeringVector) else vector
        return one.detach().to("cpu", torch.float32).clone()
