"""The activation store: what can be done with the pairs of one or several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from steerkit.errors import InputError
from steerkit.points import Site
from steerkit.store.describe import check_model, describe, token_count
from steerkit.store.index import PairRow
from steerkit.store.joined import JoinedIndex, JoinedRows, check_compatible, check_ids, join_manifests
from steerkit.store.manifest import read_manifest
from steerkit.store.memory import hold
from steerkit.store.opening import open_shards
from steerkit.store.paired import Paired
from steerkit.store.pooled import POOLS, Pool, PooledRows
from steerkit.store.reading import StoredPairs
from steerkit.store.rows import Numbers
from steerkit.store.shards import DTYPES
from steerkit.store.splits import hold_out
from steerkit.store.storage import open_folder
from steerkit.tables import Table, Tabular

if TYPE_CHECKING:
    import datasets

    from steerkit.store.exports import LayerDataset
    from steerkit.store.verification import Verification


class ActivationStore(StoredPairs, Tabular):
    """Activations of contrast pairs, on disk or in memory; `store[13]` is one layer of them.

    `record` makes one, `ActivationStore.open` reads one from disk, `from_layers` makes one by hand. What `split`,
    `select`, `filter`, `concat` and `pool` return are views: nothing is read or copied before it is asked for.

    Args:
        rows: Where the rows lie; rows `2i` and `2i + 1` are the positive and the negative side of pair `i`.
        manifest: What they were made with.
        index: What each row is; `None` where it lies beside the shards, to be read when it is needed.
        layers: The layers that this view shows; `None` for all in the manifest.
        chosen: The pairs that this view shows, by number; `None` for all.
        moments: Running statistics of each layer, where they are in memory.

    Example:
        >>> import torch
        >>> store = ActivationStore.from_layers({3: Paired(torch.ones(4, 2), torch.zeros(4, 2))})
        >>> store[3].difference.mean(0).tolist()
        [1.0, 1.0]
    """

    @classmethod
    def open(cls, path: str | Path, *, model: Any = None, override: bool = False) -> ActivationStore:
        """The store in a folder, or at an address such as `s3://bucket/store`.

        Args:
            path: What `record` or `save` wrote.
            model: The model it is going to be used with; what the manifest says of the model is held against it.
            override: Open it although it was made with another model.

        Raises:
            StoreError: No store lies there, it is damaged or incomplete, or it has another schema.
            MismatchError: It was made with another model.
        """
        folder = open_folder(path)
        manifest = read_manifest(folder)
        if model is not None and not override:
            check_model(manifest, model, where=folder.path)
        return cls(open_shards(folder, manifest), manifest)

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
            manifest: More to remember, such as `{"model": model.info.as_dict()}`, or at site `z` `{"heads": 32}`.

        Raises:
            InputError: The layers have different pairs, or ids or letters are not one a pair.
        """
        rows, made, index = hold(layers, {"site": site, **(manifest or {})}, ids=ids, letters=letters)
        return cls(rows, {**made, "site": site}, index=index)

    @classmethod
    def concat(
        cls, stores: Sequence[ActivationStore], *, names: Sequence[str] | None = None, override: bool = False
    ) -> ActivationStore:
        """Several stores as one: the pairs of the first, then those of the next.

        Args:
            stores: At least one; recorded with the same model, site, layers, read rule, template and dtype.
            names: One for each, put before its pairs' ids: `"0"` of the store `"mood"` becomes `"mood/0"`.
            override: Take stores of other models, read rules or templates together, and pairs of the same id.

        Raises:
            MismatchError: They differ; the fields are named.
            InputError: None is given, pairs of two stores have the same id, or the names are not one a store.
        """
        if not stores or (names is not None and len(names) != len(stores)):
            raise InputError(f"{len(stores)} stores and names={names!r}; give one or more stores, and a name for each")
        manifests = [{**store.manifest, "layers": list(store.layers)} for store in stores]
        check_compatible(manifests, override=override)
        index = JoinedIndex([(store.index, store.numbers) for store in stores], names)
        if not override:
            check_ids(index[i]["pair"] for i in range(0, len(index), 2))
        rows = JoinedRows([(store._source, store.numbers) for store in stores])
        return cls(rows, join_manifests(manifests, pairs=sum(map(len, stores))), index=index)

    def select(self, layers: Sequence[int] | int) -> ActivationStore:
        """A view of some of the layers.

        Raises:
            LayerError: The store does not hold one of them, or none is given.
        """
        return self._view(layers=self._check_layers(layers), chosen=self._chosen)

    def filter(self, keep: Callable[[PairRow], bool]) -> ActivationStore:
        """A view of the pairs for which `keep` is true; it is asked what a pair is, not for its activations.

        Raises:
            InputError: None is left.

        Example:
            >>> import torch
            >>> sides = Paired(torch.ones(2, 3), torch.zeros(2, 3))
            >>> store = ActivationStore.from_layers({0: sides}, letters=["A", "B"])
            >>> store.filter(lambda row: row.letter == "B").ids
            ['1']
        """
        kept = [int(at) for i, at in enumerate(self.numbers) if keep(self.row(i))]
        if not kept:
            raise InputError(f"none of the {len(self)} pairs is kept; give a filter that keeps one")
        return self._view(chosen=np.array(kept, dtype=np.int64))

    def split(self, *, test: float | int = 0.25, seed: int = 0) -> tuple[ActivationStore, ActivationStore]:
        """Two views, train and test, without a pair in common; each keeps the balance of the positive letters.

        Pairs with the same text go to the same view, so that nothing held out was seen.

        Args:
            test: The share of pairs that are held out (above 0, below 1), or their number.
            seed: The same seed holds out the same pairs.

        Raises:
            InputError: One of the two would be empty.
        """
        held = np.zeros(len(self), dtype=bool)
        held[list(hold_out(map(self.row, range(len(self))), test=test, seed=seed))] = True
        return self._view(chosen=self.numbers[~held]), self._view(chosen=self.numbers[held])

    def pool(self, how: Pool) -> ActivationStore:
        """A view with one row a side: the mean of its tokens, or the last of them.

        Raises:
            InputError: It is neither, or the store has one token a side already.
        """
        if how not in POOLS:
            raise InputError(f"pool({how!r}) is not valid; choose one of {', '.join(map(repr, POOLS))}")
        if not self.is_ragged:
            raise InputError("this store has one row a side already; there is nothing to pool")
        view = self._view(chosen=self._chosen)
        view._source = PooledRows(self._source, how)
        view.manifest |= {"kind": "pooled", "pool": how}
        return view

    def _view(self, *, layers: Sequence[int] | None = None, chosen: Numbers | None = None) -> ActivationStore:
        shown = self.layers if layers is None else layers
        view = ActivationStore(
            self._source, self.manifest, index=self._given_index, layers=shown, chosen=chosen, moments=self._moments
        )
        if "index" in self.__dict__:
            view.__dict__["index"] = self.index
        return view

    def save(self, path: str | Path, *, overwrite: bool = False) -> ActivationStore:
        """Write what this store or view shows to a folder, shard by shard, and open it there.

        Raises:
            StoreError: Something else lies there, it is this store itself, or it cannot be written.
        """
        from steerkit.store.saving import save

        save(self, open_folder(path), overwrite=overwrite)
        return ActivationStore.open(path)

    def verify(self) -> Verification:
        """Read every byte on disk and hold it against the checksums; print the result to see what is wrong."""
        from steerkit.store.verification import verify_all

        return verify_all(self._source.folders)

    def to_numpy(self) -> dict[str, Float[np.ndarray, "layer pair hidden"]]:
        """Both sides of every layer as `{"positive": [layer, pair, hidden], "negative": ...}`, all in memory.

        Raises:
            InputError: A side has several tokens.
        """
        sides = [self.paired(layer) for layer in self.layers]
        return {
            "positive": np.stack([side.positive.numpy() for side in sides]),
            "negative": np.stack([side.negative.numpy() for side in sides]),
        }

    def to_torch(self, layer: int) -> LayerDataset:
        """One layer as a data set for `torch.utils.data.DataLoader`: pairs of positive and negative, read in batches.

        Raises:
            LayerError: The store does not hold that layer.
        """
        from steerkit.store.exports import LayerDataset

        self._check_layer(layer)
        return LayerDataset(self, layer)

    def to_datasets(
        self, layers: Sequence[int] | int | None = None, *, cache_dir: str | Path | None = None
    ) -> datasets.Dataset:
        """A `datasets.Dataset` with a row a pair: `pair`, `letter`, and `positive.<layer>`, `negative.<layer>`.

        It is written to the cache of datasets a batch at a time, in float32.

        Args:
            layers: Some of the layers.
            cache_dir: Where that cache is; its usual place without it.
        """
        from steerkit.store.exports import to_datasets

        return to_datasets(self if layers is None else self.select(layers), cache_dir)

    @property
    def nbytes(self) -> int:
        """Bytes of the rows shown, as stored."""
        if self.manifest.get("keep") == "statistics":
            return 0
        tokens = token_count(self) if self.is_ragged else 2 * len(self)
        return tokens * len(self.layers) * self.hidden_size * DTYPES[self.manifest["dtype"]].itemsize

    def table(self) -> Table:
        """What is shown of it."""
        return describe(self)
