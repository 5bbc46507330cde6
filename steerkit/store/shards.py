"""Shards: rows in fixed ranges, each a safetensors file that proves itself and says whose it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from steerkit.errors import InputError, StoreError
from steerkit.store.headers import Header, read_headers
from steerkit.store.manifest import identity
from steerkit.store.ragged import token_numbers
from steerkit.store.rows import Numbers, Sharded
from steerkit.store.seals import seal_tensors
from steerkit.store.storage import Folder
from steerkit.store.workers import Span

FOLDER = "shards"
OFFSETS = "offsets"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
SHARD_BYTES = 64 * 2**20
SHARD_PAIRS = 1000
"""A shard holds at most this much: what a crash can cost, and what record keeps in memory."""
AGAIN = "delete it and run the same record again"
TOGETHER = 8
"""Shards that are asked for at once: object storage answers them side by side."""


def pairs_per_shard(*, layers: int, hidden_size: int, dtype: str, tokens: int = 1) -> int:
    """How many pairs go into one shard.

    Args:
        layers: How many.
        hidden_size: Numbers in a row.
        dtype: Of the numbers.
        tokens: The most tokens a row has.

    Example:
        >>> pairs_per_shard(layers=32, hidden_size=4096, dtype="float32")
        64
    """
    pair = 2 * tokens * layers * hidden_size * DTYPES[dtype].itemsize
    return max(1, min(SHARD_PAIRS, SHARD_BYTES // pair))


def spans(rows: int, per_shard: int) -> list[Span]:
    """The row ranges of all shards, ends excluded.

    Example:
        >>> spans(5, 2)
        [(0, 2), (2, 4), (4, 5)]
    """
    return [(first, min(first + per_shard, rows)) for first in range(0, rows, per_shard)]


def shard_name(span: Span) -> str:
    """What a shard is called, after its first and last row.

    Example:
        >>> shard_name((512, 608))
        'shards/00000512-00000607.safetensors'
    """
    return f"{FOLDER}/{span[0]:08d}-{span[1] - 1:08d}.safetensors"


def find_shards(folder: Folder, wanted: Sequence[Span]) -> dict[Span, int]:
    """Those of some shards that lie there, with their bytes."""
    there = folder.sizes(FOLDER)
    names = {span: shard_name(span).removeprefix(f"{FOLDER}/") for span in wanted}
    return {span: there[name] for span, name in names.items() if name in there}


def human_size(count: int) -> str:
    """Bytes for people.

    Example:
        >>> human_size(492_000_000)
        '492 MB'
    """
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def write_shard(
    folder: Folder, span: Span, rows: Mapping[int, Tensor], manifest: Mapping[str, Any], *, offsets: Tensor | None
) -> None:
    """One shard: a key `layer.<l>` for each layer, `offsets` where rows have several tokens; whose it is in the header.

    Raises:
        StoreError: The disk is full or the folder cannot be written.
    """
    tensors = {f"layer.{layer}": values for layer, values in rows.items()}
    if offsets is not None:
        tensors[OFFSETS] = offsets
    head = {"store": identity(manifest), "rows": [span[0], span[1] - 1]}
    folder.write(shard_name(span), [seal_tensors(tensors, head)])


def check_rows(rows: Mapping[int, Tensor], offsets: Tensor | None, span: Span, manifest: Mapping[str, Any]) -> None:
    """Refuse rows that are not those of a shard.

    Raises:
        InputError: Other layers, another shape or dtype, or offsets that do not rise from 0 to the number of tokens.
    """
    ragged = manifest["kind"] == "each"
    if set(rows) != set(manifest["layers"]) or ragged != (offsets is not None):
        raise InputError(f"rows of the layers {sorted(rows)}, {'no ' if offsets is None else ''}offsets; the store "
                         f"has the layers {manifest['layers']}, kind {manifest['kind']!r}")  # fmt: skip
    count = span[1] - span[0]
    if offsets is not None:
        rising = offsets.dtype == torch.int64 and tuple(offsets.shape) == (count + 1,) and int(offsets[0]) == 0
        if not rising or bool((offsets.diff() < 0).any()):
            raise InputError(f"offsets must be {count + 1} int64 that rise from 0 to the number of tokens")
        count = int(offsets[-1])
    shape, dtype = (count, manifest["hidden_size"]), DTYPES[manifest["dtype"]]
    for layer, values in rows.items():
        if tuple(values.shape) != shape or values.dtype != dtype:
            raise InputError(f"layer {layer} is {tuple(values.shape)} in {values.dtype}; it must be {shape} in {dtype}")


def read_shard(folder: Folder, span: Span, manifest: Mapping[str, Any]) -> tuple[dict[int, Tensor], Tensor | None]:
    """All rows of a shard by layer, and the offsets where rows have several tokens.

    Raises:
        StoreError: It is damaged, or belongs to another store.
    """
    shards = DiskShards(folder, manifest, only=[span])
    found = {layer: next(iter(shards.whole(layer))) for layer in manifest["layers"]}
    return {layer: rows for layer, (rows, _) in found.items()}, next(iter(found.values()))[1]


class DiskShards(Sharded):
    """Rows in files; only the bytes of the layer and the rows asked for are read.

    Args:
        folder: The store's.
        manifest: What the shards must fit.
        only: Some of the shards; all without it.

    Raises:
        StoreError: Shards are missing.
    """

    def __init__(self, folder: Folder, manifest: Mapping[str, Any], *, only: list[Span] | None = None) -> None:
        every = spans(2 * manifest["pairs"], manifest["rows_per_shard"])
        super().__init__(every if only is None else only)
        self.folders: tuple[Folder, ...] = (folder,)
        self._folder, self._manifest, self._whose = folder, manifest, identity(manifest)
        self._ragged = manifest["kind"] == "each"
        self._headers: dict[Span, Header] = {}
        self._sizes = find_shards(folder, self._spans)
        missing = [span for span in self._spans if span not in self._sizes]
        if missing and manifest.get("keep") != "statistics":
            raise StoreError(f"{folder.path} is incomplete: {len(missing)} of {len(self._spans)} shards are missing, "
                             f"the first is {shard_name(missing[0]).removeprefix(FOLDER + '/')}. Run the same record "
                             "again: it goes on there")  # fmt: skip

    def whole(self, layer: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """One layer of every shard.

        Raises:
            StoreError: A shard is damaged, or belongs to another store.
        """
        for first in range(0, len(self._spans), TOGETHER):
            some = self._spans[first : first + TOGETHER]
            tables = self._read(some, f"layer.{layer}")
            edges: Sequence[Tensor | None] = self._read(some, OFFSETS) if self._ragged else [None] * len(some)
            yield from zip(tables, edges, strict=True)

    def some(self, span: Span, layer: int, rows: Numbers) -> tuple[Tensor, Tensor | None]:
        """Some rows of a shard.

        Raises:
            StoreError: The shard is damaged, or belongs to another store.
        """
        offsets = None
        if self._ragged:
            tokens, offsets = token_numbers(self._read([span], OFFSETS)[0], torch.from_numpy(rows))
            rows = tokens.numpy()
        with self._blame(span):
            entry = self._look([span])[0].entries[f"layer.{layer}"]
            return entry.tensor(self._folder.gather(shard_name(span), entry.start, entry.width, rows)), offsets

    def _read(self, some: Sequence[Span], key: str) -> list[Tensor]:
        """One tensor of some shards."""
        with self._blame(*some):
            entries = [header.entries[key] for header in self._look(some)]
            wanted = [(shard_name(span), one.start, one.end) for span, one in zip(some, entries, strict=True)]
            pieces = self._folder.ranges(wanted)
        found = []
        for span, entry, piece in zip(some, entries, pieces, strict=True):
            with self._blame(span):
                if len(piece) != entry.end - entry.start:
                    raise ValueError(f"it ends before its tensor {key} does")
                found.append(entry.tensor(piece))
        return found

    def _look(self, some: Sequence[Span]) -> list[Header]:
        """The headers of some shards, checked."""
        fresh = [span for span in some if span not in self._headers]
        for span, header in zip(fresh, read_headers(self._folder, [shard_name(one) for one in fresh]), strict=True):
            check_header(header, span, self._manifest, whose=self._whose)
            if header.size != self._sizes[span]:
                raise ValueError(f"it has {self._sizes[span]} bytes, its header says {header.size}")
            self._headers[span] = header
        return [self._headers[span] for span in some]

    @contextmanager
    def _blame(self, *some: Span) -> Iterator[None]:
        """Say which shards are damaged."""
        try:
            yield
        except (OSError, ValueError, KeyError, IndexError) as error:
            names = ", ".join(f"{self._folder.path}/{shard_name(span)}" for span in some)
            raise StoreError(f"{names} is damaged ({error}); {AGAIN}") from error


def check_header(header: Header, span: Span, manifest: Mapping[str, Any], *, whose: str) -> None:
    """Hold a shard's header against the manifest.

    Raises:
        ValueError: It belongs to another store or to other rows, or holds something else than it should.
    """
    if header.says.get("store") != whose:
        raise ValueError("it belongs to another store")
    if header.says.get("rows") != [span[0], span[1] - 1]:
        raise ValueError(f"it holds the rows {header.says.get('rows')}, not {[span[0], span[1] - 1]}")
    ragged = manifest["kind"] == "each"
    names = {f"layer.{layer}" for layer in manifest["layers"]} | ({OFFSETS} if ragged else set())
    if set(header.entries) != names:
        raise ValueError(f"it holds {sorted(header.entries)}, not {sorted(names)}")
    rows = span[1] - span[0]
    for name, entry in header.entries.items():
        if name == OFFSETS:
            right = entry.dtype == torch.int64 and entry.shape == (rows + 1,)
        else:
            count = entry.shape[0] if ragged and entry.shape else rows
            right = entry.shape == (count, manifest["hidden_size"]) and entry.dtype == DTYPES[manifest["dtype"]]
        if not right:
            raise ValueError(f"its tensor {name} is {tuple(entry.shape)} in {entry.dtype}")
