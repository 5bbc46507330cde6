"""A direction brought to the length that makes coefficients mean the same for every method."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from steerkit.errors import VectorError


def scale_to_gap(
    direction: Float[Tensor, " hidden"], differences: Float[Tensor, "pair hidden"]
) -> Float[Tensor, " hidden"]:
    r"""The direction with the length of the mean gap of the pairs along it: $|\bar d \cdot u| \, u$ with $|u| = 1$.

    A vector with coefficient 1 then moves an activation as far along its direction as the two sides lie apart on
    average, which is what the mean difference does by itself.

    Args:
        direction: Any length but 0; its sign is kept.
        differences: Positive minus negative, one row per pair.

    Raises:
        VectorError: The direction is zero, or the two sides do not lie apart along it.

    Example:
        >>> import torch
        >>> scale_to_gap(torch.tensor([0.0, 5.0]), torch.tensor([[1.0, 2.0], [0.0, 4.0]]))
        tensor([0., 3.])
    """
    return scale_to_mean(direction, differences.double().mean(0))


def scale_to_mean(direction: Float[Tensor, " hidden"], mean: Float[Tensor, " hidden"]) -> Float[Tensor, " hidden"]:
    """The same from the mean of the differences.

    Args:
        direction: Any length but 0; its sign is kept.
        mean: Of positive minus negative.

    Raises:
        VectorError: The direction is zero, or the two sides do not lie apart along it.
    """
    unit = direction.double() / direction.double().norm()
    gap = (mean.double() @ unit).abs()
    if not unit.isfinite().all() or gap == 0:
        raise VectorError("the two sides do not differ along the direction that was found; it cannot be given a length")
    vector: Tensor = gap * unit
    return vector.float()
