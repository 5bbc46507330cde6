"""How far apart two results are, and where they are furthest."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from steerkit.testing import TOLERANCE

RELATIVE = {**TOLERANCE, "float64": TOLERANCE["float32"]}
"""Allowed for logits and states, relative to the largest value of the reference, by dtype of the weights."""
PROBABILITY = {"float64": 1e-4, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""Allowed for probabilities, absolute: a logit of 40 times the relative tolerance, by the slope of a sigmoid."""


@dataclass(frozen=True)
class Found:
    """The largest difference, and where it is."""

    difference: float
    where: str = ""

    @classmethod
    def at(cls, difference: float, where: str) -> Found:
        """A difference and its place; without a difference there is none."""
        return cls(difference, where if difference else "")


def relative(a: Tensor, b: Tensor) -> Tensor:
    """Difference of every element, in units of the largest value of `b`; equal infinities do not differ."""
    a, b = a.float(), b.float()
    gap = torch.where(a == b, torch.zeros(()), (a - b).abs())
    finite = b[b.isfinite()].abs()
    return gap / max(float(finite.max()) if finite.numel() else 0.0, 1e-12)


def largest(found: Iterable[Found]) -> Found:
    """The largest of several; what is no number is larger than all."""
    return max(found, key=lambda one: math.inf if math.isnan(one.difference) else one.difference)


def furthest_token(a: Tensor, b: Tensor, compared: Tensor) -> Found:
    """Of `[row, column, ...]` tensors: the token with the largest relative difference, counted from the end.

    Args:
        a: What was found.
        b: The reference.
        compared: Which tokens count; the others may be padding, where anything may stand.
    """
    gap = relative(a[compared], b[compared]).flatten(1).amax(-1)
    index = int(torch.where(gap.isnan(), math.inf, gap).argmax())
    row, column = compared.nonzero()[index].tolist()
    return Found.at(float(gap[index]), f"pair {row}, token {column - compared.shape[1]}")
