"""Seeing which token is read, before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from steerkit.backends.base import Model
from steerkit.data.encoding import Encoded
from steerkit.data.letters import encode_pair
from steerkit.data.pairs import ContrastPair, Pairs
from steerkit.errors import InputError
from steerkit.recording.reads import Read, find_reads, resolve_read

AROUND = 240
"""Characters of text shown before what is read, in a terminal."""


@dataclass(frozen=True)
class Shown:
    """One side of a pair: the text before what is read, what is read, and the text after it."""

    pair: str
    side: str
    before: str
    read: str
    after: str
    position: tuple[int, int]


@dataclass(frozen=True, repr=False)
class Preview:
    """What a read rule reads: in a terminal between ⟦ and ⟧, in Jupyter coloured.

    Args:
        rule: The rule.
        shown: The sides of some pairs.
    """

    rule: Read
    shown: Sequence[Shown]

    def __repr__(self) -> str:
        lines = [f"read={self.rule!r}"]
        for one in self.shown:
            before = one.before if len(one.before) <= AROUND else "... " + one.before[-AROUND:]
            lines.append(f"pair {one.pair}, {one.side}, {_place(one)}:")
            lines.append(f"    {before}⟦{one.read}⟧{one.after}".replace("\n", "\n    "))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        mark = "background:#2a78d6;color:#fff;border-radius:3px;padding:0 2px"
        parts = [
            f"<p><b>pair {escape(one.pair)}, {one.side}</b>, {_place(one)}</p><pre style='white-space:pre-wrap'>"
            f"{escape(one.before)}<span style='{mark}'>{escape(one.read)}</span>{escape(one.after)}</pre>"
            for one in self.shown
        ]
        return f"<div class='steerkit'><p>read={escape(repr(self.rule))}</p>{''.join(parts)}</div>"


def _place(one: Shown) -> str:
    first, end = one.position
    return f"token {first}" if end == first + 1 else f"tokens {first} to {end - 1}"


def preview_reads(
    model: Model, pairs: Pairs | Sequence[ContrastPair], *, read: Read | None = None, count: int = 3
) -> Preview:
    """The text that `record` would feed, with the token marked that it would read. Nothing is computed.

    Args:
        model: A model; its tokenizer is used.
        pairs: The pairs.
        read: As in `record`.
        count: How many pairs are shown, at least 1.

    Raises:
        InputError: `count` is not valid.
        DataError: The rule finds no token in a pair.
        PositionError: `read` is not a rule, or an index lies outside a pair.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InputError(f"count={count!r} is not valid; give an integer of at least 1")
    given = pairs if isinstance(pairs, Pairs) else Pairs(list(pairs))
    rule = resolve_read(read, given)
    shown = []
    for pair in given[:count]:
        encoded = encode_pair(pair, model.tokenizer, template=given.prompt_template)
        spans = find_reads(pair, encoded, read=rule)
        for name, side, span in zip(("positive", "negative"), (encoded.positive, encoded.negative), spans, strict=True):
            pieces = _pieces(side, model.tokenizer)
            cut = ["".join(part) for part in (pieces[: span[0]], pieces[slice(*span)], pieces[span[1] :])]
            shown.append(Shown(pair.id, name, cut[0], cut[1], cut[2], span))
    return Preview(rule, tuple(shown))


def _pieces(side: Encoded, tokenizer: Any) -> list[str]:
    """The text of each token; by offsets, so that nothing is lost between them."""
    if not side.starts:
        return [str(tokenizer.decode([token])) for token in side.ids]
    pieces: list[str] = []
    following = len(side.text)
    for token, start in zip(reversed(side.ids), reversed(side.starts), strict=True):
        if start < 0:
            pieces.append(str(tokenizer.decode([token])))
        else:
            pieces.append(side.text[start:following])
            following = start
    return pieces[::-1]
