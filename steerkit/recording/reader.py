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
from steerkit.recording.reads import PlannedPair

TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""How far packed may be from plain, relative to the norm, by the model's precision."""


@dataclass(frozen=True)
class Feed:
    """What the model is fed, and which of its columns are read.

    Args:
        batch: The tokens.
        rows: For each side of each pair the row it lies in.
        columns: The columns read; where a side has fewer, one is repeated.
        weights: How much each column counts; 0 for repeated ones.
    """

    batch: Batch
    rows: Int[Tensor, " side"]
    columns: Int[Tensor, "side read"]
    weights: Float[Tensor, "side read"]

    @cached_property
    def single(self) -> bool:
        """One column a side."""
        return self.columns.shape[1] == 1

    def gather(self, hidden: Tensor) -> Tensor:
        """The activations read `[side, hidden]`."""
        rows, columns = self.rows.to(hidden.device), self.columns.to(hidden.device)
        if self.single:
            return hidden[rows, columns[:, 0]]
        weights = self.weights.to(hidden.device)
        return (hidden[rows[:, None], columns].float() * weights[..., None]).sum(1)


def feed_packed(pairs: Sequence[PlannedPair], *, pad_id: int) -> Feed:
    """One row a pair: what its sides share once, then the rest of both."""
    packed = pack(
        [pair.sides[0].ids[: pair.shared] for pair in pairs],
        [[side.ids[pair.shared :] for side in pair.sides] for pair in pairs],
        [min(side.prompt_length for side in pair.sides) for pair in pairs],
        pad_id=pad_id,
    )

    def column(side: int, index: int) -> int:
        return packed.column(side // 2, side % 2, index)

    return _feed(packed.batch, pairs, rows=[i // 2 for i in range(2 * len(pairs))], column=column)


def feed_plain(pairs: Sequence[PlannedPair], *, pad_id: int) -> Feed:
    """One row a side."""
    sides = [side for pair in pairs for side in pair.sides]
    batch = pad([side.ids for side in sides], [side.prompt_length for side in sides], pad_id=pad_id)
    width = batch.input_ids.shape[1]

    def column(side: int, index: int) -> int:
        return width - len(sides[side].ids) + index

    return _feed(batch, pairs, rows=list(range(len(sides))), column=column)


def _feed(batch: Batch, pairs: Sequence[PlannedPair], *, rows: list[int], column: Callable[[int, int], int]) -> Feed:
    sides = [side for pair in pairs for side in pair.sides]
    counts = [len(side.ids) - side.first for side in sides]
    columns = torch.empty(len(sides), max(counts), dtype=torch.long)
    weights = torch.zeros(len(sides), max(counts))
    for i, (side, count) in enumerate(zip(sides, counts, strict=True)):
        read = [column(i, index) for index in range(side.first, len(side.ids))]
        columns[i] = torch.tensor(read + read[-1:] * (max(counts) - count))
        weights[i, :count] = 1 / count
    return Feed(batch, torch.tensor(rows), columns, weights)


@dataclass
class Reader:
    """Reads a model at some layers and one site.

    Args:
        model: The model.
        layers: Sorted; the model stops after the last.
        site: Where in each block.
    """

    model: Any
    layers: Sequence[int]
    site: Site

    def read(self, pairs: Sequence[PlannedPair], *, packed: bool) -> Float[Tensor, "layer side hidden"]:
        """The activations of both sides of each pair, in turn, on the CPU."""
        feed = (feed_packed if packed else feed_plain)(pairs, pad_id=int(getattr(self.model, "pad_id", 0)))
        kept: dict[int, Tensor] = {}
        with ExitStack() as stack:
            for layer in self.layers:

                def keep(hidden: Tensor, _: Pass, layer: int = layer) -> None:
                    kept[layer] = feed.gather(hidden.detach())

                stack.enter_context(self.model.hook(Point(layer, self.site), keep))
            self.model.forward(feed.batch, until=self.layers[-1])
        return torch.stack([kept[layer].cpu() for layer in self.layers])

    def choose_path(self, pairs: Sequence[PlannedPair]) -> tuple[str, str]:
        """`"packed"` or `"plain"`, and why not packed: the longest pair is read in both ways and compared."""
        longest = max(pairs, key=lambda pair: pair.length)
        length = max(len(side.ids) for pair in pairs for side in pair.sides)
        if not can_pack(self.model.info, length=length):
            return "plain", f"{length} tokens are more than the attention window of {self.model.info.window}"
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
