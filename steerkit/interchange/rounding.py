"""What a precision leaves of a change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steerkit.interchange.changes import Change


@dataclass(frozen=True)
class Rounding:
    r"""What rounding leaves of the change of one weight, or of several.

    With the base $W$, the wanted change $\Delta$ and $\mathrm{r}$ for rounding, the effective change is
    $\mathrm{r}(W + \Delta) - \mathrm{r}(W)$: what differs from the base saved in the same precision.

    Args:
        name: Of the parameter, in the transformers model.
        values: How many numbers it has.
        delta: Root mean square of the wanted change.
        weight: Root mean square of the base's weight.
        error: |effective - wanted| / |wanted|; 0 is exact, 1 as bad as no change at all.
        unchanged: Share of the numbers that are saved as if there were no change, in [0, 1].
    """

    name: str
    values: int
    delta: float
    weight: float
    error: float
    unchanged: float


def measure_rounding(change: Change, written: Tensor) -> Rounding:
    """What is left of a change in the weight as it is saved."""
    base = change.parameter.detach().to("cpu")
    wanted = change.delta().to("cpu")
    before = base.to(written.dtype)
    size, values = _norm(wanted), wanted.numel()
    same = float((written == before).sum()) / values
    missed = _norm((written.float() - before.float()).sub_(wanted))
    return Rounding(change.name, values, size / math.sqrt(values), _norm(base.float()) / math.sqrt(values),
                    missed / size if size else 0.0, same)  # fmt: skip


def together(parts: Sequence[Rounding], *, name: str = "all") -> Rounding:
    """Several weights as one: norms add up by their squares, shares by their counts."""
    values = sum(one.values for one in parts)
    squares = sum(one.delta**2 * one.values for one in parts)
    missed = sum((one.error * one.delta) ** 2 * one.values for one in parts)
    return Rounding(
        name,
        values,
        math.sqrt(squares / values),
        math.sqrt(sum(one.weight**2 * one.values for one in parts) / values),
        math.sqrt(missed / squares) if squares else 0.0,
        sum(one.unchanged * one.values for one in parts) / values,
    )


def _norm(values: Tensor) -> float:
    return float(torch.linalg.vector_norm(values))
