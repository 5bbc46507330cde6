"""One layer of a store: the two sides, pair by pair."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from steerkit.errors import InputError


@dataclass(frozen=True, eq=False)
class Paired:
    """The activations of both sides at one layer; row `i` of each belongs to pair `i`.

    Args:
        positive: One row a pair.
        negative: Likewise.

    Raises:
        InputError: The two have different shapes, or are not tables.

    Example:
        >>> import torch
        >>> Paired(torch.ones(2, 3), torch.zeros(2, 3)).difference.shape
        torch.Size([2, 3])
    """

    positive: Float[Tensor, "pair hidden"]
    negative: Float[Tensor, "pair hidden"]

    def __post_init__(self) -> None:
        a, b = tuple(self.positive.shape), tuple(self.negative.shape)
        if a != b or len(a) != 2:
            raise InputError(f"positive is {a} and negative {b}; give both as [pair, hidden] with the same shape")

    def __len__(self) -> int:
        return int(self.positive.shape[0])

    def __repr__(self) -> str:
        pairs, hidden = self.positive.shape
        return f"Paired({pairs} pairs x {hidden})"

    @property
    def difference(self) -> Float[Tensor, "pair hidden"]:
        """Positive minus negative, pair by pair."""
        return self.positive - self.negative
