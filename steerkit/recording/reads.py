"""Which token of each side is read: the rule, checked for every pair before anything is computed."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from steerkit.data.encoding import Encoded
from steerkit.data.letters import EncodedPair
from steerkit.data.pairs import ContrastPair, Pairs
from steerkit.errors import DataError, PositionError
from steerkit.store.index import Row

Read = Literal["letter", "last", "mean", "each"] | int
"""What is read of each side.

`"letter"` is the token with the multiple-choice letter (without letters: the first token that differs), `"last"` the
last token, `"mean"` the mean over the answer's tokens, `"each"` every token of the answer by itself (every token of the
text where neither side has an answer), an integer an index into the whole sequence (CAA takes -2).
"""
RULES = ("letter", "last", "mean", "each")
Spans = tuple[tuple[int, int], tuple[int, int]]
"""The tokens read of both sides: the first, and the one after the last."""


@dataclass(frozen=True)
class PlannedSide:
    """One side, cut after the last token that is read.

    Args:
        ids: The tokens to feed.
        first: The first token read; the last one read is the last of `ids`.
        prompt_length: Tokens of the prompt's template.
    """

    ids: array[int]
    first: int
    prompt_length: int


@dataclass(frozen=True)
class PlannedPair:
    """A pair as it will be fed.

    Args:
        id: Its name.
        sides: Positive and negative.
        shared: Tokens that both share from the start, at least one less than the shorter of them.
    """

    id: str
    sides: tuple[PlannedSide, PlannedSide]
    shared: int

    @property
    def length(self) -> int:
        """Tokens to compute when the shared ones are computed once."""
        return len(self.sides[0].ids) + len(self.sides[1].ids) - self.shared

    @property
    def counts(self) -> tuple[int, int]:
        """Tokens read of each side."""
        a, b = self.sides
        return len(a.ids) - a.first, len(b.ids) - b.first


def resolve_read(read: Read | None, pairs: Pairs) -> Read:
    """The rule meant: without one `"letter"` where every pair is a multiple choice, else `"last"`.

    Raises:
        PositionError: It is not a rule.
    """
    if read is None:
        return "letter" if all(pair.is_choice for pair in pairs) else "last"
    if isinstance(read, bool) or not isinstance(read, int | str) or (isinstance(read, str) and read not in RULES):
        raise PositionError(f"read={read!r} is not a rule; choose {', '.join(map(repr, RULES))}, or give an integer "
                            "that counts the tokens of the whole sequence (-2 as in CAA)")  # fmt: skip
    return read


def cut(side: Encoded, span: tuple[int, int]) -> PlannedSide:
    """A side without the tokens after the last one that is read."""
    return PlannedSide(array("i", side.ids[: span[1]]), span[0], min(side.prompt_length, span[1]))


def describe_row(pair_id: str, name: str, side: Encoded, span: tuple[int, int]) -> Row:
    """What the index says of a side, as far as its tokens go."""
    first, end = span
    position: Any = first if end == first + 1 else [first, end - 1]
    text = hashlib.sha256(side.text.encode()).hexdigest()[:16]
    return {"pair": pair_id, "side": name, "position": position, "text": text}


def find_reads(pair: ContrastPair, encoded: EncodedPair, *, read: Read, max_tokens: int | None = None) -> Spans:
    """The tokens read of each side, as first and end (excluded); with `max_tokens` no more than that of each.

    Raises:
        DataError: The rule finds no token.
        PositionError: An index lies outside the tokens.
    """
    sides: Sequence[Encoded] = (encoded.positive, encoded.negative)
    if read == "letter":
        return _letters(pair, encoded)
    if read == "each" and not pair.positive.answer and not pair.negative.answer:
        ends = [min(len(side.ids), max_tokens or len(side.ids)) for side in sides]
        return (0, ends[0]), (0, ends[1])
    if read in ("mean", "each"):
        spans = [(side.prompt_length, len(side.ids)) for side in sides]
        if any(first >= end for first, end in spans):
            raise DataError(f"pair {pair.id!r} has a side without answer tokens; read={read!r} reads the tokens of "
                            "the answer. Read 'last' instead, or give both sides an answer")  # fmt: skip
        ends = [min(end, first + max_tokens) if max_tokens else end for first, end in spans]
        return (spans[0][0], ends[0]), (spans[1][0], ends[1])
    found = [_one(pair, len(side.ids), -1 if read == "last" else read) for side in sides]
    return found[0], found[1]


def _one(pair: ContrastPair, length: int, read: Any) -> tuple[int, int]:
    at = read if read >= 0 else length + read
    if not 0 <= at < length:
        raise PositionError(f"read={read} is outside pair {pair.id!r}, which has a side of {length} tokens; valid are "
                            f"{-length} to {length - 1}")  # fmt: skip
    return at, at + 1


def _letters(pair: ContrastPair, encoded: EncodedPair) -> Spans:
    a, b = encoded.letter_positive, encoded.letter_negative
    if a is None or b is None:
        if pair.positive.prompt != pair.negative.prompt:
            raise DataError(f"pair {pair.id!r} differs in its prompt and its answers are no letters; read='letter' "
                            "reads where the answers part. Read 'last' or 'mean' instead")  # fmt: skip
        a = b = encoded.shared
        if encoded.shared >= min(len(encoded.positive.ids), len(encoded.negative.ids)):
            raise DataError(f"pair {pair.id!r}: one answer is the beginning of the other, so no token of it differs; "
                            "read 'last' or 'mean' instead")  # fmt: skip
    return (a, a + 1), (b, b + 1)
