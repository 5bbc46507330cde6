"""The mean difference of the pairs, as CAA has it."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from steerkit.store import Paired
from steerkit.store.statistics import Moments


@dataclass(frozen=True)
class MeanDifference:
    r"""The mean of the pairs' differences: $v = \frac1n \sum_i (h_i^+ - h_i^-)$.

    It equals the difference of the two sides' means. What does not belong to the concept (such as the answer's letter)
    cancels only where it is balanced over the pairs.

    Source: CAA (Rimsky et al. 2024, arXiv 2312.06681), section 3; `generate_vectors.py`. We sum in float64.

    Example:
        >>> import torch
        >>> MeanDifference()(Paired(torch.tensor([[2.0, 1.0], [4.0, 1.0]]), torch.zeros(2, 2)))
        tensor([3., 1.])
    """

    def __call__(self, acts: Paired) -> Float[Tensor, " hidden"]:
        return (acts.positive.double() - acts.negative.double()).mean(0).float()

    def from_moments(self, moments: Moments, *, sure: bool = True) -> Float[Tensor, " hidden"] | None:  # noqa: ARG002
        """The same from running statistics; the means are enough."""
        return moments.difference.float()
