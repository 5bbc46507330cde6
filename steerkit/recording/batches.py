"""Which pairs go through the model together: as many as a budget of tokens allows, of like length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steerkit.errors import InputError
from steerkit.recording.reads import PlannedPair

CPU_TOKENS = 4096
DEVICE_TOKENS = 16384
"""Padded tokens in one forward pass, unless something else is asked for. More of them only cost memory."""


@dataclass(frozen=True)
class Shape:
    """How large the batch is that some pairs make: its rows and the columns that each row has.

    Args:
        rows: Of the batch.
        head: Columns of the longest beginning (packed), or of the longest side.
        tail: Columns for each of the two endings of a packed row.
    """

    rows: int = 0
    head: int = 0
    tail: int = 0

    @classmethod
    def of(cls, pair: PlannedPair, *, packed: bool) -> Shape:
        """That of one pair alone."""
        lengths = [len(side.ids) for side in pair.sides]
        return cls(1, pair.shared, max(lengths) - pair.shared) if packed else cls(2, max(lengths), 0)

    def with_(self, other: Shape) -> Shape:
        """That of both together."""
        return Shape(self.rows + other.rows, max(self.head, other.head), max(self.tail, other.tail))

    @property
    def tokens(self) -> int:
        """Rows times columns, padding counted."""
        return self.rows * (self.head + 2 * self.tail)


def bucket(pairs: Sequence[PlannedPair], *, tokens: int, most: int | None, packed: bool) -> list[list[int]]:
    """Batches of pairs, by number, longest first: a batch that is too large for the memory is met at once.

    Which pairs share a batch depends on nothing but these arguments, so a shard that is computed again is the same.

    Args:
        pairs: Those of one shard.
        tokens: The most of a batch, padding counted. A pair that is longer by itself makes a batch of its own.
        most: The most pairs of a batch.
        packed: One row a pair, else two.
    """
    shapes = [Shape.of(pair, packed=packed) for pair in pairs]
    batches: list[list[int]] = []
    whole = Shape()
    for i in sorted(range(len(pairs)), key=lambda i: (-shapes[i].tokens, i)):
        grown = whole.with_(shapes[i])
        if not batches or grown.tokens > tokens or len(batches[-1]) == most:
            batches.append([])
            grown = shapes[i]
        batches[-1].append(i)
        whole = grown
    return batches


def padded_tokens(pairs: Sequence[PlannedPair], *, packed: bool) -> int:
    """Tokens of the batch that some pairs make, padding counted."""
    shape = Shape()
    for pair in pairs:
        shape = shape.with_(Shape.of(pair, packed=packed))
    return shape.tokens


def resolve_budget(batch_tokens: int | None, batch_size: int | None, *, device: str) -> int:
    """The budget meant.

    Raises:
        InputError: One of the two is not an integer of at least 1.
    """
    check_count("batch_tokens", batch_tokens)
    check_count("batch_size", batch_size)
    if batch_tokens is not None:
        return batch_tokens
    return CPU_TOKENS if device.startswith("cpu") else DEVICE_TOKENS


def check_count(name: str, value: int | None) -> None:
    """Refuse what is given and not a count.

    Raises:
        InputError: It is not an integer of at least 1.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise InputError(f"{name}={value!r} is not valid; give an integer of at least 1")
