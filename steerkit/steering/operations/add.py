"""Add the vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from steerkit.steering.operations.base import Meaning


@dataclass(frozen=True)
class Add:
    """Add the vector: `h + coef * v`.

    Source: Rimsky et al. 2024 (CAA), section 3. We do not differ.

    Example:
        >>> import torch
        >>> Add()(torch.zeros(1, 1, 2), torch.tensor([1.0, 2.0]), -1.0)
        tensor([[[-1., -2.]]])
    """

    coef_means: ClassVar[Meaning] = "multiple"

    def __call__(
        self, hidden: Float[Tensor, "*any hidden"], vector: Float[Tensor, "*rows hidden"], coef: float | Tensor
    ) -> Float[Tensor, "*any hidden"]:
        """The changed activations."""
        return hidden + coef * vector
