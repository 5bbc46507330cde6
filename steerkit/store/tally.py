"""Running statistics of a store that is being filled, kept beside its shards with the list of shards in them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from steerkit.errors import StoreError
from steerkit.store.headers import read_headers
from steerkit.store.manifest import identity
from steerkit.store.paired import Paired
from steerkit.store.seals import seal_tensors
from steerkit.store.shards import spans
from steerkit.store.statistics import Kept, Moments, merge_all
from steerkit.store.storage import Folder
from steerkit.store.workers import Span, Worker

FOLDER = "statistics"
AGAIN = "delete it and run the same record again"
PATIENCE = 9
"""Writing takes at most one part in ten of the time: a file is written again after nine times what it took."""


@dataclass(frozen=True, eq=False)
class Counted:
    """Which shards are counted, and what they come to; never changed, so the two always belong together.

    Args:
        spans: The shards.
        moments: Of their rows, by layer.
    """

    spans: frozenset[Span] = frozenset()
    moments: Mapping[int, Moments] = field(default_factory=dict)

    def plus(self, span: Span, new: Mapping[int, Moments]) -> Counted:
        """With one more shard."""
        merged = {layer: self.moments[layer].merge(one) if self.spans else one for layer, one in new.items()}
        return Counted(self.spans | {span}, merged)


class Tally:
    """The statistics of one worker's shards, gone on with where it stopped; a follower of `StoreWriter`.

    A file holds exactly the shards that its header lists, so that none is counted twice or forgotten, whenever the
    work is interrupted.

    Args:
        keep: How much is kept.
    """

    def __init__(self, keep: Kept) -> None:
        self._keep = keep
        self._folder: Folder | None = None
        self._manifest: Mapping[str, Any] = {}
        self._name = ""
        self._elsewhere: set[Span] = set()
        self._counted = self._written = Counted()
        self._next = float("-inf")

    @property
    def moments(self) -> Mapping[int, Moments]:
        """What was counted so far, by layer."""
        return self._counted.moments

    def begin(self, folder: Folder | None, manifest: Mapping[str, Any], worker: Worker) -> None:
        """Take up what was kept of a store before.

        Raises:
            StoreError: A file of statistics is damaged, or belongs to another store.
        """
        self._folder, self._manifest = folder, manifest
        self._name = f"{FOLDER}/{worker}.safetensors"
        there = Counted()
        if folder is not None and self._name in statistics_files(folder):
            file = StatisticsFile(folder, self._name, manifest)
            whole = covered(file.rows, spans(2 * manifest["pairs"], manifest["rows_per_shard"]))
            there = Counted(frozenset(whole), {layer: file.layer(layer) for layer in manifest["layers"]})
        self._counted = self._written = there
        self.refresh()

    def refresh(self) -> None:
        """Look what other workers have counted since.

        Raises:
            StoreError: A file of statistics is damaged, or belongs to another store.
        """
        if self._folder is None:
            return
        everything = spans(2 * self._manifest["pairs"], self._manifest["rows_per_shard"])
        others = [name for name in statistics_files(self._folder) if name != self._name]
        files = [StatisticsFile(self._folder, name, self._manifest) for name in others]
        self._elsewhere = {span for file in files for span in covered(file.rows, everything)}

    def has(self, span: Span) -> bool:
        """Whether a shard is in them, or in those of another worker."""
        return span in self._counted.spans or span in self._elsewhere

    def put(self, span: Span, rows: Mapping[int, Tensor], offsets: Tensor | None = None) -> None:
        """Count a shard's rows, unless they were counted before, and write the file when it is time.

        Raises:
            StoreError: The file cannot be written.
        """
        assert offsets is None, "statistics are of one row a side"
        if self.has(span):
            return
        new = {}
        for layer, values in rows.items():
            both = values.reshape(-1, 2, values.shape[-1])
            new[layer] = Moments.of(Paired(both[:, 0].float(), both[:, 1].float()), keep=self._keep)
        self._counted = self._counted.plus(span, new)
        if time.monotonic() >= self._next:
            self.finish()

    def finish(self) -> None:
        """Write the file, if something came to it."""
        counted = self._counted
        if self._folder is None or counted is self._written:
            return
        start = time.monotonic()
        tensors = {f"layer.{n}.{name}": one for n, m in counted.moments.items() for name, one in m.tensors().items()}
        head = {"store": identity(self._manifest), "rows": runs(counted.spans)}
        self._folder.write(self._name, [seal_tensors(tensors, head)])
        self._written = counted
        self._next = time.monotonic() + PATIENCE * (time.monotonic() - start)


def runs(spans: Iterable[Span]) -> list[list[int]]:
    """The rows of some shards, first and last; neighbours as one.

    Example:
        >>> runs([(0, 4), (4, 8), (12, 14)])
        [[0, 7], [12, 13]]
    """
    found: list[list[int]] = []
    for first, end in sorted(spans):
        if found and found[-1][1] == first - 1:
            found[-1][1] = end - 1
        else:
            found.append([first, end - 1])
    return found


def covered(rows: Sequence[Sequence[int]], spans: Sequence[Span]) -> list[Span]:
    """The shards that lie in some runs of rows.

    Example:
        >>> covered([[0, 7]], [(0, 4), (4, 8), (8, 12)])
        [(0, 4), (4, 8)]
    """
    marks = sorted((first, last + 1) for first, last in rows)
    found, at = [], 0
    for first, end in spans:
        while at < len(marks) and marks[at][1] <= first:
            at += 1
        if at < len(marks) and marks[at][0] <= first and end <= marks[at][1]:
            found.append((first, end))
    return found


def statistics_files(folder: Folder) -> list[str]:
    """Their names, one a worker."""
    return [f"{FOLDER}/{name}" for name in folder.names(FOLDER) if name.endswith(".safetensors")]


class StatisticsFile:
    """One worker's statistics on disk; only the layer asked for is read.

    Raises:
        StoreError: It is damaged, or belongs to another store.
    """

    def __init__(self, folder: Folder, name: str, manifest: Mapping[str, Any]) -> None:
        self._folder = folder
        self._name = name
        try:
            self._header = read_headers(folder, [name])[0]
            self.rows: list[list[int]] = self._header.says["rows"]
        except (OSError, ValueError, KeyError) as error:
            raise self._damaged(error) from error
        if self._header.says.get("store") != identity(manifest):
            raise StoreError(f"{folder.path}/{name} belongs to another store; {AGAIN}")

    def _damaged(self, error: Exception) -> StoreError:
        return StoreError(f"{self._folder.path}/{self._name} is damaged ({error}); {AGAIN}")

    def layer(self, layer: int) -> Moments:
        """One layer of it."""
        start = f"layer.{layer}."
        found = {n.removeprefix(start): one for n, one in self._header.entries.items() if n.startswith(start)}
        try:
            data = self._folder.ranges([(self._name, one.start, one.end) for one in found.values()])
            tensors = zip(found.items(), data, strict=True)
            return Moments.from_tensors({n: one.tensor(piece).reshape(one.shape) for (n, one), piece in tensors})
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise self._damaged(error) from error


def load_moments(folder: Folder, manifest: Mapping[str, Any], layer: int) -> Moments | None:
    """One layer's statistics over all pairs of a store; `None` where they do not cover all.

    Raises:
        StoreError: A file of statistics is damaged, or belongs to another store.
    """
    parts = [StatisticsFile(folder, name, manifest).layer(layer) for name in statistics_files(folder)]
    return merge_all(parts) if sum(part.pairs for part in parts) == manifest["pairs"] else None
