from __future__ import annotations

from pathlib import Path

import pytest
import torch
from store_cases import about, files, fill, make, values

from steerkit.errors import InputError, StoreError
from steerkit.store import ActivationStore, Paired, Ragged, RaggedPaired
from steerkit.store.rows import collect
from steerkit.store.shards import DTYPES

BITS = {"float32": torch.int32, "float16": torch.int16, "bfloat16": torch.int16}


def odd(rows: torch.Tensor) -> torch.Tensor:
    """With values that are easily lost: negative zero, the smallest, the largest."""
    info = torch.finfo(rows.dtype)
    rows.view(-1)[:4] = torch.tensor([-0.0, info.smallest_normal, info.max, -info.max], dtype=rows.dtype)
    return rows


@pytest.mark.parametrize("kind", ["pooled", "each"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_round_trip_is_exact_to_the_bit(tmp_path: Path, dtype: str, kind: str) -> None:
    manifest = about(21, kind=kind, dtype=dtype, max_tokens=5)
    rows, offsets = values(manifest)
    store = fill(tmp_path / "s", manifest)
    again = store.save(tmp_path / "t")
    for layer, wanted in rows.items():
        for one in (store, again):
            found, edges = collect(one._source, layer, None)
            assert found.dtype == DTYPES[dtype]
            assert torch.equal(found.view(BITS[dtype]), wanted.view(BITS[dtype]))
            assert (edges is None) == (offsets is None)
            assert edges is None or torch.equal(edges, offsets)
    assert files(tmp_path / "s") == files(tmp_path / "t")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_values_that_are_easily_lost(tmp_path: Path, dtype: str) -> None:
    rows = odd(torch.zeros(2, 4, dtype=DTYPES[dtype]))
    made = make(2, 4, (1,), dtype=dtype)
    made._source.put((0, 4), {1: torch.cat([rows, rows])}, None)  # type: ignore[attr-defined]
    saved = made.save(tmp_path / "s")
    found, _ = collect(saved._source, 1, None)
    assert torch.equal(found.view(BITS[dtype]), torch.cat([rows, rows]).view(BITS[dtype]))


def test_a_ragged_layer_is_the_tokens_of_both_sides(tmp_path: Path) -> None:
    manifest = about(9, kind="each", max_tokens=5)
    rows, offsets = values(manifest)
    assert offsets is not None
    store = fill(tmp_path / "s", manifest)
    found = store[2]
    assert isinstance(found, RaggedPaired)
    assert store.is_ragged
    for pair in range(9):
        for side, row in ((found.positive, 2 * pair), (found.negative, 2 * pair + 1)):
            assert torch.equal(side[pair], rows[2][int(offsets[row]) : int(offsets[row + 1])])
    assert torch.equal(found.positive.lengths, offsets.diff()[0::2])
    picked = store.rows(2, [7, 0, 7])
    assert isinstance(picked, RaggedPaired)
    assert torch.equal(picked.negative[0], found.negative[7])
    assert torch.equal(picked.negative[1], found.negative[0])
    assert len(store.rows(2, [])) == 0


def test_a_ragged_store_in_memory_is_the_same(tmp_path: Path) -> None:
    manifest = about(9, kind="each", max_tokens=5)
    on_disk, in_memory = fill(tmp_path / "s", manifest), fill(None, manifest)  # type: ignore[arg-type]
    for a, b in ((on_disk[0], in_memory[0]), (on_disk.rows(2, [5, 1]), in_memory.rows(2, [5, 1]))):
        assert torch.equal(a.positive.values, b.positive.values)  # type: ignore[union-attr]
        assert torch.equal(a.negative.offsets, b.negative.offsets)  # type: ignore[union-attr]
    in_memory.save(tmp_path / "t")
    assert files(tmp_path / "t") == files(tmp_path / "s")


def test_pooling_is_the_mean_or_the_last_of_each_row(tmp_path: Path) -> None:
    store = fill(tmp_path / "s", about(9, kind="each", max_tokens=5))
    tokens = store[2]
    assert isinstance(tokens, RaggedPaired)
    mean, last = store.pool("mean"), store.pool("last")
    for pair in range(9):
        torch.testing.assert_close(mean.paired(2).positive[pair], tokens.positive[pair].mean(0))
        assert torch.equal(last.paired(2).negative[pair], tokens.negative[pair][-1])
    assert torch.equal(mean.rows(2, [8, 3]).positive, mean.paired(2).positive[[8, 3]])  # type: ignore[arg-type, index]
    saved = last.save(tmp_path / "t")
    assert torch.equal(saved.paired(0).positive, last.paired(0).positive)
    assert saved.manifest["pool"] == "last"
    assert "pooled: last" in repr(saved)
    train, test = mean.split(test=3)
    assert (len(train), len(test)) == (6, 3)


def test_what_needs_one_row_a_side_says_pool_it(tmp_path: Path) -> None:
    store = fill(tmp_path / "s", about(9, kind="each", max_tokens=5))
    for work in (lambda: store.paired(2), store.to_numpy):
        with pytest.raises(InputError, match=r'several tokens a side .*pool it: store.pool\("mean"\)'):
            work()
    with pytest.raises(InputError, match="nothing to pool"):
        make().pool("mean")


@pytest.mark.usefixtures("as_user")
def test_bad_ragged_values_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pool\\('max'\\) is not valid"):
        fill(tmp_path / "s", about(2, kind="each", max_tokens=5)).pool("max")  # type: ignore[arg-type]
    for offsets in ([0, 2], [1, 3], [0, 2, 1, 3], []):
        with pytest.raises(InputError, match="offsets must rise from 0 to the number of tokens, 3"):
            Ragged(torch.zeros(3, 2), torch.tensor(offsets, dtype=torch.long))


def test_a_row_without_tokens_cannot_be_pooled(tmp_path: Path) -> None:
    from steerkit.store import StoreWriter

    manifest = about(1, kind="each", max_tokens=2)
    with StoreWriter(None, manifest) as writer:
        writer.begin([{"pair": "0", "side": "positive"}, {"pair": "0", "side": "negative"}], path_taken="plain")
        writer.put((0, 2), {layer: torch.ones(1, 4) for layer in (0, 2)}, torch.tensor([0, 0, 1]))
        store = writer.finish()
    with pytest.raises(StoreError, match="row 0 of a shard has no token"):
        store.pool("mean")[0]


def test_the_size_counts_tokens(tmp_path: Path) -> None:
    store = fill(tmp_path / "s", about(9, kind="each", max_tokens=1))
    assert store.nbytes == 18 * 2 * 4 * 4  # the index says one position a row
    assert isinstance(ActivationStore.from_layers({0: Paired(torch.ones(1, 2), torch.ones(1, 2))})[0], Paired)
