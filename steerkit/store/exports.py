"""Stores in the hands of other libraries: Hugging Face datasets and torch's data loaders."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils.data import Dataset

if TYPE_CHECKING:
    import datasets

    from steerkit.store.activations import ActivationStore

Item = tuple[Tensor, Tensor]
"""The positive and the negative side of a pair: `[hidden]` each, or `[token, hidden]`."""


class LayerDataset(Dataset[Item]):
    """One layer of a store for `torch.utils.data.DataLoader`; a batch is read from disk when it is asked for."""

    def __init__(self, store: ActivationStore, layer: int) -> None:
        self._store, self._layer = store, layer

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, number: int) -> Item:
        return self.__getitems__([range(len(self))[number]])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[Item]:
        """Several pairs at once."""
        found = self._store.rows(self._layer, numbers)
        return [(found.positive[i], found.negative[i]) for i in range(len(found))]


def to_datasets(store: ActivationStore, cache_dir: str | Path | None) -> datasets.Dataset:
    """A table with a row a pair, written to the cache of datasets a batch at a time."""
    import datasets

    number = datasets.Value("float32")
    row: Any = datasets.List(number, length=store.hidden_size)
    value = datasets.List(row) if store.is_ragged else row
    names = [f"{side}.{layer}" for layer in store.layers for side in ("positive", "negative")]
    features = datasets.Features(
        {"pair": datasets.Value("string"), "letter": datasets.Value("string"), **dict.fromkeys(names, value)}
    )
    made: datasets.Dataset = datasets.Dataset.from_generator(
        _examples,
        gen_kwargs={"store": store},
        features=features,
        cache_dir=None if cache_dir is None else str(cache_dir),
        fingerprint=_fingerprint(store),
    )
    return made


def _examples(store: ActivationStore) -> Iterator[dict[str, Any]]:
    numbers = iter(range(len(store)))
    for batch in store.iterate(batch=256):
        sides = {f"{side}.{k}": getattr(v, side) for k, v in batch.items() for side in ("positive", "negative")}
        for i in range(len(next(iter(batch.values())))):
            row = store.row(next(numbers))
            values = {name: value[i].numpy() for name, value in sides.items()}
            yield {"pair": row.id, "letter": row.letter, **values}


def _fingerprint(store: ActivationStore) -> str:
    """Tells what is shown of which store, so that a cached table is taken again only for the same one."""
    whose = store.manifest.get("index_sha256") if store.path is not None else None
    if whose is None:
        return uuid.uuid4().hex
    shown = [store.manifest, store.layers, store.numbers.tolist()]
    return hashlib.sha256(json.dumps(shown, sort_keys=True, default=str).encode()).hexdigest()[:16]
