"""Portable strengths: what a coefficient comes to in raw multiples of the vector."""

from __future__ import annotations

from torch import Tensor

from steerkit.errors import SteeringError, VectorError
from steerkit.steering.edits import Edit
from steerkit.steering.operations.base import meaning
from steerkit.vectors import SteeringVector

KNOWN_AS = {"residual": "residual_norm", "gap": "gap"}


def raw_coef(edit: Edit, *, layer: int, norm: float) -> float | Tensor:
    """The coefficient as the operation takes it.

    A multiple of the vector becomes `coef * size / |v|`, where `size` is the mean residual norm or the gap at the
    layer. The gap counts without its sign, so that turning the vector round turns the steering round. Where the
    operation takes a projection (`Clamp`), it becomes `coef * size`.

    Args:
        edit: The edit.
        layer: One of its layers.
        norm: Length of the vector there.

    Raises:
        VectorError: The vector does not know the size, or is zero.
        SteeringError: The operation takes a share, which has no unit.
    """
    coef: float | Tensor = edit.coef
    if edit.unit == "raw":
        return coef
    means = meaning(edit.operation)
    if means == "share":
        raise SteeringError(
            f"unit={edit.unit!r} has no meaning for {edit.operation!r}: its coef is a share; leave unit out"
        )
    size = _size(edit, layer)
    return coef * size if means == "value" else coef * (size / norm)


def _size(edit: Edit, layer: int) -> float:
    key = KNOWN_AS[edit.unit]
    if not isinstance(edit.vector, SteeringVector):
        raise VectorError(f"unit={edit.unit!r} needs the {key} at layer {layer}, which a bare tensor does not know; "
                          "give a SteeringVector made by extract, or use unit='raw'")  # fmt: skip
    known = edit.vector.meta.get(key) or {}
    size = known.get(layer, known.get(str(layer)))
    if size is None:
        raise VectorError(f"unit={edit.unit!r} needs the vector's meta[{key!r}] at layer {layer}, which it lacks; make "
                          "the vector with extract, or use unit='raw'")  # fmt: skip
    return abs(float(size))
