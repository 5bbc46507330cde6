"""Take the vector's direction out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from steerkit.steering.operations.base import Meaning


@dataclass(frozen=True)
class Ablate:
    """Take out the component along the vector: `h - coef * (h . u) u`, with `u = v / |v|`.

    `coef` is the share taken out: 1 is all of it, 0.5 half; a negative one makes the component larger. The vector's
    length has no effect.

    Source: Arditi et al. 2024, "Refusal in language models is mediated by a single direction", section 2.4. We add the
    share.

    Example:
        >>> import torch
        >>> Ablate()(torch.tensor([[[3.0, 4.0]]]), torch.tensor([2.0, 0.0]), 1.0)
        tensor([[[0., 4.]]])
    """

    coef_means: ClassVar[Meaning] = "share"

    def __call__(
        self, hidden: Float[Tensor, "*any hidden"], vector: Float[Tensor, "*rows hidden"], coef: float | Tensor
    ) -> Float[Tensor, "*any hidden"]:
        """The changed activations."""
        unit: Tensor = vector / vector.norm(dim=-1, keepdim=True)
        return hidden - coef * (hidden * unit).sum(-1, keepdim=True) * unit
