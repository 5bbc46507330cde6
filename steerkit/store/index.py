"""What each row of a store is: one line of JSON a row, read when it is asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from steerkit.errors import InputError, StoreError
from steerkit.store.storage import Folder

NAME = "index.jsonl"
AGAIN = "run the same record again: it makes the index anew"

Row = dict[str, Any]
"""`pair` (its id), `side`, `position` (of the token read, or first and last), `token`, `letter`, `text` (a hash)."""


def format_row(row: Row) -> bytes:
    """A row as a line."""
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


class IndexHash:
    """Lines of an index on their way to the disk, counted and hashed.

    Args:
        rows: What each row is.
        expected: How many there must be.
    """

    def __init__(self, rows: Iterable[Row], *, expected: int) -> None:
        self._rows, self._expected = rows, expected
        self.sha256 = ""

    def __iter__(self) -> Iterator[bytes]:
        digest, count = hashlib.sha256(), 0
        for row in self._rows:
            line = format_row(row)
            digest.update(line)
            count += 1
            yield line
        self._check(count)
        self.sha256 = digest.hexdigest()

    def keep(self) -> list[Row]:
        """The rows in memory instead."""
        rows = list(self._rows)
        self._check(len(rows))
        return rows

    def _check(self, count: int) -> None:
        if count != self._expected:
            raise InputError(f"{count} rows for {self._expected // 2} pairs; give two for each pair")


def is_whole(folder: Folder, sha256: str) -> bool:
    """Whether the index lies there unharmed."""
    if not folder.exists(NAME):
        return False
    digest = hashlib.sha256()
    for piece in folder.chunks(NAME):
        digest.update(piece)
    return digest.hexdigest() == sha256


class IndexFile(Sequence[Row]):
    """The index of a store on disk: bytes, and where each line begins; a line is read when it is asked for.

    Args:
        folder: The store's.
        rows: How many rows it must have.
        sha256: What its hash must be.

    Raises:
        StoreError: It is missing, damaged, or has another number of rows.
    """

    def __init__(self, folder: Folder, *, rows: int, sha256: str) -> None:
        self._path = f"{folder.path}/{NAME}"
        try:
            self._data = b"".join(folder.chunks(NAME))
        except OSError as error:
            raise StoreError(f"{self._path} cannot be read ({error}); {AGAIN}") from error
        found = np.flatnonzero(np.frombuffer(self._data, dtype=np.uint8) == ord("\n"))
        if len(found) != rows:
            raise StoreError(f"{self._path} has {len(found)} rows, the manifest says {rows}; {AGAIN}")
        if hashlib.sha256(self._data).hexdigest() != sha256:
            raise StoreError(f"{self._path} is damaged: its sha256 is not that in the manifest; {AGAIN}")
        self._ends = found

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> list[Row]: ...
    def __getitem__(self, at: int | slice) -> Row | list[Row]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        number = range(len(self))[at]
        start = int(self._ends[number - 1]) + 1 if number else 0
        row: Row = json.loads(self._data[start : int(self._ends[number])])
        return row


@dataclass(frozen=True)
class PairRow:
    """What one pair of a store is, without its activations.

    Args:
        number: Its place in the store or view.
        id: Its name.
        letter: The letter of the positive answer, or `None`.
        positions: The first token read of each side, and the one after the last.
        tokens: The last token read of each side, as text.
        texts: A hash of each side's text.
    """

    number: int
    id: str
    letter: str | None
    positions: tuple[tuple[int, int], tuple[int, int]]
    tokens: tuple[str, str]
    texts: tuple[str, str]

    @classmethod
    def of(cls, number: int, positive: Row, negative: Row) -> PairRow:
        """From the two lines of the index."""
        tokens, texts = ((str(positive.get(key, "")), str(negative.get(key, ""))) for key in ("token", "text"))
        places = positions_of(positive), positions_of(negative)
        return cls(number, str(positive["pair"]), positive.get("letter"), places, tokens, texts)


def positions_of(row: Row) -> tuple[int, int]:
    """The first token read, and the one after the last; nothing where a row does not say.

    Example:
        >>> positions_of({"position": 7}), positions_of({"position": [7, 9]})
        ((7, 8), (7, 10))
    """
    at = row.get("position")
    if isinstance(at, list):
        return int(at[0]), int(at[1]) + 1
    return (0, 0) if at is None else (int(at), int(at) + 1)


def count_letters(letters: Sequence[str | None]) -> str:
    """How often each letter is the positive one, for people.

    Example:
        >>> count_letters(["A", "B", "A"])
        'A 2, B 1'
    """
    names = sorted({letter for letter in letters if letter is not None})
    counts = [f"{name} {sum(1 for letter in letters if letter == name)}" for name in names]
    return ", ".join(counts) or "none"
