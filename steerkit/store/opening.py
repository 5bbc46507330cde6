"""Opening what lies in a folder, once it is known to be complete."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steerkit.errors import StoreError
from steerkit.store.shards import DiskShards
from steerkit.store.storage import Folder
from steerkit.store.tally import StatisticsFile, statistics_files


def open_shards(folder: Folder, manifest: Mapping[str, Any]) -> DiskShards:
    """The rows of a store on disk.

    Raises:
        StoreError: Shards are missing; or, where only statistics are kept, pairs are missing from them.
    """
    if manifest.get("keep") != "statistics":
        return DiskShards(folder, manifest)
    runs = [run for name in statistics_files(folder) for run in StatisticsFile(folder, name, manifest).rows]
    pairs = sum(last + 1 - first for first, last in runs) // 2
    if pairs != manifest["pairs"]:
        raise StoreError(f"{folder.path} is incomplete: its statistics hold {pairs} of {manifest['pairs']} pairs. Run "
                         "the same record again: it goes on there")  # fmt: skip
    return DiskShards(folder, manifest, only=[])
