"""Formats of contrast data: which keys tell them, and what reads an item. A new format is one row of the table."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from steerkit.data import caa, columns, preference_rows
from steerkit.data.pairs import ContrastPair
from steerkit.data.rows import Row
from steerkit.errors import DataError


@dataclass(frozen=True)
class Format:
    """A format of items.

    Args:
        keys: An item is of this format if it has all keys of one of these groups.
        read: Makes a pair of an item, or raises an `ItemError`.
    """

    keys: tuple[tuple[str, ...], ...]
    read: Callable[[Row], ContrastPair]


FORMATS = {
    "caa": Format(caa.KEYS, caa.read_question),
    "evals": Format(caa.KEYS[:1], caa.read_question),
    "preferences": Format(preference_rows.KEYS, preference_rows.read_preference),
    "pairs": Format(columns.KEYS, columns.read_columns),
}
"""All formats by name. CAA's files and Anthropic's evaluations have the same keys; the latter come as JSON lines."""


def detect(names: Collection[str], where: str, *, lines: bool) -> str:
    """The format that an item's keys tell.

    Args:
        names: The keys.
        where: What an error names.
        lines: The item comes from a file of JSON lines.

    Raises:
        DataError: The keys fit no format, or more than one.

    Example:
        >>> detect(["prompt", "chosen", "rejected"], "items", lines=False)
        'preferences'
    """
    fitting = [name for name, one in FORMATS.items() if any(set(keys) <= set(names) for keys in one.keys)]
    if "evals" in fitting and "caa" in fitting:
        fitting.remove("caa" if lines else "evals")
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise DataError(f"{where}: the fields fit the formats {' and '.join(fitting)}; choose one with format=")
    known = "\n".join(f"  {name}: " + " | ".join(", ".join(keys) for keys in one.keys) for name, one in FORMATS.items())
    raise DataError(f"{where}: the fields {', '.join(map(repr, names)) or '(none)'} fit no format. The formats and "
                    f"their fields (a CSV file names them in its first line):\n{known}")  # fmt: skip
