"""Set the projection on the vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from steerkit.steering.operations.base import Meaning


@dataclass(frozen=True)
class Clamp:
    """Set the projection on the unit vector to a value: `h + (coef - h . u) u`, with `u = v / |v|`.

    `coef` is that value, in the units of the activations. The vector's length has no effect.

    Source: Templeton et al. 2024, "Scaling Monosemanticity", clamp a feature's activation so; we clamp a projection.

    Example:
        >>> import torch
        >>> Clamp()(torch.tensor([[[3.0, 4.0]]]), torch.tensor([2.0, 0.0]), 5.0)
        tensor([[[5., 4.]]])
    """

    coef_means: ClassVar[Meaning] = "value"

    def __call__(
        self, hidden: Float[Tensor, "*any hidden"], vector: Float[Tensor, "*rows hidden"], coef: float | Tensor
    ) -> Float[Tensor, "*any hidden"]:
        """The changed activations."""
        unit: Tensor = vector / vector.norm(dim=-1, keepdim=True)
        return hidden + (coef - (hidden * unit).sum(-1, keepdim=True)) * unit
