"""Writing what a store or a view shows to a folder of its own."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steerkit.errors import StoreError
from steerkit.store import manifest as manifest_file
from steerkit.store.rows import collect
from steerkit.store.shards import DTYPES, spans
from steerkit.store.storage import Folder
from steerkit.store.workers import Span
from steerkit.store.writer import StoreWriter

if TYPE_CHECKING:
    from steerkit.store.activations import ActivationStore


def save(store: ActivationStore, folder: Folder, *, overwrite: bool) -> None:
    """Write a whole store, a shard at a time.

    Raises:
        StoreError: A store or something else lies there, it is the store itself, or no rows are kept of it.
    """
    if store.manifest.get("keep") == "statistics":
        raise StoreError("this store keeps statistics and no rows, so there is nothing to save; copy its folder")
    if any(_same(folder, one) for one in store._source.folders):
        raise StoreError(f"{folder.path} is where this store lies; give another path")
    if folder.exists(manifest_file.NAME) and not overwrite:
        raise StoreError(f"{folder.path} holds a store; give another path, or overwrite=True")
    manifest = _manifest(store)
    index = (store.index[2 * int(i) + side] for i in store.numbers for side in (0, 1))
    path, reason = str(manifest.get("path", "unknown")), str(manifest.get("path_reason", ""))
    with StoreWriter(folder, manifest, overwrite=True) as writer:
        writer.begin(index, path_taken=path, reason=reason)
        for span in writer.missing:
            writer.put(span, *_shard(store, span))


def _same(a: Folder, b: Folder) -> bool:
    return a.local.resolve() == b.local.resolve() if a.local and b.local else a.path == b.path


def _manifest(store: ActivationStore) -> dict[str, Any]:
    kept = {name: value for name, value in store.manifest.items() if name != "index_sha256"}
    if kept.get("statistics"):
        kept["statistics"] = None  # those of a view would be others
    if not kept["data"].get("fingerprint"):
        kept["data"] = {**kept["data"], "fingerprint": _fingerprint(store)}
    return {**kept, "layers": list(store.layers), "pairs": len(store)}


def _fingerprint(store: ActivationStore) -> str:
    """Of rows from nowhere: their own content, so that their shards are told from those of others."""
    digest = hashlib.sha256()
    for span in spans(2 * len(store), store.manifest["rows_per_shard"]):
        for values in _shard(store, span)[0].values():
            digest.update(values.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _shard(store: ActivationStore, span: Span) -> tuple[dict[int, Tensor], Tensor | None]:
    pairs = store.numbers[span[0] // 2 : span[1] // 2]
    dtype = DTYPES[store.manifest["dtype"]]
    found = {layer: collect(store._source, layer, pairs) for layer in store.layers}
    return {layer: rows.to(dtype) for layer, (rows, _) in found.items()}, next(iter(found.values()))[1]
