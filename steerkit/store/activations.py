"""The activation store: both sides of every pair, at every layer asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from steerkit.backends.base import ModelInfo
from steerkit.errors import InputError, LayerError, MismatchError
from steerkit.points import Site
from steerkit.store.index import Row, count_letters, read_index
from steerkit.store.manifest import list_differences, model_differences, read_manifest
from steerkit.store.paired import Paired
from steerkit.store.shards import DTYPES, DiskShards, MemoryShards, Shards, human_size
from steerkit.store.splits import hold_out
from steerkit.tables import Cell, Table, Tabular


class ActivationStore(Tabular):
    """Activations of contrast pairs, on disk or in memory; `store[13]` is one layer of them.

    `record` makes one, `ActivationStore.open` reads one from disk, `from_layers` makes one by hand. What `split` and
    `select` return are views: nothing is copied.

    Args:
        shards: Where the rows lie; rows `2i` and `2i + 1` are the positive and the negative side of pair `i`.
        manifest: What they were made with.
        index: What each row is; `None` where it lies beside the shards, to be read when it is needed.
        layers: The layers that this view shows; `None` for all in the manifest.
        chosen: The pairs that this view shows, by number; `None` for all.

    Example:
        >>> import torch
        >>> store = ActivationStore.from_layers({3: Paired(torch.ones(4, 2), torch.zeros(4, 2))})
        >>> store[3].difference.mean(0).tolist()
        [1.0, 1.0]
    """

    def __init__(
        self,
        shards: Shards,
        manifest: Mapping[str, Any],
        *,
        index: Sequence[Row] | None = None,
        layers: Sequence[int] | None = None,
        chosen: Sequence[int] | None = None,
    ) -> None:
        self._shards = shards
        self._given_index = index
        self._chosen = None if chosen is None else tuple(chosen)
        self.manifest: dict[str, Any] = dict(manifest)
        self.layers: tuple[int, ...] = tuple(manifest["layers"] if layers is None else layers)

    @classmethod
    def open(cls, path: str | Path, *, model: Any = None, override: bool = False) -> ActivationStore:
        """The store in a folder.

        Args:
            path: The folder that `record` or `save` wrote.
            model: The model it is going to be used with; what the manifest says of the model is held against it.
            override: Open it although it was made with another model.

        Raises:
            StoreError: No store lies there, it is damaged or incomplete, or it has another schema.
            MismatchError: It was made with another model.
        """
        folder = Path(path).expanduser()
        manifest = read_manifest(folder)
        if model is not None and not override:
            info = model.info if isinstance(getattr(model, "info", None), ModelInfo) else model
            given = info.as_dict() if isinstance(info, ModelInfo) else info
            if not isinstance(given, Mapping):
                raise InputError(f"model is of type {type(model).__name__}; give a model, or its info")
            found = model_differences(manifest["model"], given)
            if found:
                raise MismatchError(
                    f"{folder} was recorded with the model {manifest['model'].get('name')!r}, not with "
                    f"{given.get('name')!r}:\n{list_differences(found, here='this model')}\n"
                    "Record again with this model, or open it with override=True"
                )
        return cls(DiskShards(folder, manifest), manifest)

    @classmethod
    def from_layers(
        cls,
        layers: Mapping[int, Paired],
        *,
        site: Site = "resid_post",
        ids: Sequence[str] | None = None,
        letters: Sequence[str | None] | None = None,
        manifest: Mapping[str, Any] | None = None,
    ) -> ActivationStore:
        """A store in memory from activations made elsewhere.

        Args:
            layers: Both sides at each layer, the same pairs in the same order.
            site: Where they were read.
            ids: A name for each pair; numbers without it.
            letters: The letter of each pair's positive answer.
            manifest: More to remember, such as `{"model": model.info.as_dict()}`.

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
        rows = {k: torch.stack([v.positive, v.negative], dim=1).flatten(0, 1).float() for k, v in layers.items()}
        order = sorted(rows)
        base = {"schema_version": 1, "model": {}, "data": {}, "read": None, "template": None, "dtype": "float32"}
        fixed = {
            "site": site,
            "layers": order,
            "hidden_size": hidden,
            "pairs": pairs,
            "rows_per_shard": max(2 * pairs, 2),
        }
        index: list[Row] = [
            {"pair": str(ids[i]) if ids else str(i), "side": side, "letter": letters[i] if letters and j == 0 else None}
            for i in range(pairs)
            for j, side in enumerate(("positive", "negative"))
        ]
        return cls(MemoryShards(rows), {**base, **(manifest or {}), **fixed}, index=index)

    @property
    def site(self) -> Site:
        """Where in the blocks the activations were read."""
        site: Site = self.manifest["site"]
        return site

    @property
    def hidden_size(self) -> int:
        """Width of a row."""
        return int(self.manifest["hidden_size"])

    @property
    def path(self) -> Path | None:
        """The folder it lies in; `None` in memory."""
        return self._shards.folder

    def __len__(self) -> int:
        return int(self.manifest["pairs"]) if self._chosen is None else len(self._chosen)

    def __getitem__(self, layer: int) -> Paired:
        """One layer in float32, read from disk when asked for.

        Raises:
            LayerError: The store does not hold that layer.
        """
        if layer not in self.layers:
            raise LayerError(f"layer {layer!r} is not in this store; it holds {_ranges(self.layers)}")
        both = self._shards.layer(int(layer)).reshape(-1, 2, self.hidden_size)
        if self._chosen is not None:
            both = both[torch.tensor(self._chosen, dtype=torch.long)]
        return Paired(both[:, 0].float().contiguous(), both[:, 1].float().contiguous())

    @cached_property
    def _index(self) -> Sequence[Row]:
        if self._given_index is not None:
            return self._given_index
        assert self.path is not None
        return read_index(self.path, rows=2 * int(self.manifest["pairs"]))

    def _rows(self, side: int) -> list[Row]:
        numbers = range(int(self.manifest["pairs"])) if self._chosen is None else self._chosen
        return [self._index[2 * i + side] for i in numbers]

    @property
    def ids(self) -> list[str]:
        """The pairs' names."""
        return [str(row["pair"]) for row in self._rows(0)]

    @property
    def letters(self) -> list[str | None]:
        """The letter of each pair's positive answer; `None` where a pair is not a multiple choice."""
        return [row.get("letter") for row in self._rows(0)]

    def select(self, layers: Sequence[int] | int) -> ActivationStore:
        """A view of some of the layers.

        Raises:
            LayerError: The store does not hold one of them, or none is given.
        """
        wanted = [layers] if isinstance(layers, int) else list(layers)
        missing = [layer for layer in wanted if layer not in self.layers]
        if missing or not wanted:
            raise LayerError(f"layers={wanted} is not valid; this store holds {_ranges(self.layers)}")
        return self._view(layers=sorted(set(wanted)), chosen=self._chosen)

    def split(self, *, test: float | int = 0.25, seed: int = 0) -> tuple[ActivationStore, ActivationStore]:
        """Two views, train and test, without a pair in common; each keeps the balance of the positive letters.

        Pairs with the same text go to the same view, so that nothing held out was seen.

        Args:
            test: The share of pairs that are held out (above 0, below 1), or their number.
            seed: The same seed holds out the same pairs.

        Raises:
            InputError: One of the two would be empty.
        """
        held = hold_out(self._rows(0), self._rows(1), test=test, seed=seed)
        numbers = list(range(int(self.manifest["pairs"]))) if self._chosen is None else list(self._chosen)
        train = [n for i, n in enumerate(numbers) if i not in held]
        return self._view(chosen=train), self._view(chosen=[n for i, n in enumerate(numbers) if i in held])

    def _view(self, *, layers: Sequence[int] | None = None, chosen: Sequence[int] | None = None) -> ActivationStore:
        shown = self.layers if layers is None else layers
        view = ActivationStore(self._shards, self.manifest, index=self._given_index, layers=shown, chosen=chosen)
        if "_index" in self.__dict__:
            view.__dict__["_index"] = self._index
        return view

    def save(self, path: str | Path, *, overwrite: bool = False) -> ActivationStore:
        """Write what this store or view shows to a folder, and open it there.

        Raises:
            StoreError: Something else lies there, or it cannot be written.
        """
        from steerkit.store.writer import save

        numbers = range(int(self.manifest["pairs"])) if self._chosen is None else self._chosen
        dtype = DTYPES[self.manifest["dtype"]]
        index = [self._index[2 * i + side] for i in numbers for side in (0, 1)]
        changed = {"layers": list(self.layers), "pairs": len(self)}
        pick = torch.tensor([2 * i + side for i in numbers for side in (0, 1)], dtype=torch.long)
        rows = {layer: self._shards.layer(layer)[pick].to(dtype) for layer in self.layers}
        save(Path(path).expanduser(), {**self.manifest, **changed}, index, rows, overwrite=overwrite)
        return ActivationStore.open(path)

    def to_numpy(self) -> dict[str, Float[np.ndarray, "layer pair hidden"]]:
        """Both sides of every layer as `{"positive": [layer, pair, hidden], "negative": ...}`, all in memory."""
        sides = [self[layer] for layer in self.layers]
        return {
            "positive": np.stack([side.positive.numpy() for side in sides]),
            "negative": np.stack([side.negative.numpy() for side in sides]),
        }

    @property
    def nbytes(self) -> int:
        """Bytes of the rows shown, as stored."""
        return 2 * len(self) * len(self.layers) * self.hidden_size * DTYPES[self.manifest["dtype"]].itemsize

    def table(self) -> Table:
        """What is shown of it."""
        m = self.manifest
        title = f"{len(self)} pairs, {len(self.layers)} layers x {self.hidden_size}"
        rows: list[list[Cell]] = [
            ["model", m["model"].get("name") or "unknown"],
            ["data", m["data"].get("name") or "unknown"],
            ["pairs", f"{len(self)} of {m['pairs']}" if self._chosen is not None else str(len(self))],
            ["positive letters", count_letters(self.letters)],
            ["layers", _ranges(self.layers)],
            ["site", self.site],
            ["read", str(m["read"]) if m["read"] is not None else "unknown"],
            ["template", m.get("template") or "the tokenizer's own"],
            ["size", f"{human_size(self.nbytes)} in {m['dtype']}"],
            ["where", "memory" if self.path is None else str(self.path)],
        ]
        return Table(["ActivationStore", title], rows)


def _ranges(layers: Sequence[int]) -> str:
    """Layers for people: runs are written as ranges."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return "layers " + ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in runs)
