"""What a recording will cost, before it is made: bytes by arithmetic, time by running a few of its batches."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

import torch

from steerkit.backends.base import Model
from steerkit.data.pairs import ContrastPair, Pairs
from steerkit.points import Layers, Site
from steerkit.recording.batches import bucket, padded_tokens
from steerkit.recording.job import Job, prepare
from steerkit.recording.reads import PlannedPair, Read
from steerkit.store import headers
from steerkit.store.index import format_row
from steerkit.store.seals import HEAD, OPEN, seal_json
from steerkit.store.shards import DTYPES, human_size, spans
from steerkit.store.statistics import Kept
from steerkit.store.storage import open_folder
from steerkit.tables import Cell, Table, Tabular

PROBED = 4
"""Batches that are run to measure the time; the first does not count."""
CODES = {dtype: name for name, dtype in headers.CODES.items()}


@dataclass(frozen=True, repr=False)
class RecordingPlan(Tabular):
    """What a recording will cost.

    Args:
        pairs: How many.
        rows: Two for each pair.
        tokens: That are fed, what is shared counted once where it is computed once.
        padded_tokens: With padding: what is computed.
        passes: Forward passes.
        shards: Files of rows.
        bytes: On disk, or of the rows in memory; all files of a store counted.
        seconds: Estimated from a few batches that were run, and from reading all pairs once.
        free_bytes: On the disk; `None` for a store in memory or on another machine.
        path: Where the store would lie.
        path_taken: `"packed"` or `"plain"`: how the rows would be computed.
        path_reason: Why not packed.
    """

    pairs: int
    rows: int
    tokens: int
    padded_tokens: int
    passes: int
    shards: int
    bytes: int
    seconds: float
    free_bytes: int | None
    path: str | None
    path_taken: str
    path_reason: str

    @property
    def fits(self) -> bool:
        """Whether the disk has room for it; also where that is not known."""
        return self.free_bytes is None or self.bytes <= self.free_bytes

    def table(self) -> Table:
        """What is shown of it."""
        padding = 1 - self.tokens / self.padded_tokens
        rows: list[list[Cell]] = [
            ["pairs", f"{self.pairs:,}"],
            ["rows", f"{self.rows:,}"],
            ["tokens", f"{self.tokens:,} in {self.passes:,} forward passes ({padding:.0%} padding on top)"],
            ["computed", self.path_taken + (f": {self.path_reason}" if self.path_reason else "")],
            ["shards", f"{self.shards:,}"],
            ["size", human_size(self.bytes)],
            ["free", "not known" if self.free_bytes is None else human_size(self.free_bytes)],
            ["time", f"about {human_time(self.seconds)}"],
            ["where", self.path or "memory"],
        ]
        note = "" if self.fits else (
            f"WARNING: it does not fit: {human_size(self.bytes)} are needed, {human_size(self.free_bytes or 0)} are "
            "free. Record fewer layers, dtype='bfloat16', or keep='statistics'"
        )  # fmt: skip
        return Table(["RecordingPlan", "nothing is recorded yet"], rows, note=note)

    def to_json(self) -> str:
        """The numbers for machines."""
        return json.dumps({**asdict(self), "fits": self.fits})


def plan_recording(  # noqa: PLR0913 - the choices of `record`, one by one
    model: Model,
    pairs: Pairs | Sequence[ContrastPair],
    *,
    layers: Layers = "all",
    site: Site = "resid_post",
    read: Read | None = None,
    path: str | Path | None = None,
    dtype: str | None = None,
    max_tokens: int | None = None,
    statistics: Kept | None = None,
    keep: Literal["rows", "statistics"] = "rows",
    batch_tokens: int | None = None,
    batch_size: int | None = None,
    shard_pairs: int | None = None,
) -> RecordingPlan:
    """What the same call of `record` will cost. Every pair is checked and a few batches are run; nothing is written.

    Args:
        model: A model.
        pairs: The pairs.
        layers: As in `record`, and so are all that follow.
        site: Where in each block.
        read: What is read of each side.
        path: Where the store would lie; it is looked at for free space alone.
        dtype: What would be stored.
        max_tokens: With `read="each"`, the most tokens kept of a side.
        statistics: What would be summed up.
        keep: Whether rows would be stored.
        batch_tokens: The most tokens in one forward pass.
        batch_size: The most pairs in one forward pass.
        shard_pairs: Pairs in one file.

    Raises:
        InputError: An option is not valid.
        DataError: A pair is longer than the model's context, or the rule finds no token in it.
        ModelError: The longest pair does not fit in memory.

    Example:
        >>> from steerkit.backends.loading import load
        >>> from steerkit.data.loading import load_pairs
        >>> plan = plan_recording(load("demo"), load_pairs("demo:sycophancy", split="test")[:4], layers=[1, 2])
        >>> plan.pairs, plan.shards, plan.path_taken
        (4, 1, 'packed')
    """
    job = prepare(
        model, pairs, layers=layers, site=site, read=read, dtype=dtype, max_tokens=max_tokens, statistics=statistics,
        keep=keep, batch_tokens=batch_tokens, batch_size=batch_size, shard_pairs=shard_pairs,
    )  # fmt: skip
    start = time.perf_counter()
    index = sum(len(format_row(row)) for row in job.planner.rows())
    chosen = job.choose_path()
    packed = chosen["path"] == "packed"
    counted = _Count(job, packed)
    for first, end in spans(2 * job.manifest["pairs"], job.manifest["rows_per_shard"]):
        counted.shard((first, end), job.planner.between(first // 2, end // 2))
    reading = time.perf_counter() - start
    manifest = len(seal_json({**job.manifest, **chosen, "index_sha256": OPEN.decode()}))
    return RecordingPlan(
        pairs=job.manifest["pairs"],
        rows=2 * job.manifest["pairs"],
        tokens=counted.tokens,
        padded_tokens=counted.padded,
        passes=counted.passes,
        shards=counted.shards if keep == "rows" else 0,
        bytes=(counted.bytes if keep == "rows" else 0) + index + manifest + _statistics_bytes(job.manifest),
        seconds=reading + counted.padded * _seconds_a_token(job, counted.sample, packed),
        free_bytes=None if path is None else _free(path),
        path=None if path is None else str(path),
        path_taken=chosen["path"],
        path_reason=chosen["path_reason"],
    )


class _Count:
    """Counts over all shards, and some batches drawn from all of them."""

    def __init__(self, job: Job, packed: bool) -> None:
        self._job, self._packed, self._rng = job, packed, Random(0)
        self.tokens = self.padded = self.passes = self.shards = self.bytes = 0
        self.sample: list[list[PlannedPair]] = []

    def shard(self, span: tuple[int, int], pairs: Sequence[PlannedPair]) -> None:
        for batch in bucket(pairs, tokens=self._job.tokens, most=self._job.most, packed=self._packed):
            some = [pairs[i] for i in batch]
            self.padded += padded_tokens(some, packed=self._packed)
            self.passes += 1
            if len(self.sample) < PROBED:
                self.sample.append(some)
            elif (place := self._rng.randrange(self.passes)) < PROBED:
                self.sample[place] = some
        both = [sum(len(side.ids) for side in pair.sides) for pair in pairs]
        self.tokens += sum(pair.length for pair in pairs) if self._packed else sum(both)
        ragged = self._job.manifest["kind"] == "each"
        kept = sum(sum(pair.counts) for pair in pairs) if ragged else span[1] - span[0]
        self.shards += 1
        self.bytes += shard_bytes(self._job.manifest, span, kept)


def _seconds_a_token(job: Job, sample: Sequence[Sequence[PlannedPair]], packed: bool) -> float:
    job.reader.read(sample[0], packed=packed)
    probed = sample[1:] or sample
    start = time.perf_counter()
    for pairs in probed:
        job.reader.read(pairs, packed=packed)
    return (time.perf_counter() - start) / sum(padded_tokens(pairs, packed=packed) for pairs in probed)


def shard_bytes(manifest: Mapping[str, Any], span: tuple[int, int], tokens: int) -> int:
    """Bytes of a shard's file, its header counted.

    Args:
        manifest: Of the store.
        span: Its first row, and the one after its last.
        tokens: That it holds; as many as rows where each row is one.
    """
    one = (DTYPES[manifest["dtype"]], [tokens, manifest["hidden_size"]])
    tensors = {f"layer.{layer}": one for layer in manifest["layers"]}
    if manifest["kind"] == "each":
        tensors["offsets"] = (torch.int64, [span[1] - span[0] + 1])
    return _file_bytes({"rows": [span[0], span[1] - 1]}, tensors)


def _statistics_bytes(manifest: Mapping[str, Any]) -> int:
    if manifest["statistics"] is None:
        return 0
    size, kind = manifest["hidden_size"], torch.float64
    one: dict[str, tuple[torch.dtype, list[int]]] = {
        "count": (torch.int64, [1]), "means": (kind, [2, size]), "lengths": (kind, [2])
    }  # fmt: skip
    if manifest["statistics"] == "covariance":
        one |= {"within": (kind, [2, size, size]), "third": (kind, [2, size]), "fourth": (kind, [2])}
        one |= {"differences": (kind, [size, size])}
    tensors = {f"layer.{layer}.{name}": about for layer in manifest["layers"] for name, about in one.items()}
    return _file_bytes({"rows": [[0, 2 * manifest["pairs"] - 1]]}, tensors)


def _file_bytes(says: Mapping[str, Any], tensors: Mapping[str, tuple[torch.dtype, list[int]]]) -> int:
    """Bytes of a safetensors file with a seal: the header's length, the header filled up to 8, the numbers."""
    head: dict[str, Any] = {"__metadata__": {HEAD: json.dumps({"store": "0" * 16, **says, "sha256": OPEN.decode()})}}
    at = 0
    for name, (dtype, shape) in tensors.items():
        end = at + dtype.itemsize * math.prod(shape)
        head[name] = {"dtype": CODES[dtype], "shape": shape, "data_offsets": [at, end]}
        at = end
    return 8 + -(-len(json.dumps(head, separators=(",", ":"))) // 8) * 8 + at


def _free(path: str | Path) -> int | None:
    place = open_folder(path).local
    if place is None:
        return None
    place = place.absolute()
    return shutil.disk_usage(next(one for one in (place, *place.parents) if one.exists())).free


def human_time(seconds: float) -> str:
    """Seconds for people.

    Example:
        >>> human_time(4000), human_time(75), human_time(3.21)
        ('1 h 6 min', '1 min 15 s', '3.2 s')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
