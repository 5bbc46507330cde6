"""From the items of a source to pairs: read each, refuse or count the bad ones, keep each once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from steerkit.data.pairs import ContrastPair, check_choice, pair_key, prompt_text
from steerkit.data.rows import ItemError, Row
from steerkit.data.sources import Source, open_source

ON_BAD = ("raise", "skip")
_PAIR = "pair"


def open_items(source: Any, *, split: str | None) -> Source:
    """The items of a source; a list of `ContrastPair` is one too.

    Raises:
        DataError: The source cannot be read.
    """
    if isinstance(source, Sequence) and source and all(isinstance(one, ContrastPair) for one in source):
        rows = [Row({_PAIR: pair}, i, f"item {i} of the list") for i, pair in enumerate(source)]
        return Source("list", "a list", rows, given=True)
    return open_source(source, split=split)


def given_pair(row: Row) -> ContrastPair:
    """The pair that an item is already.

    Raises:
        ItemError: It is none.
    """
    pair = row.value(_PAIR)
    if not isinstance(pair, ContrastPair):
        raise row.bad(f"{pair!r:.60} is not a ContrastPair", "not a pair")
    return pair


def collect(
    found: Source, read: Callable[[Row], ContrastPair], *, on_bad: str
) -> tuple[list[ContrastPair], dict[str, int]]:
    """All pairs that can be used, each once, and how many items were left out for which reason.

    Args:
        found: The items.
        read: Makes a pair of an item, or raises an `ItemError`.
        on_bad: `"raise"` refuses the source at its first bad item; `"skip"` leaves bad items out and counts them.

    Raises:
        DataError: An item is bad, its sides are the same, it repeats another, or `on_bad` is another word.
    """
    check_choice("on_bad", on_bad, ON_BAD)
    pairs: list[ContrastPair] = []
    skipped: Counter[str] = Counter()
    seen: dict[str, str] = {}
    for row in found.rows:
        try:
            pairs.append(_pair(row, read, seen))
        except ItemError as error:
            if on_bad == "raise":
                raise ItemError(f'{error}; or leave bad items out with on_bad="skip"', error.reason) from None
            skipped[error.reason] += 1
    return pairs, dict(skipped)


def _pair(row: Row | ItemError, read: Callable[[Row], ContrastPair], seen: dict[str, str]) -> ContrastPair:
    if isinstance(row, ItemError):
        raise row
    pair = read(row)
    check_sides(row, pair)
    key = pair_key(pair)
    if key in seen:
        raise row.bad(f"repeats {seen[key]}; a pair counts once", "duplicate")
    seen[key] = row.where
    return pair


def check_sides(row: Row, pair: ContrastPair) -> None:
    """Refuse a pair that is no contrast.

    Raises:
        ItemError: Both sides are the same.
    """
    one, other = pair.positive, pair.negative
    if one.prompt == other.prompt and one.answer.strip() == other.answer.strip():
        raise row.bad(f"both sides are the same ({one.answer or prompt_text(one.prompt)!r:.60}); a pair must differ in "
                      "its prompt or its answer", "identical sides")  # fmt: skip
