"""A store of several tokens a row, seen as one with a single row a side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from steerkit.errors import StoreError
from steerkit.store.rows import Block, Numbers, Rows
from steerkit.store.storage import Folder

Pool = Literal["mean", "last"]
POOLS = ("mean", "last")


class PooledRows:
    """The mean or the last of each row's tokens, made while they are read."""

    def __init__(self, rows: Rows, how: Pool) -> None:
        self.folders: tuple[Folder, ...] = rows.folders
        self._rows, self._how = rows, how

    def blocks(self, layer: int, pairs: Numbers | None) -> Iterator[Block]:
        """The rows of some pairs."""
        for block in self._rows.blocks(layer, pairs):
            assert block.offsets is not None
            yield Block(block.places, pool(block.rows, block.offsets, self._how))


def pool(values: Tensor, offsets: Tensor, how: Pool) -> Tensor:
    """One row out of the tokens of each.

    Args:
        values: Tokens `[token, hidden]`.
        offsets: Where each row's begin.
        how: `"mean"` (in float32) or `"last"`.

    Raises:
        StoreError: A row has no token.

    Example:
        >>> pool(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([0, 1, 3]), "mean").tolist()
        [[1.0], [3.0]]
    """
    lengths = offsets.diff()
    if bool((lengths < 1).any()):
        raise StoreError(f"row {int((lengths < 1).nonzero()[0])} of a shard has no token, so there is nothing to pool; "
                         "record again")  # fmt: skip
    if how == "last":
        return values[offsets[1:] - 1]
    rows = torch.arange(len(lengths)).repeat_interleave(lengths)
    total = torch.zeros(len(lengths), values.shape[1]).index_add_(0, rows, values.float())
    return total / lengths[:, None]
