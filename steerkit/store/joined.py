"""Several stores seen as one."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np

from steerkit.errors import InputError, MismatchError
from steerkit.store.index import Row
from steerkit.store.manifest import model_differences
from steerkit.store.rows import Block, Numbers, Rows

FIXED = ("kind", "pool", "site", "heads", "layers", "hidden_size", "dtype")
"""What makes rows of one shape and place; no override makes those fit."""
MADE = ("read", "max_tokens", "template")


class JoinedRows:
    """The rows of several stores, one store after the other.

    Args:
        parts: Where each one's rows lie, and which of its pairs are shown.
    """

    def __init__(self, parts: Sequence[tuple[Rows, Numbers]]) -> None:
        self._parts = list(parts)
        self._edges = np.cumsum([len(shown) for _, shown in parts])
        self.folders = tuple(dict.fromkeys(folder for rows, _ in parts for folder in rows.folders))

    def blocks(self, layer: int, pairs: Numbers | None) -> Iterator[Block]:
        """The rows of some pairs, store by store."""
        wanted = np.arange(self._edges[-1]) if pairs is None else pairs
        homes = np.searchsorted(self._edges, wanted, side="right")
        for home in np.unique(homes):
            rows, shown = self._parts[home]
            places = np.flatnonzero(homes == home)
            local = shown[wanted[places] - (self._edges[home] - len(shown))]
            for block in rows.blocks(layer, local):
                yield Block(places[block.places], block.rows, block.offsets)


class JoinedIndex(Sequence[Row]):
    """The indices of several stores, one after the other.

    Args:
        parts: Each one's index, and which of its pairs are shown.
        names: What is put before the pairs' ids of each store.
    """

    def __init__(self, parts: Sequence[tuple[Sequence[Row], Numbers]], names: Sequence[str] | None) -> None:
        self._parts, self._names = list(parts), names
        self._edges = np.cumsum([2 * len(shown) for _, shown in parts])

    def __len__(self) -> int:
        return int(self._edges[-1])

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> list[Row]: ...
    def __getitem__(self, at: int | slice) -> Row | list[Row]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        number = range(len(self))[at]
        home = int(np.searchsorted(self._edges, number, side="right"))
        rows, shown = self._parts[home]
        local = number - (int(self._edges[home]) - 2 * len(shown))
        row = rows[2 * int(shown[local // 2]) + local % 2]
        return row if self._names is None else {**row, "pair": f"{self._names[home]}/{row['pair']}"}


def check_compatible(manifests: Sequence[Mapping[str, Any]], *, override: bool) -> None:
    """Refuse stores that do not belong together.

    Raises:
        MismatchError: They differ in what their rows are; the fields are named.
    """
    first = manifests[0]
    for number, other in enumerate(manifests[1:], start=1):
        fields = FIXED if override else (*FIXED, *MADE)
        found = [(f, first.get(f), other.get(f)) for f in fields if first.get(f) != other.get(f)]
        if not override:
            found += model_differences(first["model"], other["model"])
            a, b = first["model"].get("dtype"), other["model"].get("dtype")
            found += [("model.dtype", a, b)] if a != b else []
        if found:
            lines = "\n".join(f"  {name}: the first has {a!r}, number {number} has {b!r}" for name, a, b in found)
            fixable = all(name not in FIXED for name, _, _ in found)
            how = "record one of them again" + (", or put them together with override=True" if fixable else "")
            raise MismatchError(f"these stores do not belong together:\n{lines}\n{how[0].upper()}{how[1:]}")


def check_ids(ids: Iterable[str]) -> None:
    """Refuse pairs of the same name.

    Raises:
        InputError: Some are there more than once.
    """
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if twice:
        raise InputError(f"{len(twice)} pair ids are in more than one of the stores, such as {twice[0]!r}; tell them "
                         'apart with names=["a", "b"], or keep them as they are with override=True')  # fmt: skip


def join_manifests(manifests: Sequence[Mapping[str, Any]], *, pairs: int) -> dict[str, Any]:
    """The manifest of several stores together."""
    prints = [str(one["data"].get("fingerprint")) for one in manifests]
    names = [str(one["data"].get("name")) for one in manifests]
    data = {"name": " + ".join(names), "fingerprint": hashlib.sha256("\n".join(prints).encode()).hexdigest()[:16]}
    kept = {name: value for name, value in manifests[0].items() if name != "index_sha256"}
    if kept.get("statistics"):
        kept["statistics"] = None
    return {**kept, "data": data, "pairs": pairs}
