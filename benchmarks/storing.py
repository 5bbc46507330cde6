"""Filling a store against the bare forward pass, and writing and reading it against plain files of the same rows."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import steerkit as sk
from benchmarks.subjects import choices, llama
from benchmarks.timing import Ratio, ratio, seconds
from steerkit.data.pairs import Pairs
from steerkit.recording.batches import bucket
from steerkit.recording.job import prepare
from steerkit.recording.reader import feed_packed
from steerkit.store import ActivationStore, Paired, StoreWriter

SHARD = 2000
"""Rows of a file, for all."""
LAYER = 13
PICKED = 256


def run(*, runs: int = 7, rows: int = 20_000, layers: int = 24, hidden: int = 512, pairs: int = 256) -> Iterator[Ratio]:
    """Recording 120-token pairs through 16 layers; then files of fp16 rows, 492 MB where nothing else is said."""
    with _folder() as place:
        yield _record(place, pairs, runs)
        stored = Stored(place, rows, layers, hidden)
        yield from stored.writing(max(runs // 2, 1))
        yield from stored.reading(runs)


@contextmanager
def _folder() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="steerkit-bench-"))
    try:
        yield place
    finally:
        shutil.rmtree(place)


def _record(place: Path, count: int, runs: int) -> Ratio:
    """To disk, against the forward passes alone over the very same packed batches."""
    model, pairs = llama(), Pairs([*choices(count, tokens=120)])
    job = prepare(
        model, pairs, layers="all", site="resid_post", read=None, dtype="float16", max_tokens=None, statistics=None,
        keep="rows", batch_tokens=None, batch_size=None, shard_pairs=64,
    )  # fmt: skip
    batches = []
    for first in range(0, count, 64):
        planned = job.planner.between(first, min(first + 64, count))
        for numbers in bucket(planned, tokens=job.tokens, most=None, packed=True):
            batches.append(feed_packed([planned[i] for i in numbers], pad_id=0).batch)

    def record() -> None:
        sk.record(model, pairs, path=place / "r", dtype="float16", shard_pairs=64, overwrite=True, progress=False)

    def forward() -> None:
        for batch in batches:
            model.forward(batch, until=model.info.num_layers - 1)

    name = "record to disk: share of the bare packed forward's throughput"
    return ratio(name, record, forward, runs=runs, at_least=0.9, inverse=True)


class Stored:
    """The same rows as a store, as plain safetensors, as a numpy file a layer, and as datasets' Array2D."""

    def __init__(self, place: Path, rows: int, layers: int, hidden: int) -> None:
        self.place, self.rows, self.layers, self.hidden = place, rows, layers, hidden
        self.layer = min(LAYER, layers - 1)
        draw = torch.Generator().manual_seed(0)
        self.values = [torch.randn(rows, hidden, generator=draw).half() for _ in range(layers)]
        sides = Paired(torch.zeros(rows // 2, hidden), torch.zeros(rows // 2, hidden))
        made = ActivationStore.from_layers({0: sides}).manifest
        self.manifest = {**made, "layers": [*range(layers)], "dtype": "float16", "rows_per_shard": SHARD}
        self.index = [{"pair": str(row // 2), "side": "..."} for row in range(rows)]
        self.picked = np.random.default_rng(0).choice(rows // 2, min(PICKED, rows // 2), replace=False).tolist()
        self.spans = [(first, min(first + SHARD, rows)) for first in range(0, rows, SHARD)]

    def _cut(self, span: tuple[int, int]) -> dict[int, Tensor]:
        return {layer: self.values[layer][slice(*span)] for layer in range(self.layers)}

    def write_store(self) -> None:
        with StoreWriter(self.place / "store", self.manifest, overwrite=True) as writer:
            writer.begin(self.index, path_taken="plain")
            for span in writer.missing:
                writer.put(span, self._cut(span))

    def write_plain(self, *, sync: bool) -> None:
        (self.place / "plain").mkdir(exist_ok=True)
        for span in self.spans:
            path = self.place / "plain" / f"{span[0]:08d}.safetensors"
            save_file({f"layer.{layer}": one.contiguous() for layer, one in self._cut(span).items()}, path)
            if sync:
                with path.open("rb") as file:
                    os.fsync(file.fileno())

    def write_numpy(self) -> None:
        for layer, values in enumerate(self.values):
            file = np.memmap(self.place / f"{layer}.bin", np.float16, "w+", shape=(self.rows, self.hidden))
            file[:] = values.numpy()
            file.flush()

    def write_array2d(self) -> datasets.Dataset:
        def rows() -> Iterator[dict[str, Any]]:
            for row in range(self.rows):
                yield {"acts": np.stack([one[row].numpy() for one in self.values])}

        features = datasets.Features({"acts": datasets.Array2D((self.layers, self.hidden), "float16")})
        datasets.disable_progress_bars()
        made = datasets.Dataset.from_generator(rows, features=features, cache_dir=str(self.place / "array2d"))
        return made.with_format("numpy")

    def writing(self, runs: int) -> Iterator[Ratio]:
        """The store is brought to the disk and carries checksums; plain files do not."""
        size = self.rows * self.layers * self.hidden * 2
        self.write_store()
        speed = size / seconds(self.write_store) / 1e6
        for name, other in {
            "save_file": lambda: self.write_plain(sync=False),
            "save_file and fsync": lambda: self.write_plain(sync=True),
            "numpy memmap, a file a layer": self.write_numpy,
        }.items():
            about = f"write {size / 1e6:.0f} MB ({speed:.0f} MB/s): store / {name}"
            yield ratio(about, self.write_store, other, runs=runs)

    def reading(self, runs: int) -> Iterator[Ratio]:
        """Both sides in float32 from every way, shown to be the same first."""
        array2d = self.write_array2d()
        one: dict[str, Callable[[], Paired]] = {
            "safe_open": lambda: self._split(self._safe_open(self.layer)),
            "numpy memmap": lambda: self._split(torch.from_numpy(np.array(self._numpy(self.layer)))),
            "datasets Array2D": lambda: self._split(self._array2d(array2d)),
        }
        some: dict[str, Callable[[], Paired]] = {
            "safe_open": self._safe_open_some,
            "numpy memmap": lambda: self._split(torch.from_numpy(self._numpy(self.layer)[self._wanted()])),
            "datasets Array2D": lambda: self._split(torch.from_numpy(array2d[self._wanted()]["acts"][:, self.layer])),
        }
        yield from self._compare("one layer, opened and read", self._store, one, runs, at_most={"safe_open": 1.5})
        yield from self._compare(f"{len(self.picked)} random pairs of it", self._store_some, some, runs)
        every = range(self.layers)
        yield ratio(
            "all layers read one by one: store / safe_open",
            lambda: [ActivationStore.open(self.place / "store")[layer] for layer in every],
            lambda: [self._split(self._safe_open(layer)) for layer in every],
            runs=max(runs // 2, 1),
        )

    def _compare(
        self,
        what: str,
        ours: Callable[[], Paired],
        others: dict[str, Callable[[], Paired]],
        runs: int,
        at_most: dict[str, float] | None = None,
    ) -> Iterator[Ratio]:
        aims = {"datasets Array2D": 0.1, **(at_most or {})}
        for name, other in others.items():
            mine, theirs = ours(), other()
            assert torch.equal(mine.positive, theirs.positive), f"{name} reads other rows"
            assert torch.equal(mine.negative, theirs.negative), f"{name} reads other rows"
            turns = max(runs // 2, 1) if name == "datasets Array2D" else runs
            found = ratio(f"read: {what}: store / {name}", ours, other, runs=turns, at_most=aims.get(name))
            yield replace(found, name=f"{found.name} ({1000 * seconds(ours):.1f} ms)")

    def _store(self) -> Paired:
        return ActivationStore.open(self.place / "store").paired(self.layer)

    def _store_some(self) -> Any:
        return ActivationStore.open(self.place / "store").rows(self.layer, self.picked)

    def _split(self, rows: Tensor) -> Paired:
        return Paired(rows[0::2].float(), rows[1::2].float())

    def _wanted(self) -> list[int]:
        return [2 * pair + side for pair in self.picked for side in (0, 1)]

    def _files(self) -> list[Path]:
        return sorted((self.place / "plain").iterdir())

    def _safe_open(self, layer: int) -> Tensor:
        found = []
        for path in self._files():
            with safe_open(path, framework="pt") as file:
                found.append(file.get_tensor(f"layer.{layer}"))
        return torch.cat(found)

    def _safe_open_some(self) -> Paired:
        wanted = np.array(self._wanted())
        rows = torch.empty(len(wanted), self.hidden, dtype=torch.float16)
        for number, path in enumerate(self._files()):
            here = np.flatnonzero(wanted // SHARD == number)
            if len(here):
                with safe_open(path, framework="pt") as file:
                    rows[here] = file.get_slice(f"layer.{self.layer}")[(wanted[here] % SHARD).tolist()]
        return self._split(rows)

    def _numpy(self, layer: int) -> np.memmap[Any, Any]:
        return np.memmap(self.place / f"{layer}.bin", np.float16, "r", shape=(self.rows, self.hidden))

    def _array2d(self, data: datasets.Dataset) -> Tensor:
        return torch.cat([
            torch.from_numpy(np.ascontiguousarray(data[first : first + 1000]["acts"][:, self.layer]))
            for first in range(0, self.rows, 1000)
        ])  # fmt: skip
