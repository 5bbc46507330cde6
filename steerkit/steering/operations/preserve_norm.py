"""Any operation, with the length of every activation kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from steerkit.steering.operations.add import Add
from steerkit.steering.operations.base import Meaning, meaning

TINY = 1e-12


@dataclass(frozen=True)
class PreserveNorm:
    """Change the direction and keep the length: `f(h) * |h| / |f(h)|`.

    Args:
        operation: The operation `f`.

    Source: the norm-preserving option of vllm-lens and of repeng (`normalize=True`).

    Example:
        >>> import torch
        >>> PreserveNorm()(torch.tensor([[[5.0, 0.0]]]), torch.tensor([-2.0, 4.0]), 1.0)
        tensor([[[3., 4.]]])
    """

    operation: Any = field(default_factory=Add)

    @property
    def coef_means(self) -> Meaning | None:
        """As in the operation inside."""
        return meaning(self.operation)

    def __call__(
        self, hidden: Float[Tensor, "*any hidden"], vector: Float[Tensor, "*rows hidden"], coef: float | Tensor
    ) -> Float[Tensor, "*any hidden"]:
        """The changed activations."""
        changed: Tensor = self.operation(hidden, vector, coef)
        length = changed.norm(dim=-1, keepdim=True).clamp(min=TINY)
        kept: Tensor = changed * (hidden.norm(dim=-1, keepdim=True) / length)
        return kept
