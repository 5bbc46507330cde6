"""Stores made by hand, and children that are killed."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from steerkit.backends.base import ModelInfo
from steerkit.store import ActivationStore, Paired, StoreWriter
from steerkit.store.seals import seal_json
from steerkit.store.shards import DTYPES

INFO = ModelInfo("tiny", "llama", 4, 8, "float32", "cpu", fingerprint="f00d", tokenizer="70c0", template="7e40")


def make(
    pairs: int = 12, hidden: int = 8, layers: tuple[int, ...] = (1, 3), seed: int = 0, **more: object
) -> ActivationStore:
    draw = torch.Generator().manual_seed(seed)
    sides = {
        layer: Paired(torch.randn(pairs, hidden, generator=draw), torch.randn(pairs, hidden, generator=draw))
        for layer in layers
    }
    letters = ["A" if i % 3 == 0 else "B" for i in range(pairs)]
    manifest = {"model": INFO.as_dict(), "data": {"name": "made", "fingerprint": "d1"}, "read": "letter", **more}
    return ActivationStore.from_layers(sides, letters=letters, manifest=manifest)


def about(pairs: int, *, hidden: int = 4, layers: tuple[int, ...] = (0, 2), **more: object) -> dict[str, Any]:
    """A manifest as record writes it."""
    base = make(pairs, hidden, layers).manifest
    return {**base, "rows_per_shard": 8, **more}


def lines(pairs: int) -> list[dict[str, Any]]:
    """An index."""
    return [
        {"pair": f"p{i}", "side": side, "position": 3, "token": "é\u2028", "letter": "AB"[i % 2], "text": f"{i}{side}"}
        for i in range(pairs)
        for side in ("positive", "negative")
    ]


def values(manifest: dict[str, Any], seed: int = 0) -> tuple[dict[int, torch.Tensor], torch.Tensor | None]:
    """All rows of a store, and their offsets if it is ragged."""
    draw = torch.Generator().manual_seed(seed)
    count = 2 * manifest["pairs"]
    offsets = None
    if manifest["kind"] == "each":
        lengths = torch.randint(1, manifest["max_tokens"] + 1, (count,), generator=draw)
        offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
        count = int(offsets[-1])
    dtype = DTYPES[manifest["dtype"]]
    size = (count, manifest["hidden_size"])
    return {layer: torch.randn(size, generator=draw).to(dtype) for layer in manifest["layers"]}, offsets


def shard(
    rows: dict[int, torch.Tensor], offsets: torch.Tensor | None, span: tuple[int, int]
) -> tuple[dict[int, torch.Tensor], torch.Tensor | None]:
    """The part of all rows that one shard holds."""
    if offsets is None:
        return {layer: one[slice(*span)] for layer, one in rows.items()}, None
    edges = offsets[span[0] : span[1] + 1]
    return {layer: one[int(edges[0]) : int(edges[-1])] for layer, one in rows.items()}, edges - edges[0]


def fill(path: Path | str, manifest: dict[str, Any], **more: Any) -> ActivationStore:
    """A store on disk; what lies there already is gone on with."""
    rows, offsets = values(manifest)
    with StoreWriter(path, manifest, **more) as writer:
        writer.begin(lines(manifest["pairs"]) if writer.needs_index else None, path_taken="packed")
        for span in writer.missing:
            writer.put(span, *shard(rows, offsets, span))
        return writer.finish()


def interrupt(path: Path | str, manifest: dict[str, Any], *, after: int) -> None:
    """Ctrl-C when some shards were put."""
    rows, _ = values(manifest)
    with StoreWriter(path, manifest) as writer:
        writer.begin(lines(manifest["pairs"]), path_taken="packed")
        for span in writer.missing[:after]:
            writer.put(span, *shard(rows, None, span))
        raise KeyboardInterrupt


def begin_and_put(path: Path, manifest: dict[str, Any], span: Any, *more: Any) -> None:
    """Put one thing into a new store."""
    with StoreWriter(path, manifest) as writer:
        writer.begin(lines(manifest["pairs"]), path_taken="packed")
        writer.put(span, *more)


def begin(path: Path, manifest: dict[str, Any], rows: Any, **more: Any) -> None:
    """Begin a store and put nothing."""
    with StoreWriter(path, manifest, **more) as writer:
        writer.begin(rows, path_taken="packed")


def files(folder: Path) -> dict[str, bytes]:
    return {str(one.relative_to(folder)): one.read_bytes() for one in sorted(folder.rglob("*")) if one.is_file()}


def edit(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    content = {**json.loads(path.read_text()), **changes}
    content.pop("sha256")
    path.write_bytes(seal_json(content))


def make_row(store: ActivationStore, name: str) -> torch.Tensor:
    return store.paired(1).positive[store.ids.index(name)]


def start(work: Callable[[], None]) -> int:
    """Do something in a child of its own; gives its process id. It ends with code 1 when it fails."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - a child must not go on with the tests
            traceback.print_exc()
            os._exit(1)
    return child


def wait(child: int) -> int:
    """How the child ended: its code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
