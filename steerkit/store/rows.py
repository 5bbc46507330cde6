"""Where a store's rows come from: one seam for files, memory, several stores and pooled ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from steerkit.store.paired import Paired
from steerkit.store.ragged import Ragged, RaggedPaired, offsets_of, take_rows
from steerkit.store.storage import Folder
from steerkit.store.workers import Span

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Block:
    """Some pairs of one layer, as they lie together.

    Args:
        places: Which of the pairs that were asked for these are.
        rows: Both sides of each, one below the other `[2 * pair, hidden]`; or their tokens `[token, hidden]`.
        offsets: Where the tokens of each row begin; `None` where a row is one token.
    """

    places: Numbers
    rows: Tensor
    offsets: Tensor | None = None


@runtime_checkable
class Rows(Protocol):
    """Rows of some pairs at some layers."""

    folders: tuple[Folder, ...]

    def blocks(self, layer: int, pairs: Numbers | None) -> Iterator[Block]:
        """The rows of some pairs, or of all, in the stored dtype; a block at a time, in any order."""
        ...


class Sharded(ABC):
    """Rows that lie in shards."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self._spans = list(spans)
        self._edges = np.array([end // 2 for _, end in self._spans], dtype=np.int64)

    def blocks(self, layer: int, pairs: Numbers | None) -> Iterator[Block]:
        """The rows of some pairs, shard by shard; of the other shards nothing is read."""
        if pairs is None:
            for span, (rows, offsets) in zip(self._spans, self.whole(layer), strict=True):
                yield Block(np.arange(span[0] // 2, span[1] // 2), rows, offsets)
            return
        order = np.argsort(pairs, kind="stable")
        homes = np.searchsorted(self._edges, pairs[order], side="right")
        for home in np.unique(homes):
            places = order[homes == home]
            local = pairs[places] - self._spans[home][0] // 2
            both = np.stack([2 * local, 2 * local + 1], axis=1).reshape(-1)
            yield Block(places, *self.some(self._spans[home], layer, both))

    @abstractmethod
    def whole(self, layer: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """One layer of every shard, in order."""

    @abstractmethod
    def some(self, span: Span, layer: int, rows: Numbers) -> tuple[Tensor, Tensor | None]:
        """Some rows of a shard, counted from its first."""


def collect(rows: Rows, layer: int, pairs: Numbers | None) -> tuple[Tensor, Tensor | None]:
    """The rows of some pairs in the order asked for, both sides one below the other, in the stored dtype.

    With several tokens a row the offsets come with them.
    """
    blocks = list(rows.blocks(layer, pairs))
    together = torch.cat([block.rows for block in blocks])
    order = torch.from_numpy(np.argsort(np.concatenate([block.places for block in blocks]), kind="stable"))
    picked = torch.stack([2 * order, 2 * order + 1], dim=1).flatten()
    if blocks[0].offsets is None:
        return together[picked], None
    lengths = torch.cat([block.offsets.diff() for block in blocks if block.offsets is not None])
    return take_rows(together, offsets_of(lengths), picked)


def gather_pairs(rows: Rows, layer: int, pairs: Numbers | None, *, count: int, hidden: int) -> Paired:
    """Both sides of some pairs in float32, in the order asked for; beside them only one block is in memory."""
    positive, negative = torch.empty(count, hidden), torch.empty(count, hidden)
    for block in rows.blocks(layer, pairs):
        places = torch.from_numpy(block.places)
        both = block.rows.reshape(-1, 2, hidden)
        positive[places], negative[places] = both[:, 0].float(), both[:, 1].float()
    return Paired(positive, negative)


def gather_ragged(rows: Rows, layer: int, pairs: Numbers | None, *, hidden: int) -> RaggedPaired:
    """All tokens of both sides of some pairs in float32, in the order asked for."""
    values, offsets = collect(rows, layer, pairs) if pairs is None or len(pairs) else (torch.empty(0, hidden), None)
    offsets = torch.zeros(1, dtype=torch.long) if offsets is None else offsets
    sides = [take_rows(values, offsets, torch.arange(len(offsets) - 1)[side::2]) for side in (0, 1)]
    return RaggedPaired(Ragged(sides[0][0].float(), sides[0][1]), Ragged(sides[1][0].float(), sides[1][1]))
