"""Pairs as tokens, some at a time: once to check them all, and again shard by shard, so that none are kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from steerkit.data.letters import EncodedPair, encode_pair
from steerkit.data.pairs import ContrastPair, Pairs
from steerkit.errors import DataError
from steerkit.recording.reads import PlannedPair, Read, Spans, cut, describe_row, find_reads
from steerkit.store.index import Row


@dataclass
class Planner:
    """Turns pairs into what is fed and read.

    Args:
        pairs: The pairs.
        tokenizer: The model's tokenizer.
        read: A rule.
        context: The most tokens that the model takes.
        max_tokens: The most tokens kept of a side where every token is read.
    """

    pairs: Pairs
    tokenizer: Any
    read: Read
    context: int | None
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        self.longest = 0
        """Number of the pair with the most tokens, once all rows were made."""
        self.longest_side = 0
        """Tokens of the longest side."""

    def between(self, first: int, end: int) -> list[PlannedPair]:
        """Some pairs as they will be fed, by number, the end excluded."""
        return [self._plan(self.pairs[i])[0] for i in range(first, end)]

    def rows(self) -> Iterator[Row]:
        """What each row of the store will be, two for each pair; whoever takes them all has checked every pair.

        Raises:
            DataError: A pair is too long, or the rule finds no token in it.
            PositionError: An index lies outside a pair's tokens.
        """

        @cache
        def show(token: int) -> str:
            return str(self.tokenizer.decode([token]))

        most = 0
        for number, pair in enumerate(self.pairs):
            planned, encoded, spans = self._plan(pair)
            if planned.length > most:
                most, self.longest = planned.length, number
            self.longest_side = max(self.longest_side, *(len(side.ids) for side in planned.sides))
            both = (encoded.positive, encoded.negative)
            letters = (pair.positive_letter, pair.negative_letter)
            for name, side, span, letter in zip(("positive", "negative"), both, spans, letters, strict=True):
                row = describe_row(pair.id, name, side, span)
                yield row | {"token": show(side.ids[span[1] - 1]), "letter": letter}

    def _plan(self, pair: ContrastPair) -> tuple[PlannedPair, EncodedPair, Spans]:
        encoded = encode_pair(pair, self.tokenizer, template=self.pairs.prompt_template)
        lengths = len(encoded.positive.ids), len(encoded.negative.ids)
        if self.context is not None and max(lengths) > self.context:
            raise DataError(f"pair {pair.id!r} has {lengths[0]} and {lengths[1]} tokens, "
                            f"the model's context is {self.context}; shorten it, or leave long pairs out with "
                            'pairs.fits(model.tokenizer, context, on_long="skip")')  # fmt: skip
        spans = find_reads(pair, encoded, read=self.read, max_tokens=self.max_tokens)
        both = (encoded.positive, encoded.negative)
        sides = [cut(side, span) for side, span in zip(both, spans, strict=True)]
        shared = min(encoded.shared, len(sides[0].ids) - 1, len(sides[1].ids) - 1)
        return PlannedPair(pair.id, (sides[0], sides[1]), shared), encoded, spans
