"""Computing one shard: in batches of like length, smaller ones when memory runs out, and only if all is finite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steerkit.errors import InputError, ModelError
from steerkit.recording.batches import bucket, padded_tokens
from steerkit.recording.memory import empty_cache, is_out_of_memory, refuse_if_too_large
from steerkit.recording.progress import Progress
from steerkit.recording.reader import Reader
from steerkit.recording.reads import PlannedPair
from steerkit.store.shards import DTYPES


@dataclass(frozen=True)
class Bad:
    """A row that is not finite as it would be stored.

    Args:
        row: Its number in the shard.
        layer: The first layer where it is so.
        largest: Of the values as computed; `None` where these are not finite themselves.
    """

    row: int
    layer: int
    largest: float | None


@dataclass
class ShardRunner:
    """Computes shards.

    Args:
        reader: Reads the model.
        packed: Which of its ways is taken.
        tokens: The most tokens of a batch, padding counted; halved when memory runs out.
        most: The most pairs of a batch.
        dtype: What is stored.
        progress: Told what is done.
    """

    reader: Reader
    packed: bool
    tokens: int
    most: int | None
    dtype: str
    progress: Progress
    halvings: int = field(default=0, init=False)

    def shard(self, pairs: Sequence[PlannedPair]) -> tuple[dict[int, Tensor], Tensor]:
        """The rows of some pairs in their order by layer, and where those of each side begin (and the last ones end).

        Raises:
            ModelError: The activations are NaN or infinite, or a pair does not fit in memory.
            InputError: They are too large for the dtype.
        """
        counts = [1 if self.reader.average else count for pair in pairs for count in pair.counts]
        offsets = torch.tensor([0, *counts]).cumsum(0)
        layers = self.reader.layers
        size = self.reader.model.info.width(self.reader.site)
        rows = torch.empty(len(layers), int(offsets[-1]), size, dtype=DTYPES[self.dtype])
        bad: list[Bad] = []
        for numbers, values in self._batches(pairs):
            sides = [2 * i + side for i in numbers for side in (0, 1)]
            place = torch.cat([torch.arange(int(offsets[i]), int(offsets[i + 1])) for i in sides])
            stored = values.to(rows.dtype)
            bad += self._find_bad(stored, values, torch.tensor(sides).repeat_interleave(torch.tensor(counts)[sides]))
            rows[:, place] = stored
            self.progress(len(numbers))
        if bad:
            self._refuse(bad, pairs, len(counts))
        return {layer: rows[i] for i, layer in enumerate(layers)}, offsets

    def _batches(self, pairs: Sequence[PlannedPair]) -> Iterator[tuple[list[int], Tensor]]:
        """The numbers of some pairs with what was read of them."""
        left = self._split(pairs, range(len(pairs)))
        while left:
            numbers = left[0]
            values = self._try([pairs[i] for i in numbers])
            if values is None:
                left = self._split(pairs, [i for batch in left for i in batch])
            else:
                yield numbers, values
                left = left[1:]

    def _split(self, pairs: Sequence[PlannedPair], numbers: Sequence[int]) -> list[list[int]]:
        some = [pairs[i] for i in numbers]
        batches = bucket(some, tokens=self.tokens, most=self.most, packed=self.packed)
        return [[numbers[i] for i in batch] for batch in batches]

    def _try(self, pairs: Sequence[PlannedPair]) -> Tensor | None:
        """What is read of a batch, or `None` where it was too large and smaller ones are to be tried."""
        if len(pairs) == 1:
            with refuse_if_too_large(pairs[0]):
                return self.reader.read(pairs, packed=self.packed)
        try:
            return self.reader.read(pairs, packed=self.packed)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        tried = padded_tokens(pairs, packed=self.packed)
        self.tokens = max(min(self.tokens, tried) // 2, 1)
        self.halvings += 1
        empty_cache(self.reader.model.info.device)
        self.progress.say(f"out of memory with {len(pairs)} pairs in a batch ({tried} tokens with padding); "
                          f"going on with batch_tokens={self.tokens}")  # fmt: skip
        return None

    def _find_bad(self, stored: Tensor, values: Tensor, side: Tensor) -> list[Bad]:
        finite = torch.isfinite(stored)
        if bool(finite.all()):
            return []
        wrong = ~finite.all(-1)
        found: dict[int, Bad] = {}
        for at in wrong.any(0).nonzero().flatten().tolist():
            layer = int(wrong[:, at].nonzero()[0])
            given = values[layer, at]
            largest = float(given.abs().max()) if bool(torch.isfinite(given).all()) else None
            found.setdefault(int(side[at]), Bad(int(side[at]), self.reader.layers[layer], largest))
        return list(found.values())

    def _refuse(self, bad: Sequence[Bad], pairs: Sequence[PlannedPair], sides: int) -> None:
        first = min(bad, key=lambda one: one.row)
        where = (
            f"layer {first.layer} of pair {pairs[first.row // 2].id!r}, {('positive', 'negative')[first.row % 2]} side"
        )
        count = f"{len(bad)} of {sides} rows of a shard cannot be stored, and nothing of it is. The first is {where}"
        if first.largest is not None:
            raise InputError(f"{count}: {first.largest:.3g} is too large for dtype={self.dtype!r}; use 'bfloat16' or "
                             "'float32'")  # fmt: skip
        raise ModelError(f"{count}: the activations are NaN or infinite. Load the model in 'bfloat16' or 'float32', or "
                         "leave the pairs out")  # fmt: skip
