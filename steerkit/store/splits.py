"""Holding pairs out: by chance with a seed, in balance, and never the same text on both sides of the split."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

from steerkit.errors import InputError
from steerkit.store.index import PairRow


def hold_out(pairs: Iterable[PairRow], *, test: float | int, seed: int) -> set[int]:
    """Which pairs are held out.

    Args:
        pairs: What each pair is.
        test: A share of the pairs, or their number.
        seed: Of chance.

    Raises:
        InputError: One of the two parts would be empty.
    """
    letters: list[str | None] = []
    says: list[str] = []
    for pair in pairs:
        letters.append(pair.letter)
        says.append(" ".join(pair.texts) if all(pair.texts) else f"{pair.number}")
    count = _count(test, len(letters))
    held = stratified(letters, says, count, Random(seed))
    if not held:
        raise InputError(f"test={test!r} of {len(letters)} pairs: pairs with the same text stay together, and no such "
                         "group is small enough; hold out more")  # fmt: skip
    return set(held)


def _count(test: float | int, total: int) -> int:
    share = isinstance(test, float)
    valid = not isinstance(test, bool) and isinstance(test, int | float)
    if not valid or not (0 < test < 1 if share else 1 <= test < total) or total < 2:
        raise InputError(f"test={test!r} of {total} pairs is not valid; give a share between 0 and 1, or a number of "
                         "pairs, such that neither part is empty")  # fmt: skip
    return min(max(round(total * test), 1), total - 1) if share else int(test)


def stratified(letters: Sequence[str | None], contents: Sequence[str], count: int, rng: Random) -> list[int]:
    """Which pairs are held out: from each letter its share, and pairs that say the same stay together.

    Args:
        letters: The positive letter of each pair.
        contents: What each pair says, or a hash of it.
        count: How many are held out, all letters together; fewer where pairs that say the same do not fit in.
        rng: Where chance comes from.

    Example:
        >>> held = stratified(["A", "A", "B", "B"], ["0", "1", "2", "3"], 2, Random(0))
        >>> sorted("AABB"[i] for i in held)
        ['A', 'B']
    """
    groups: dict[str, dict[str, list[int]]] = {}
    for i, (letter, content) in enumerate(zip(letters, contents, strict=True)):
        groups.setdefault(letter or "", {}).setdefault(content, []).append(i)
    held: list[int] = []
    left: list[list[int]] = []
    for letter, room in _shares({name: sum(map(len, members.values())) for name, members in groups.items()}, count):
        units = list(groups[letter].values())
        rng.shuffle(units)
        left += _fill(held, units, len(held) + room)
    _fill(held, left, count)
    return sorted(held)


def _fill(held: list[int], units: Sequence[list[int]], size: int) -> list[list[int]]:
    """Put units into `held` until it has that size; gives back those that were not put in."""
    left = []
    for unit in units:
        if len(held) + len(unit) <= size:
            held += unit
        else:
            left.append(unit)
    return left


def _shares(sizes: dict[str, int], count: int) -> list[tuple[str, int]]:
    """How many of each letter, in proportion; the last ones by the largest remainder."""
    total = sum(sizes.values())
    take = {name: count * size // total for name, size in sizes.items()}
    rest = sorted(sizes, key=lambda name: (-(count * sizes[name] % total), name))
    for name in rest[: count - sum(take.values())]:
        take[name] += 1
    return sorted(take.items())
