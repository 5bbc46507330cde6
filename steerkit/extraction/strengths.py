"""What a direction means in the activations it comes from: the gap of the two sides along it, and its deviation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.store import Paired
from steerkit.store.statistics import Moments


@dataclass(frozen=True)
class Strengths:
    """Of one layer; of each head by itself where the row holds heads.

    Args:
        gap: Mean difference of the two sides along the row's direction.
        each_gap: The same along the direction of each part.
        sigma: Standard deviation of the activations of both sides together along the direction of each part; `None`
            where only means are known.
    """

    gap: float
    each_gap: list[float]
    sigma: list[float] | None


def strengths_of(row: Float[Tensor, " hidden"], acts: Paired | None, moments: Moments, *, parts: int = 1) -> Strengths:
    r"""The strengths of a row: $\bar d \cdot u$ and $\mathrm{std}(h \cdot u)$ with $u = v / |v|$.

    Args:
        row: A vector of the layer.
        acts: Its activations; without them the deviation comes from the covariances, where there are any.
        moments: Their statistics.
        parts: How many heads the row holds.

    Example:
        >>> acts = Paired(torch.tensor([[3.0, 9.0]]), torch.tensor([[1.0, 5.0]]))
        >>> strengths_of(torch.tensor([2.0, 0.0]), acts, Moments.of(acts))
        Strengths(gap=2.0, each_gap=[2.0], sigma=[1.0])
    """
    split = row.double().reshape(parts, -1)
    units = split / split.norm(dim=1, keepdim=True).clamp(min=1e-300)
    gaps = (moments.difference.double().reshape(parts, -1) * units).sum(1)
    length = float(row.double().norm())
    whole = float(moments.difference.double() @ row.double()) / length if length > 0 else 0.0
    deviation = _deviation(units, acts, moments)
    return Strengths(whole, gaps.tolist(), None if deviation is None else deviation.tolist())


def _deviation(units: Tensor, acts: Paired | None, moments: Moments) -> Tensor | None:
    """Not of a sample: divided by how many there are, as numpy does."""
    parts, size = units.shape
    if acts is not None:
        rows = torch.cat([acts.positive, acts.negative]).double().reshape(-1, parts, size)
        return (rows * units).sum(-1).std(dim=0, correction=0)
    if moments.scatter is None:
        return None
    within = moments.scatter.within.sum(0).double()
    blocks = torch.stack([within[i * size : (i + 1) * size, i * size : (i + 1) * size] for i in range(parts)])
    inside = torch.einsum("pi,pij,pj->p", units, blocks, units) / (2 * moments.pairs)
    between = (moments.difference.double().reshape(parts, size) * units).sum(1) / 2
    return (inside + between.square()).clamp(min=0).sqrt()
