"""The header of a safetensors file: where each tensor lies, read without reading the tensors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steerkit.store.seals import HEAD
from steerkit.store.storage import Bytes, Folder

FIRST = 8192
"""Bytes that are read at first: they hold most headers."""
MOST = 100_000_000
"""A header is never longer; safetensors says so."""
CODES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64, "I64": torch.int64}


@dataclass(frozen=True)
class Entry:
    """One tensor of a file.

    Args:
        dtype: Of its numbers.
        shape: Its sizes.
        start: Its first byte in the file.
        end: The byte after its last.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def width(self) -> int:
        """Bytes of one of its rows."""
        return self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))

    def tensor(self, data: Bytes) -> Tensor:
        """Some whole rows of it, copied out of the file's bytes.

        Raises:
            ValueError: Bytes are missing.
        """
        rows = torch.empty((data.size // self.width if self.width else 0, *self.shape[1:]), dtype=self.dtype)
        rows.view(torch.uint8).numpy().reshape(-1)[:] = data.reshape(-1)
        return rows


@dataclass(frozen=True)
class Header:
    """What a file holds.

    Args:
        entries: Its tensors by name.
        says: What steerkit wrote into it: whose it is, which rows, and its seal.
        end: The first byte after the header.
    """

    entries: dict[str, Entry]
    says: dict[str, Any]
    end: int

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return max((entry.end for entry in self.entries.values()), default=self.end)


def parse_header(data: bytes) -> Header:
    """A header, from the bytes that a file begins with.

    Raises:
        ValueError: They are no header.
    """
    end = header_end(data)
    if len(data) < end:
        raise ValueError("the file ends inside its header")
    found = json.loads(data[8:end])
    if not isinstance(found, dict):
        raise ValueError("the header is no JSON object")
    meta = found.pop("__metadata__", {})
    try:
        says = json.loads(meta.get(HEAD, "{}"))
        entries = {name: _entry(one, end) for name, one in found.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the header cannot be understood: {error!r}") from error
    return Header(entries, says if isinstance(says, dict) else {}, end)


def header_end(data: bytes) -> int:
    """Where the header ends.

    Raises:
        ValueError: The file is too short, or says that its header is longer than any.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > MOST:
        raise ValueError("the file has no safetensors header")
    return 8 + length


def _entry(one: dict[str, Any], base: int) -> Entry:
    start, end = one["data_offsets"]
    entry = Entry(CODES[one["dtype"]], tuple(one["shape"]), base + start, base + end)
    if entry.end - entry.start != entry.dtype.itemsize * int(np.prod(entry.shape, dtype=np.int64)):
        raise ValueError("a tensor's bytes are not as many as its shape says")
    return entry


def read_headers(folder: Folder, names: Sequence[str]) -> list[Header]:
    """The headers of some files.

    Raises:
        ValueError: One is damaged.
        OSError: One cannot be read.
    """
    found = [piece.tobytes() for piece in folder.ranges([(name, 0, FIRST) for name in names])]
    for i, piece in enumerate(found):
        if len(piece) >= FIRST and header_end(piece) > FIRST:
            found[i] = folder.ranges([(names[i], 0, header_end(piece))])[0].tobytes()
    return [parse_header(piece) for piece in found]
