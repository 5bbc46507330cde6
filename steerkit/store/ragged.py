"""Several tokens a row: values one after the other, and where each row's begin."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from steerkit.errors import InputError


@dataclass(frozen=True, eq=False)
class Ragged:
    """Rows of several tokens each: row `i` is `values[offsets[i]:offsets[i + 1]]`.

    Args:
        values: The tokens of all rows, one row after the other.
        offsets: Where each row begins, and where the last one ends.

    Raises:
        InputError: The offsets do not go from 0 to the number of tokens without going back.

    Example:
        >>> ragged = Ragged(torch.arange(6.0).reshape(3, 2), torch.tensor([0, 1, 3]))
        >>> len(ragged), ragged[1].tolist()
        (2, [[2.0, 3.0], [4.0, 5.0]])
    """

    values: Float[Tensor, "token hidden"]
    offsets: Int64[Tensor, " edge"]

    def __post_init__(self) -> None:
        edges = self.offsets
        if edges.ndim != 1 or len(edges) == 0 or int(edges[0]) != 0 or int(edges[-1]) != len(self.values) or bool(
            (edges.diff() < 0).any()
        ):  # fmt: skip
            raise InputError(f"offsets must rise from 0 to the number of tokens, {len(self.values)}")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> Float[Tensor, "token hidden"]:
        """The tokens of one row."""
        at = range(len(self))[row]
        return self.values[int(self.offsets[at]) : int(self.offsets[at + 1])]

    def __repr__(self) -> str:
        return f"Ragged({len(self)} rows, {self.values.shape[0]} tokens x {self.values.shape[1]})"

    @property
    def lengths(self) -> Int64[Tensor, " row"]:
        """Tokens of each row."""
        return self.offsets.diff()


@dataclass(frozen=True, eq=False)
class RaggedPaired:
    """Several tokens of both sides at one layer; row `i` of each belongs to pair `i`.

    Args:
        positive: One row a pair; as many tokens as were read.
        negative: Likewise; the two sides of a pair may differ in length.
    """

    positive: Ragged
    negative: Ragged

    def __len__(self) -> int:
        return len(self.positive)

    def __repr__(self) -> str:
        return f"RaggedPaired({len(self)} pairs: {self.positive!r}, {self.negative!r})"


def take_rows(values: Tensor, offsets: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Some rows of ragged ones, in the order asked for, with their own offsets.

    Example:
        >>> values, offsets = take_rows(torch.arange(3.0), torch.tensor([0, 1, 3]), torch.tensor([1, 0]))
        >>> values.tolist(), offsets.tolist()
        ([1.0, 2.0, 0.0], [0, 2, 3])
    """
    tokens, fresh = token_numbers(offsets, rows)
    return values[tokens], fresh


def token_numbers(offsets: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Which tokens some rows have, and the offsets of the rows among those."""
    lengths = offsets.diff()[rows]
    fresh = offsets_of(lengths)
    shift = (offsets[:-1][rows] - fresh[:-1]).repeat_interleave(lengths)
    return torch.arange(int(fresh[-1])) + shift, fresh


def offsets_of(lengths: Tensor) -> Tensor:
    """Where rows of these lengths begin, and where the last one ends.

    Example:
        >>> offsets_of(torch.tensor([2, 3])).tolist()
        [0, 2, 5]
    """
    return torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
