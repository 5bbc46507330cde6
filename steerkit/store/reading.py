"""Reading a store: one layer, some pairs, batches, and what the pairs are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from steerkit.errors import InputError, LayerError, StoreError
from steerkit.points import Site
from steerkit.store.describe import name_layers
from steerkit.store.index import IndexFile, PairRow, Row
from steerkit.store.manifest import CONTRAST
from steerkit.store.paired import Paired
from steerkit.store.ragged import RaggedPaired
from steerkit.store.rows import Numbers, Rows, gather_pairs, gather_ragged
from steerkit.store.statistics import Moments


class StoredPairs:
    """The pairs that a store or a view of it shows; nothing is read before it is asked for.

    Args:
        rows: Where the rows lie; rows `2i` and `2i + 1` are the positive and the negative side of pair `i`.
        manifest: What they were made with.
        index: What each row is; `None` where it lies beside the shards, to be read when it is needed.
        layers: The layers that are shown; `None` for all in the manifest.
        chosen: The pairs that are shown, by number; `None` for all.
        moments: Running statistics of each layer, where they are in memory.
    """

    def __init__(
        self,
        rows: Rows,
        manifest: Mapping[str, Any],
        *,
        index: Sequence[Row] | None = None,
        layers: Sequence[int] | None = None,
        chosen: Numbers | None = None,
        moments: Mapping[int, Moments] | None = None,
    ) -> None:
        self._source = rows
        self._given_index = index
        self._chosen = chosen
        self._moments = moments
        self.manifest: dict[str, Any] = dict(manifest)
        self.layers: tuple[int, ...] = tuple(manifest["layers"] if layers is None else layers)

    @property
    def site(self) -> Site:
        """Where in the blocks the activations were read."""
        site: Site = self.manifest["site"]
        return site

    @property
    def hidden_size(self) -> int:
        """Width of a row: of the residual stream, or at site `z` of all heads side by side."""
        return int(self.manifest["hidden_size"])

    @property
    def num_heads(self) -> int:
        """Attention heads side by side in a row, at site `z`; 0 elsewhere, and where they are not known."""
        known = self.manifest.get("heads") or self.manifest["model"].get("heads") or 0
        return int(known) if self.site == "z" else 0

    @property
    def path(self) -> Path | str | None:
        """The folder it lies in, or its address; `None` in memory and for several stores together."""
        folders = self._source.folders
        return (folders[0].local or folders[0].path) if len(folders) == 1 else None

    @property
    def is_ragged(self) -> bool:
        """Whether a side has several tokens, as with `read="each"`."""
        return bool(self.manifest["kind"] == "each")

    def __len__(self) -> int:
        return int(self.manifest["pairs"]) if self._chosen is None else len(self._chosen)

    def __getitem__(self, layer: int) -> Paired | RaggedPaired:
        """One layer in float32, read from disk when asked for; nothing else is read.

        Returns:
            Both sides, `[pair, hidden]` each; a `RaggedPaired` where a side has several tokens.

        Raises:
            LayerError: The store does not hold that layer.
            StoreError: It keeps statistics only, or a shard is damaged.
        """
        return self._gather(layer, self._chosen)

    def paired(self, layer: int) -> Paired:
        """One layer as rows of one token a side, or a refusal.

        Raises:
            InputError: A side has several tokens, or the rows are differences and not sides.
            LayerError: The store does not hold that layer.
        """
        if CONTRAST in self.manifest:
            raise InputError("this store holds differences and base states, not the two sides of pairs; open it with "
                             "Differences.open, whose vector() is the mean difference")  # fmt: skip
        found = self[layer] if not self.is_ragged else None
        if not isinstance(found, Paired):
            raise InputError('this store holds several tokens a side (read="each"); pool it: store.pool("mean") or '
                             'store.pool("last")')  # fmt: skip
        return found

    def rows(self, layer: int, numbers: Sequence[int]) -> Paired | RaggedPaired:
        """Some pairs of one layer, in the order asked for; only their bytes are read.

        Args:
            layer: The layer.
            numbers: Which pairs, counted from 0 in this view.

        Raises:
            InputError: A number is negative, or beyond the last pair.
            LayerError: The store does not hold that layer.
        """
        wanted = np.asarray(numbers)
        if wanted.ndim != 1 or (wanted.size and wanted.dtype.kind not in "iu"):
            raise InputError(f"numbers={numbers!r} is not valid; give a list of the pairs' numbers")
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < len(self)):
            bad = wanted[(wanted < 0) | (wanted >= len(self))][0]
            raise InputError(f"pair {bad} does not exist; this store has the pairs 0 to {len(self) - 1}")
        return self._gather(layer, self.numbers[wanted.astype(np.int64)])

    def _gather(self, layer: int, pairs: Numbers | None) -> Paired | RaggedPaired:
        self._check_layer(layer)
        if self.manifest.get("keep") == "statistics":
            raise StoreError("this store keeps statistics and no rows; take store.statistics(layer), or extract with "
                             "'mean_difference', 'pca' or 'lda', or record with keep=\"rows\"")  # fmt: skip
        if self.is_ragged:
            return gather_ragged(self._source, int(layer), pairs, hidden=self.hidden_size)
        count = len(self) if pairs is None else len(pairs)
        return gather_pairs(self._source, int(layer), pairs, count=count, hidden=self.hidden_size)

    def _check_layer(self, layer: int) -> None:
        if layer not in self.layers:
            raise LayerError(f"layer {layer!r} is not in this store; it holds {name_layers(self.layers)}")

    def _check_layers(self, layers: Sequence[int] | int) -> list[int]:
        wanted = [layers] if isinstance(layers, int) else list(layers)
        if not wanted or any(layer not in self.layers for layer in wanted):
            raise LayerError(f"layers={wanted} is not valid; this store holds {name_layers(self.layers)}")
        return sorted(set(wanted))

    def iterate(
        self, *, batch: int = 256, layers: Sequence[int] | int | None = None, shuffle: bool = False, seed: int = 0
    ) -> Iterator[dict[int, Paired | RaggedPaired]]:
        """All pairs in batches, `{layer: both sides}`; never more than one batch is in memory.

        Args:
            batch: Pairs in a batch, at least 1; the last one may have fewer.
            layers: Some of the layers.
            shuffle: In an order of chance, else in the store's.
            seed: Of chance.

        Raises:
            InputError: The batch is not valid.
            LayerError: The store does not hold one of the layers.
        """
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
            raise InputError(f"batch={batch!r} is not valid; give an integer of at least 1")
        wanted = self._check_layers(self.layers if layers is None else layers)
        order = np.random.default_rng(seed).permutation(len(self)) if shuffle else np.arange(len(self))
        parts = (order[first : first + batch] for first in range(0, len(self), batch))
        return ({layer: self._gather(layer, self.numbers[part]) for layer in wanted} for part in parts)

    @property
    def numbers(self) -> Numbers:
        """The pairs that this view shows, as the store counts them."""
        return np.arange(int(self.manifest["pairs"])) if self._chosen is None else self._chosen

    @cached_property
    def index(self) -> Sequence[Row]:
        """What each row of the whole store is, two a pair; a row is read when it is asked for."""
        if self._given_index is not None:
            return self._given_index
        rows = 2 * int(self.manifest["pairs"])
        return IndexFile(self._source.folders[0], rows=rows, sha256=self.manifest["index_sha256"])

    def row(self, number: int) -> PairRow:
        """What one pair is, counted from 0 in this view."""
        at = int(self.numbers[range(len(self))[number]])
        return PairRow.of(number, self.index[2 * at], self.index[2 * at + 1])

    @property
    def ids(self) -> list[str]:
        """The pairs' names."""
        return [str(self.index[2 * int(i)]["pair"]) for i in self.numbers]

    @property
    def letters(self) -> list[str | None]:
        """The letter of each pair's positive answer; `None` where a pair is not a multiple choice."""
        return [self.index[2 * int(i)].get("letter") for i in self.numbers]

    def statistics(self, layer: int) -> Moments | None:
        """What was summed over all pairs while recording with `statistics=`; `None` without it, or for some pairs.

        Raises:
            LayerError: The store does not hold that layer.
        """
        from steerkit.store.tally import load_moments

        self._check_layer(layer)
        if self._chosen is not None or not self.manifest.get("statistics"):
            return None
        if self._moments is not None:
            return self._moments.get(layer)
        return load_moments(self._source.folders[0], self.manifest, layer)
