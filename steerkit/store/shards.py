"""Rows of activations in fixed ranges: in memory, or as safetensors files that appear whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from steerkit.errors import StoreError
from steerkit.store.manifest import identity

FOLDER = "shards"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
SHARD_BYTES = 64 * 2**20
SHARD_PAIRS = 1000
"""A shard holds at most this much: what a crash can cost, and what record keeps in memory."""


def pairs_per_shard(*, layers: int, hidden_size: int, dtype: str) -> int:
    """How many pairs go into one shard.

    Example:
        >>> pairs_per_shard(layers=32, hidden_size=4096, dtype="float32")
        64
    """
    pair = 2 * layers * hidden_size * DTYPES[dtype].itemsize
    return max(1, min(SHARD_PAIRS, SHARD_BYTES // pair))


def spans(rows: int, per_shard: int) -> list[tuple[int, int]]:
    """The row ranges of all shards, ends excluded.

    Example:
        >>> spans(5, 2)
        [(0, 2), (2, 4), (4, 5)]
    """
    return [(first, min(first + per_shard, rows)) for first in range(0, rows, per_shard)]


def shard_path(folder: Path, span: tuple[int, int]) -> Path:
    """Where a shard lies, named after its first and last row."""
    return folder / FOLDER / f"{span[0]:08d}-{span[1] - 1:08d}.safetensors"


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


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Have a file written beside its place, reach the disk, and then take its place in one step.

    Raises:
        StoreError: The disk is full or the folder cannot be written; nothing half-written stays.
    """
    draft = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(draft)
        _sync(draft)
        os.replace(draft, path)  # noqa: PTH105 - the name of the guarantee
        _sync(path.parent)
    except BaseException as error:
        draft.unlink(missing_ok=True)
        if _is_disk_error(error):
            raise StoreError(f"cannot write {path}: {error}. What was stored before is kept; make room or give "
                             "another path, then record again to go on") from error  # fmt: skip
        raise


def _is_disk_error(error: BaseException) -> bool:
    from safetensors import SafetensorError

    return isinstance(error, OSError | SafetensorError)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all."""

    def write(draft: Path) -> None:
        draft.write_text(text, encoding="utf-8")

    write_whole(path, write)


def write_shard(folder: Path, span: tuple[int, int], rows: Mapping[int, Tensor], manifest: Mapping[str, Any]) -> None:
    """One shard: a key `layer.<l>` of `[rows, hidden]` for each layer, and whose it is in the header."""
    from safetensors.torch import save_file

    head = {"steerkit": json.dumps({"store": identity(manifest), "rows": [span[0], span[1] - 1]})}
    tensors = {f"layer.{layer}": values.contiguous() for layer, values in rows.items()}

    def write(draft: Path) -> None:
        save_file(tensors, draft, metadata=head)

    write_whole(shard_path(folder, span), write)


@runtime_checkable
class Shards(Protocol):
    """Where the rows of a store lie."""

    folder: Path | None

    def layer(self, layer: int) -> Tensor:
        """All rows of one layer `[row, hidden]`, in the stored dtype."""
        ...


class MemoryShards:
    """Rows in memory, by layer."""

    def __init__(self, rows: Mapping[int, Tensor]) -> None:
        self.folder: Path | None = None
        self._rows = dict(rows)

    def layer(self, layer: int) -> Tensor:
        """All rows of one layer."""
        return self._rows[layer]


class DiskShards:
    """Rows on disk; only the bytes of the layer asked for are read."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self.folder: Path | None = folder
        self._manifest = manifest
        self._spans = spans(2 * manifest["pairs"], manifest["rows_per_shard"])
        missing = [span for span in self._spans if not shard_path(folder, span).is_file()]
        if missing:
            raise StoreError(f"{folder} is incomplete: {len(missing)} of {len(self._spans)} shards are missing, the "
                             f"first is {shard_path(folder, missing[0]).name}. Run the same record again: it goes on "
                             "there")  # fmt: skip

    def layer(self, layer: int) -> Tensor:
        """All rows of one layer.

        Raises:
            StoreError: A shard is damaged, or belongs to another store.
        """
        assert self.folder is not None
        return torch.cat([self._read(shard_path(self.folder, span), span, layer) for span in self._spans])

    def _read(self, path: Path, span: tuple[int, int], layer: int) -> Tensor:
        from safetensors import SafetensorError, safe_open

        again = "delete it and run the same record again"
        try:
            with safe_open(path, "pt") as shard:
                head = json.loads((shard.metadata() or {}).get("steerkit", "{}"))
                values: Tensor = shard.get_tensor(f"layer.{layer}")
        except (SafetensorError, OSError) as error:
            raise StoreError(f"{path} is damaged ({error}); {again}") from error
        if head.get("store") != identity(self._manifest):
            raise StoreError(f"{path} belongs to another store; {again}")
        if tuple(values.shape) != (span[1] - span[0], self._manifest["hidden_size"]):
            raise StoreError(f"{path} holds {tuple(values.shape)} at layer {layer}, not "
                             f"{(span[1] - span[0], self._manifest['hidden_size'])}; {again}")  # fmt: skip
        return values
