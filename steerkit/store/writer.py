"""Filling a store: the manifest first, then the index, then shard by shard; what is there already is kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steerkit.errors import MismatchError, StoreError
from steerkit.store import index as index_file
from steerkit.store import manifest as manifest_file
from steerkit.store.activations import ActivationStore
from steerkit.store.index import Row, format_index
from steerkit.store.manifest import differences, list_differences, read_manifest
from steerkit.store.shards import DTYPES, FOLDER, DiskShards, MemoryShards, shard_path, spans, write_shard, write_text


class StoreWriter:
    """A store that is being filled, on disk or in memory.

    Args:
        path: The folder; `None` for a store in memory.
        manifest: What the rows are made with.
        overwrite: Throw away a store that lies there.

    Raises:
        MismatchError: A store made with something else lies there.
        StoreError: Files that are not a store lie there, or its manifest is damaged.
    """

    def __init__(self, path: str | Path | None, manifest: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self.folder = None if path is None else Path(path).expanduser()
        self.manifest: dict[str, Any] = dict(manifest)
        self._overwrite = overwrite
        self._index: Sequence[Row] = ()
        self._spans = spans(2 * manifest["pairs"], manifest["rows_per_shard"])
        self._memory: dict[int, Tensor] = {}
        self.stored: dict[str, Any] | None = self._look()

    def _look(self) -> dict[str, Any] | None:
        """The manifest of the store to go on with, if there is one."""
        if self.folder is None:
            return None
        check_folder(self.folder)
        if self._overwrite or not (self.folder / manifest_file.NAME).is_file():
            return None
        stored = read_manifest(self.folder)
        found = differences(stored, self.manifest)
        if found:
            raise MismatchError(
                f"{self.folder} holds a store made with something else:\n{list_differences(found, here='this call')}\n"
                "Give another path, or overwrite=True to throw that store away"
            )
        return stored

    @property
    def missing(self) -> list[tuple[int, int]]:
        """The row ranges still to be filled, ends excluded."""
        if self.folder is None or self.stored is None:
            return self._spans
        return [span for span in self._spans if not shard_path(self.folder, span).is_file()]

    def begin(self, index: Sequence[Row], *, path_taken: str, reason: str = "") -> None:
        """Write the manifest and the index, or keep those of the store to go on with.

        Args:
            index: What each row is.
            path_taken: `"packed"` or `"plain"`: how the rows are computed.
            reason: Why not packed.

        Raises:
            MismatchError: The rows that are there were computed in the other way.
        """
        self.manifest |= {"path": path_taken, "path_reason": reason}
        self._index = index
        if self.folder is None:
            return
        if self.stored is None:
            clear(self.folder)
            write_text(self.folder / manifest_file.NAME, json.dumps(self.manifest, indent=1, ensure_ascii=False))
        elif self.stored.get("path") != path_taken:
            raise MismatchError(f"the rows in {self.folder} were computed {self.stored.get('path')!r}, this call would "
                                f"go on {path_taken!r}; give another path, or overwrite=True")  # fmt: skip
        write_text(self.folder / index_file.NAME, format_index(index))

    def put(self, span: tuple[int, int], rows: Mapping[int, Tensor]) -> None:
        """One shard: the rows of every layer, in the stored dtype."""
        if self.folder is not None:
            write_shard(self.folder, span, rows, self.manifest)
            return
        for layer, values in rows.items():
            if layer not in self._memory:
                size = (2 * self.manifest["pairs"], self.manifest["hidden_size"])
                self._memory[layer] = torch.empty(size, dtype=DTYPES[self.manifest["dtype"]])
            self._memory[layer][span[0] : span[1]] = values

    def finish(self) -> ActivationStore:
        """The filled store."""
        if self.folder is not None:
            manifest = read_manifest(self.folder)
            return ActivationStore(DiskShards(self.folder, manifest), manifest)
        return ActivationStore(MemoryShards(self._memory), self.manifest, index=self._index)


def check_folder(folder: Path) -> None:
    """Refuse a place where something other than a store lies.

    Raises:
        StoreError: A file, or a folder with other things in it.
    """
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder} is a file; give a folder that is new, empty or a store")
    ours = {manifest_file.NAME, index_file.NAME, FOLDER}
    others = (
        [one.name for one in folder.iterdir() if one.name.removesuffix(".tmp") not in ours] if folder.exists() else []
    )
    if others:
        raise StoreError(f"{folder} holds other files ({', '.join(sorted(others)[:3])}); give a folder that is new, "
                         "empty or a store")  # fmt: skip


def clear(folder: Path) -> None:
    """Remove a store's own files, the manifest first: what is left without one is no store."""
    for name in (manifest_file.NAME, index_file.NAME):
        (folder / name).unlink(missing_ok=True)
    for shard in (folder / FOLDER).glob("*.safetensors*"):
        shard.unlink()


def save(
    folder: Path, manifest: Mapping[str, Any], index: Sequence[Row], rows: Mapping[int, Tensor], *, overwrite: bool
) -> None:
    """Write a whole store at once.

    Raises:
        StoreError: A store or something else lies there.
    """
    check_folder(folder)
    if (folder / manifest_file.NAME).is_file() and not overwrite:
        raise StoreError(f"{folder} holds a store; give another path, or overwrite=True")
    writer = StoreWriter(folder, manifest, overwrite=True)
    writer.begin(index, path_taken=str(manifest.get("path", "unknown")), reason=str(manifest.get("path_reason", "")))
    for span in writer.missing:
        writer.put(span, {layer: values[span[0] : span[1]] for layer, values in rows.items()})
