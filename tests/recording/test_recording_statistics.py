from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from recording_cases import choices, files, torch_hook
from tiny import tiny

from steerkit.errors import MismatchError, StoreError
from steerkit.extraction import extract
from steerkit.recording import record
from steerkit.store import ActivationStore
from steerkit.store.statistics import Moments


def close(a: Any, b: Any) -> None:
    """Within rounding of the states: other batches round otherwise, and a gap is a small difference of large states."""
    assert a.layers == b.layers
    for layer in a.layers:
        x, y = a.at(layer).double(), b.at(layer).double()
        assert float((x - y).norm()) < 1e-6 * b.meta["residual_norm"][layer]
        assert float(y.norm()) > 1e-3 * b.meta["residual_norm"][layer]
        for name in ("gap", "residual_norm"):
            assert a.meta[name][layer] == pytest.approx(b.meta[name][layer], rel=2e-5)


def place(tmp_path: Path, on_disk: bool, name: str) -> Path | None:
    return tmp_path / name if on_disk else None


@pytest.mark.parametrize("on_disk", [True, False])
@pytest.mark.parametrize("keep", ["rows", "statistics"])
@pytest.mark.parametrize("method", ["mean_difference", "pca", "lda"])
def test_vectors_from_statistics_are_those_from_rows(tmp_path: Path, on_disk: bool, keep: Any, method: str) -> None:
    model = tiny("llama")
    plain = record(model, choices(24), layers=[1, 2], read="last")
    summed = record(
        model, choices(24), layers=[1, 2], read="last", statistics="covariance", keep=keep, shard_pairs=5,
        path=place(tmp_path, on_disk, "s"),
    )  # fmt: skip
    close(extract(summed, method), extract(plain, method))
    assert extract(summed, method).meta["pairs"] == 24
    found = summed.statistics(2)
    assert found is not None
    torch.testing.assert_close(found.difference, plain.paired(2).difference.double().mean(0), atol=2e-6, rtol=1e-6)
    if keep == "statistics":
        with pytest.raises(StoreError, match="keeps statistics and no rows"):
            summed[1]


def test_no_rows_lie_there(tmp_path: Path) -> None:
    store = record(tiny("llama"), choices(9), path=tmp_path / "s", statistics="mean", keep="statistics", shard_pairs=2)
    assert sorted(files(tmp_path / "s")) == ["index.jsonl", "manifest.json", "statistics/0-of-1.safetensors"]
    assert store.verify().ok
    again = ActivationStore.open(tmp_path / "s")
    assert repr(again.statistics(3)) == "Moments(9 pairs x 32)"
    close(extract(again), extract(record(tiny("llama"), choices(9))))
    data = bytearray((tmp_path / "s/statistics/0-of-1.safetensors").read_bytes())
    data[-5] ^= 1
    (tmp_path / "s/statistics/0-of-1.safetensors").write_bytes(data)
    assert not again.verify().ok


def test_views_of_some_pairs_have_none() -> None:
    store = record(tiny("llama"), choices(12), statistics="mean")
    train, _ = store.split(test=4)
    assert train.statistics(1) is None
    assert store.select([1]).statistics(1) is not None
    close(extract(train), extract(record(tiny("llama"), choices(12)).split(test=4)[0]))


@pytest.mark.parametrize("keep", ["rows", "statistics"])
def test_interrupted_statistics_go_on(tmp_path: Path, keep: Any) -> None:
    model = tiny("llama")
    options: dict[str, Any] = {"statistics": "covariance", "keep": keep, "shard_pairs": 2, "batch_size": 2}
    record(model, choices(12), path=tmp_path / "whole", **options)
    calls: list[int] = []

    def fail(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 6:  # the check, twice; then three shards
            raise KeyboardInterrupt

    with torch_hook(model.parts.blocks[0], fail), pytest.raises(KeyboardInterrupt):
        record(model, choices(12), path=tmp_path / "s", **options)
    calls.clear()
    with torch_hook(model.parts.blocks[0], lambda *_: calls.append(1)):
        record(model, choices(12), path=tmp_path / "s", **options)
    assert 2 + 3 <= len(calls) <= 2 + 6 - (keep == "rows") * 3
    assert files(tmp_path / "s") == files(tmp_path / "whole")


def test_lost_statistics_come_back_from_the_rows(tmp_path: Path) -> None:
    model = tiny("llama")
    record(model, choices(9), path=tmp_path / "s", statistics="covariance", shard_pairs=2)
    before = files(tmp_path / "s")
    (tmp_path / "s/statistics/0-of-1.safetensors").unlink()
    assert ActivationStore.open(tmp_path / "s").statistics(1) is None
    calls: list[int] = []
    with torch_hook(model.parts.blocks[0], lambda *_: calls.append(1)):
        record(model, choices(9), path=tmp_path / "s", statistics="covariance", shard_pairs=2)
    assert calls == []
    assert files(tmp_path / "s") == before


def test_a_shard_that_comes_back_is_not_counted_twice(tmp_path: Path) -> None:
    model = tiny("llama")
    record(model, choices(9), path=tmp_path / "s", statistics="mean", shard_pairs=2)
    before = files(tmp_path / "s")
    (tmp_path / "s/shards/00000004-00000007.safetensors").unlink()
    store = record(model, choices(9), path=tmp_path / "s", statistics="mean", shard_pairs=2)
    assert files(tmp_path / "s") == before
    found = store.statistics(1)
    assert isinstance(found, Moments)
    assert found.pairs == 9


def test_other_statistics_are_another_store(tmp_path: Path) -> None:
    record(tiny("llama"), choices(4), path=tmp_path / "s", statistics="mean")
    with pytest.raises(MismatchError, match="statistics: the store has 'mean', this call has 'covariance'"):
        record(tiny("llama"), choices(4), path=tmp_path / "s", statistics="covariance")
    with pytest.raises(MismatchError, match="keep: the store has 'rows', this call has 'statistics'"):
        record(tiny("llama"), choices(4), path=tmp_path / "s", statistics="mean", keep="statistics")


def test_damaged_statistics_are_named(tmp_path: Path) -> None:
    store = record(tiny("llama"), choices(4), path=tmp_path / "s", statistics="mean")
    path = tmp_path / "s/statistics/0-of-1.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(StoreError, match=r"0-of-1\.safetensors is damaged .*delete it and run the same record again"):
        store.statistics(3)
    record(tiny("llama"), choices(5), path=tmp_path / "other", statistics="mean")
    path.write_bytes((tmp_path / "other/statistics/0-of-1.safetensors").read_bytes())
    with pytest.raises(StoreError, match="belongs to another store"):
        store.statistics(1)
