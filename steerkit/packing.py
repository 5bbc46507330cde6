"""Many continuations of one prefix in one forward pass.

With a causal model nothing that comes before two continuations part depends on which of them follows. So a row holds
the prefix once and then every continuation (a tail) beside the others, under a mask that lets a tail see the prefix and
itself, at the positions it would have alone:

```
columns    prefix 0..P-1 | tail 0 | tail 1 | ...
position   0 .. n-1      | n ..   | n ..   | ...
sees       causal        | prefix and itself, causal
```

Where a tail differs from another only from some layer on, it can join the row there; see `Batch.joining`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from steerkit.backends.base import Batch, ModelInfo
from steerkit.errors import DataError


@dataclass(frozen=True)
class Packed:
    """Prefixes and their tails, laid out for one forward pass.

    Args:
        batch: What the model is fed.
        prefix_lengths: Tokens of each row's prefix.
        prefix_width: Columns kept for prefixes.
        tail_width: Columns kept for each tail.
        tails: Tails a row.
    """

    batch: Batch
    prefix_lengths: tuple[int, ...]
    prefix_width: int
    tail_width: int
    tails: int

    def tail_columns(self, tail: int) -> range:
        """The columns kept for a tail, in every row alike."""
        first = self.prefix_width + tail * self.tail_width
        return range(first, first + self.tail_width)

    def column(self, row: int, tail: int, index: int) -> int:
        """The column that holds token `index` of a row's prefix followed by a tail."""
        length = self.prefix_lengths[row]
        return index if index < length else self.tail_columns(tail)[index - length]

    @property
    def tail_of_column(self) -> Int[Tensor, " pos"]:
        """By column the tail it belongs to; -1 for the prefix."""
        return _tail_of_column(self.prefix_width, self.tail_width, self.tails)


def pack(
    prefixes: Sequence[Sequence[int]],
    tails: Sequence[Sequence[Sequence[int]]],
    prompt_lengths: Sequence[int],
    *,
    pad_id: int,
) -> Packed:
    """Lay prefixes and tails out in rows; shorter ones are padded on the right.

    Args:
        prefixes: The tokens each row's tails share; may be empty.
        tails: For each row its tails, each at least one token; every row has equally many.
        prompt_lengths: Tokens of each row's prompt template.
        pad_id: What fills the rest; it is masked.

    Raises:
        DataError: No rows, no tails, an empty tail, or rows with unequal numbers of tails.

    Example:
        >>> packed = pack([[5, 6]], [[[7], [8, 9]]], [2], pad_id=0)
        >>> packed.batch.input_ids.tolist(), packed.batch.position.tolist()
        ([[5, 6, 7, 0, 8, 9]], [[0, 1, 2, -1, 2, 3]])
    """
    counts = {len(row) for row in tails}
    if len(prefixes) == 0 or len(prefixes) != len(tails) or len(counts) != 1 or 0 in counts:
        raise DataError(f"{len(prefixes)} prefixes with tails {sorted(counts)}; every row needs equally many tails")
    if any(len(tail) == 0 for row in tails for tail in row):
        raise DataError("an empty tail; a continuation holds at least one token")
    number = counts.pop()
    prefix_width = max(len(prefix) for prefix in prefixes)
    tail_width = max(len(tail) for row in tails for tail in row)
    ids, position = [], []
    for prefix, row in zip(prefixes, tails, strict=True):
        parts = [_filled(prefix, 0, prefix_width, pad_id), *(_filled(t, len(prefix), tail_width, pad_id) for t in row)]
        ids.append([token for tokens, _ in parts for token in tokens])
        position.append([at for _, places in parts for at in places])
    placed = torch.tensor(position)
    mask = _mask(placed, _tail_of_column(prefix_width, tail_width, number))
    batch = Batch(torch.tensor(ids), placed, torch.tensor(list(prompt_lengths), dtype=torch.long), mask)
    return Packed(batch, tuple(len(prefix) for prefix in prefixes), prefix_width, tail_width, number)


def _filled(tokens: Sequence[int], start: int, width: int, pad_id: int) -> tuple[list[int], list[int]]:
    """Tokens and their positions, filled up to a width."""
    rest = width - len(tokens)
    return [*tokens, *[pad_id] * rest], [*range(start, start + len(tokens)), *[-1] * rest]


def _tail_of_column(prefix_width: int, tail_width: int, tails: int) -> Int[Tensor, " pos"]:
    own = torch.arange(tails).repeat_interleave(tail_width)
    return torch.cat([torch.full((prefix_width,), -1), own])


def _mask(position: Int[Tensor, "batch pos"], tail: Int[Tensor, " pos"]) -> Bool[Tensor, "batch pos pos"]:
    """Who sees whom; padding sees only itself, so that no row of the attention is empty."""
    family = (tail.unsqueeze(0) == -1) | (tail.unsqueeze(0) == tail.unsqueeze(1))
    before = position.unsqueeze(1) <= position.unsqueeze(2)
    real = (position >= 0).unsqueeze(1)
    itself = torch.eye(position.shape[1], dtype=torch.bool)
    return (family & before & real) | itself


def can_pack(info: ModelInfo, *, length: int) -> bool:
    """Whether a model's attention takes such a mask for texts of this length.

    A sliding window that is shorter than the text hides tokens that the mask would show, and some architectures (state
    space, ALiBi) take no such mask at all. Whether the rest of the model
    keeps to the mask is checked where packing is used, by running one item both ways.

    Args:
        info: The model.
        length: Tokens of the longest prefix with a tail.
    """
    return info.packs and (info.window is None or length <= info.window)
