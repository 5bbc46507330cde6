"""A batch of pairs through the model: only the layers asked for, only the tokens read, no logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerkit.backends.base import Batch, pad
from steerkit.errors import SteerkitError
from steerkit.packing import can_pack, pack
from steerkit.points import Point, Site
from steerkit.positions import Pass
from steerkit.recording.memory import refuse_if_too_large
from steerkit.recording.reads import PlannedPair

TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""How far packed may be from plain, relative to the norm, by the model's precision."""


@dataclass(frozen=True)
class Feed:
    """What the model is fed, and which of its columns are read.

    Args:
        batch: The tokens.
        rows: The row of each token read, side by side.
        columns: Its column.
        sides: Tokens read of each side, where they are averaged; `None` where each is kept.
    """

    batch: Batch
    rows: Int[Tensor, " token"]
    columns: Int[Tensor, " token"]
    sides: tuple[int, ...] | None

    def gather(self, hidden: Tensor) -> Tensor:
        """The activations read: one row a token, or one a side."""
        if self.sides is None:
            return hidden[self.rows.to(hidden.device), self.columns.to(hidden.device)]
        place, weights = (one.to(hidden.device) for one in self._padded)
        rows, columns = self.rows.to(hidden.device)[place], self.columns.to(hidden.device)[place]
        return (hidden[rows, columns].float() * weights[..., None]).sum(1)

    @cached_property
    def _padded(self) -> tuple[Tensor, Tensor]:
        """For each side which of the tokens are its own, the last one repeated with no weight."""
        assert self.sides is not None
        counts = torch.tensor(self.sides)
        ends = counts.cumsum(0)
        steps = torch.arange(int(counts.max())).expand(len(counts), -1)
        place = torch.minimum((ends - counts)[:, None] + steps, ends[:, None] - 1)
        return place, (steps < counts[:, None]).float() / counts[:, None]


def feed_packed(pairs: Sequence[PlannedPair], *, pad_id: int, average: bool = False) -> Feed:
    """One row a pair: what its sides share once, then the rest of both."""
    packed = pack(
        [pair.sides[0].ids[: pair.shared] for pair in pairs],
        [[side.ids[pair.shared :] for side in pair.sides] for pair in pairs],
        [min(side.prompt_length for side in pair.sides) for pair in pairs],
        pad_id=pad_id,
    )

    def column(side: int, index: int) -> int:
        return packed.column(side // 2, side % 2, index)

    return _feed(packed.batch, pairs, column, sides_a_row=2, average=average)


def feed_plain(pairs: Sequence[PlannedPair], *, pad_id: int, average: bool = False) -> Feed:
    """One row a side."""
    sides = [side for pair in pairs for side in pair.sides]
    batch = pad([side.ids for side in sides], [side.prompt_length for side in sides], pad_id=pad_id)
    width = batch.input_ids.shape[1]

    def column(side: int, index: int) -> int:
        return width - len(sides[side].ids) + index

    return _feed(batch, pairs, column, sides_a_row=1, average=average)


def _feed(
    batch: Batch, pairs: Sequence[PlannedPair], column: Callable[[int, int], int], *, sides_a_row: int, average: bool
) -> Feed:
    rows: list[int] = []
    columns: list[int] = []
    counts = [count for pair in pairs for count in pair.counts]
    sides = [side for pair in pairs for side in pair.sides]
    for i, (side, count) in enumerate(zip(sides, counts, strict=True)):
        rows += [i // sides_a_row] * count
        columns += [column(i, index) for index in range(side.first, len(side.ids))]
    return Feed(batch, torch.tensor(rows), torch.tensor(columns), tuple(counts) if average else None)


@dataclass
class Reader:
    """Reads a model at some layers and one site.

    Args:
        model: The model.
        layers: Sorted; the model stops after the last.
        site: Where in each block.
        average: One row a side, the mean of the tokens read, instead of one a token.
    """

    model: Any
    layers: Sequence[int]
    site: Site
    average: bool = False

    def read(self, pairs: Sequence[PlannedPair], *, packed: bool) -> Float[Tensor, "layer row hidden"]:
        """The activations of both sides of each pair, in turn, on the CPU."""
        make = feed_packed if packed else feed_plain
        feed = make(pairs, pad_id=int(getattr(self.model, "pad_id", 0)), average=self.average)
        kept: dict[int, Tensor] = {}
        with ExitStack() as stack:
            for layer in self.layers:

                def keep(hidden: Tensor, _: Pass, layer: int = layer) -> None:
                    kept[layer] = feed.gather(hidden.detach())

                stack.enter_context(self.model.hook(Point(layer, self.site), keep))
            self.model.forward(feed.batch, until=self.layers[-1])
        return torch.stack([kept[layer].cpu() for layer in self.layers])

    def choose_path(self, longest: PlannedPair, *, length: int) -> tuple[str, str]:
        """`"packed"` or `"plain"`, and why not packed: one pair is read in both ways and compared.

        Args:
            longest: The pair.
            length: Tokens of the longest side of all pairs.

        Raises:
            ModelError: The pair does not fit in memory.
        """
        if not self.model.info.packs:
            return "plain", f"{self.model.info.architecture} takes no mask of its own"
        if not can_pack(self.model.info, length=length):
            return "plain", f"{length} tokens are more than the attention window of {self.model.info.window}"
        with refuse_if_too_large(longest):
            plain = self.read([longest], packed=False).float()
        try:
            packed = self.read([longest], packed=True).float()
        except SteerkitError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
            return "plain", f"the model refuses a packed batch: {type(error).__name__}: {error}"[:300]
        off = float(((packed - plain).norm(dim=-1) / plain.norm(dim=-1).clamp(min=1e-6)).max())
        if off <= TOLERANCE.get(self.model.info.dtype, 1e-1):
            return "packed", ""
        return "plain", f"packed differs from plain by {off:.2g} of the norm"
