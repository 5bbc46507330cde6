"""An edit: which vector changes which tokens at which layers, how, and how strongly."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Literal, cast

import torch
from torch import Tensor

from steerkit.errors import LayerError, SteeringError, VectorError
from steerkit.points import Site
from steerkit.positions import Positions, check_positions
from steerkit.steering.operations import Add, Operation
from steerkit.vectors import SteeringVector

Unit = Literal["raw", "residual", "gap"]
"""What `coef` is a multiple of: the vector itself, the mean residual norm, or the gap between the two sides."""

LayerChoice = int | Iterable[int] | Literal["all"]
"""One layer, several in any form that can be walked once, or all that the vector has."""

UNITS = ("raw", "residual", "gap")


@dataclass(frozen=True, eq=False)
class Edit:
    """One change of a model's activations.

    Args:
        vector: A concept at several layers, or one `[hidden]` tensor that goes as it is to every layer named.
        layer: Decoder blocks, counted from 0: one, several, or `"all"` that the vector has. It may be left out for a
            vector of chosen heads (`vector.heads(...)`), which goes to all of its layers.
        coef: How strongly; what it counts is up to the operation. A `[batch]` tensor gives each row its own.
        operation: `Add()` by default; `Ablate()`, `Clamp()`, `PreserveNorm(...)`, or any callable of that form.
        positions: Which tokens: `"all"`, `"prompt"`, `"generation"` (from the last token of the prompt's template), or
            absolute positions.
        site: Where in the block; by default the vector's own, `"resid_post"` for a tensor. At `"z"` a tensor holds all
            heads side by side, `[heads * head_size]`.
        unit: `"raw"`; or `coef` as a multiple of the mean residual norm (`"residual"`) or of the gap between the two
            sides (`"gap"`), both of which the vector remembers from its making.
        override: Accept a vector that was made with another model, as long as its shape fits.

    Raises:
        VectorError: `vector` is neither form, or not finite.
        SteeringError: `coef`, `unit` or `operation` is not valid.
        PositionError: `positions` is not a valid form.
        LayerError: `layer` is empty, or not integers.

    Example:
        >>> Edit(torch.tensor([3.0, 4.0]), layer=[2, 1], coef=-1)
        Edit(tensor of norm 5, layer=[2, 1], coef=-1, Add(), positions='generation')
    """

    vector: SteeringVector | Tensor
    layer: Any = field(default=None, kw_only=True)
    coef: Any = field(default=1.0, kw_only=True)
    operation: Any = field(default_factory=Add, kw_only=True)
    positions: Positions = field(default="generation", kw_only=True)
    site: Site | None = field(default=None, kw_only=True)
    unit: Unit = field(default="raw", kw_only=True)
    override: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        _check_vector(self.vector)
        chosen = isinstance(self.vector, SteeringVector) and bool(self.vector.chosen_heads)
        object.__setattr__(self, "layer", "all" if chosen and self.layer is None else _layers(self.layer))
        object.__setattr__(self, "coef", _coef(self.coef))
        check_positions(self.positions)
        if self.unit not in UNITS:
            raise SteeringError(f"unit={self.unit!r} is not valid; choose one of {', '.join(map(repr, UNITS))}")
        if isinstance(self.operation, type) or not isinstance(self.operation, Operation):
            raise SteeringError(f"operation={self.operation!r} cannot be used; give an object that is called with "
                                "(hidden, vector, coef), such as Add()")  # fmt: skip

    @property
    def strength(self) -> str:
        """The coefficient in a few characters."""
        return strength(self.coef)

    def __repr__(self) -> str:
        vector = self.vector
        what = f"tensor of norm {vector.float().norm():.4g}" if isinstance(vector, Tensor) else "vector"
        where = f"layer={self.layer!r}" + ("" if self.site is None else f", site={self.site!r}")
        unit = "" if self.unit == "raw" else f", unit={self.unit!r}"
        return (f"Edit({what}, {where}, coef={self.strength}{unit}, {self.operation!r}, "
                f"positions={self.positions!r})")  # fmt: skip


def strength(coef: float | Tensor) -> str:
    """A coefficient in a few characters.

    Example:
        >>> strength(torch.tensor([-1.0, 0.0, 0.5]))
        '[-1, 0, 0.5]'
    """
    if not isinstance(coef, Tensor):
        return f"{coef:.4g}"
    shown = [f"{value:.4g}" for value in coef[:6].tolist()]
    return f"[{', '.join(shown)}{', ...' if len(coef) > 6 else ''}]"


def _check_vector(vector: Any) -> None:
    if isinstance(vector, SteeringVector):
        return
    if not isinstance(vector, Tensor):
        raise VectorError(f"vector is a {type(vector).__name__}; give a SteeringVector or a [hidden] tensor")
    if vector.ndim != 1 or vector.numel() == 0 or not vector.is_floating_point():
        raise VectorError(f"the tensor has shape {list(vector.shape)} and type {vector.dtype}; give floats of shape "
                          "[hidden], or a SteeringVector for a row per layer")  # fmt: skip
    if not vector.isfinite().all():
        raise VectorError("the tensor holds NaN or infinity; every value must be finite")


def _layers(layer: Any) -> int | list[int] | str:
    """As given; what can be walked only once becomes a list."""
    if layer is None:
        raise LayerError("layer=None is not valid; give an integer, several integers or 'all'. Only a vector of chosen "
                         "heads, vector.heads(...), needs none")  # fmt: skip
    if isinstance(layer, int | str):
        if isinstance(layer, str) and layer != "all":
            raise LayerError(f"layer={layer!r} is not valid; give an integer, several integers or 'all'")
        return layer
    if not isinstance(layer, Iterable):
        raise LayerError(f"layer={layer!r} is not valid; give an integer, several integers or 'all'")
    return list(cast(Iterable[int], layer))


def _coef(coef: Any) -> float | Tensor:
    if isinstance(coef, Tensor) and coef.ndim == 1 and coef.numel() > 0 and coef.dtype != torch.bool:
        values = coef.detach().to("cpu", torch.float32).clone()
        if not values.isfinite().all():
            raise SteeringError(f"coef={strength(values)} holds NaN or infinity; every coefficient must be finite")
        return values
    if isinstance(coef, Tensor) and coef.ndim == 0 and coef.dtype != torch.bool:
        coef = coef.item()
    if isinstance(coef, bool) or not isinstance(coef, Real):
        shape = f" of shape {list(coef.shape)}" if isinstance(coef, Tensor) else f" ({coef!r})"
        raise SteeringError(
            f"coef is a {type(coef).__name__}{shape}; give a number, or a float tensor of shape [batch]"
        )
    if not math.isfinite(coef):
        raise SteeringError(f"coef={coef} is not finite; give a finite number")
    return float(coef)
