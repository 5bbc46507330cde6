"""The folder of a store: what belongs there, and what an interrupted writer left."""

from __future__ import annotations

from collections.abc import Sequence

from steerkit.errors import StoreError
from steerkit.store import index as index_file
from steerkit.store import locks
from steerkit.store import manifest as manifest_file
from steerkit.store.shards import FOLDER, shard_name
from steerkit.store.storage import DRAFT, Folder
from steerkit.store.workers import Span, Worker

STATISTICS = "statistics"
OURS = {manifest_file.NAME, index_file.NAME, FOLDER, STATISTICS}


def is_ours(name: str) -> bool:
    """Whether something that lies directly in the folder belongs to a store."""
    return name.removesuffix(DRAFT) in OURS or locks.NAME.fullmatch(name) is not None


def check_folder(folder: Folder) -> None:
    """Refuse a place where something other than a store lies.

    Raises:
        StoreError: A file, or a folder with other things in it.
    """
    if folder.local is not None and folder.local.exists() and not folder.local.is_dir():
        raise StoreError(f"{folder.path} is a file; give a folder that is new, empty or a store")
    others = [name for name in folder.names() if not is_ours(name)]
    if others:
        raise StoreError(f"{folder.path} holds other files ({', '.join(others[:3])}); give a folder that is new, "
                         "empty or a store")  # fmt: skip


def clear(folder: Folder) -> None:
    """Remove a store's own files, the manifest first: what is left without one is no store."""
    folder.remove(manifest_file.NAME)
    for inside in (FOLDER, STATISTICS):
        for name in folder.names(inside):
            if name.removesuffix(DRAFT).endswith(".safetensors"):
                folder.remove(f"{inside}/{name}")


def clear_drafts(folder: Folder, worker: Worker, spans: Sequence[Span]) -> None:
    """Remove the halves of files that a writer left when it was killed; only where no other writes just now."""
    if worker.rank == 0:
        for name in (manifest_file.NAME, index_file.NAME):
            folder.remove(name + DRAFT)
    there = set(folder.names(FOLDER))
    for span in worker.share(spans):
        name = shard_name(span) + DRAFT
        if name.removeprefix(f"{FOLDER}/") in there:
            folder.remove(name)
