"""What each row of a store is: one line of JSON a row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steerkit.errors import StoreError

NAME = "index.jsonl"

Row = dict[str, Any]
"""`pair` (its id), `side`, `position` (of the token read, or first and last), `token`, `letter`, `text` (a hash)."""


def format_index(rows: Sequence[Row]) -> str:
    """The rows as lines of JSON."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_index(folder: Path, *, rows: int) -> list[Row]:
    """The rows of a store on disk.

    Raises:
        StoreError: It is missing, damaged, or has another number of rows.
    """
    path = folder / NAME
    again = "run the same record again with overwrite=True"
    try:
        found: list[Row] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read ({error}); {again}") from error
    if len(found) != rows:
        raise StoreError(f"{path} has {len(found)} rows, the manifest says {rows}; {again}")
    return found


def count_letters(letters: Sequence[str | None]) -> str:
    """How often each letter is the positive one, for people.

    Example:
        >>> count_letters(["A", "B", "A"])
        'A 2, B 1'
    """
    names = sorted({letter for letter in letters if letter is not None})
    counts = [f"{name} {sum(1 for letter in letters if letter == name)}" for name in names]
    return ", ".join(counts) or "none"
