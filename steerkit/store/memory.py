"""Rows in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from steerkit.errors import InputError
from steerkit.store.index import Row
from steerkit.store.manifest import SCHEMA_VERSION
from steerkit.store.paired import Paired
from steerkit.store.ragged import take_rows
from steerkit.store.rows import Numbers, Sharded
from steerkit.store.shards import pairs_per_shard, spans
from steerkit.store.storage import Folder
from steerkit.store.workers import Span


class MemoryShards(Sharded):
    """Shards that are kept in memory."""

    def __init__(self, manifest: Mapping[str, Any]) -> None:
        super().__init__(spans(2 * manifest["pairs"], manifest["rows_per_shard"]))
        self.folders: tuple[Folder, ...] = ()
        self._shards: dict[Span, tuple[Mapping[int, Tensor], Tensor | None]] = {}

    def put(self, span: Span, rows: Mapping[int, Tensor], offsets: Tensor | None) -> None:
        """Take in one shard."""
        self._shards[span] = (dict(rows), offsets)

    def whole(self, layer: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """One layer of every shard."""
        for span in self._spans:
            rows, offsets = self._shards[span]
            yield rows[layer], offsets

    def some(self, span: Span, layer: int, rows: Numbers) -> tuple[Tensor, Tensor | None]:
        """Some rows of a shard."""
        values, offsets = self._shards[span]
        picked = torch.from_numpy(rows)
        return (values[layer][picked], None) if offsets is None else take_rows(values[layer], offsets, picked)


def hold(
    layers: Mapping[int, Paired],
    about: Mapping[str, Any],
    *,
    ids: Sequence[str] | None,
    letters: Sequence[str | None] | None,
) -> tuple[MemoryShards, dict[str, Any], list[Row]]:
    """Activations made elsewhere as shards in memory, with a manifest and an index.

    Raises:
        InputError: The layers have different pairs, or ids or letters are not one a pair.
    """
    shapes = {tuple(paired.positive.shape) for paired in layers.values()}
    if len(shapes) != 1:
        raise InputError(f"the layers have the shapes {sorted(shapes)}; give one or more layers of the same pairs")
    pairs, hidden = shapes.pop()
    for name, values in (("ids", ids), ("letters", letters)):
        if values is not None and len(values) != pairs:
            raise InputError(f"{len(values)} {name} for {pairs} pairs; give one a pair")
    heads = about.get("heads") or about.get("model", {}).get("heads") or 1
    if about.get("site") == "z" and hidden % heads:
        raise InputError(f"rows of width {hidden} do not hold {heads} heads of one size")
    order = sorted(layers)
    per_shard = 2 * pairs_per_shard(layers=len(order), hidden_size=hidden, dtype="float32")
    manifest = {"schema_version": SCHEMA_VERSION, "kind": "pooled", "model": {}, "data": {}, "read": None,
                "template": None, "dtype": "float32", "rows_per_shard": per_shard, **about,
                "layers": order, "hidden_size": hidden, "pairs": pairs}  # fmt: skip
    shards = MemoryShards(manifest)
    rows = {k: torch.stack([layers[k].positive, layers[k].negative], dim=1).flatten(0, 1).float() for k in order}
    for first, end in spans(2 * pairs, manifest["rows_per_shard"]):
        shards.put((first, end), {layer: values[first:end] for layer, values in rows.items()}, None)
    index: list[Row] = [
        {"pair": str(ids[i]) if ids else str(i), "side": side, "letter": letters[i] if letters and j == 0 else None}
        for i in range(pairs)
        for j, side in enumerate(("positive", "negative"))
    ]
    return shards, manifest, index
