from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from recording_cases import (
    answers,
    check,
    choices,
    files,
    refused_mask,
    same,
    torch_hook,
)
from tiny import tiny

from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.data.pairs import Pairs
from steerkit.errors import MismatchError, PositionError, StoreError
from steerkit.recording import record
from steerkit.store import ActivationStore
from steerkit.store import shards as shards_file


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_file, "SHARD_PAIRS", 4)


def test_the_index_says_what_each_row_is(tmp_path: Path) -> None:
    record(tiny("llama"), choices(2), path=tmp_path / "s")
    rows = [json.loads(line) for line in (tmp_path / "s" / "index.jsonl").read_text().splitlines()]
    assert [row["pair"] for row in rows] == ["q0", "q0", "q1", "q1"]
    assert [row["side"] for row in rows] == ["positive", "negative"] * 2
    assert [row["letter"] for row in rows] == [row["token"] for row in rows] == ["A", "B", "B", "A"]
    assert len({row["text"] for row in rows}) == 4
    mean = record(tiny("llama"), answers(), read="mean")
    first, last = mean.index[0]["position"]
    assert last - first + 1 == len("I am glad") + 1  # and the space before it


def test_provenance(tmp_path: Path) -> None:
    model, pairs = tiny("llama"), choices()
    manifest = record(model, pairs, path=tmp_path / "s", layers=[1, 2]).manifest
    assert manifest["model"] == model.info.as_dict()
    assert manifest["data"] == {"name": "odd", "fingerprint": pairs.fingerprint}
    assert (manifest["site"], manifest["layers"], manifest["read"]) == ("resid_post", [1, 2], "letter")
    assert (manifest["hidden_size"], manifest["dtype"], manifest["schema_version"]) == (32, "float32", 2)
    assert len(ActivationStore.open(tmp_path / "s", model=model)) == 6
    with pytest.raises(MismatchError, match=r"model\.fingerprint: the store has .* this model has"):
        ActivationStore.open(tmp_path / "s", model=tiny("llama", seed=5))


def test_disk_is_memory(tmp_path: Path) -> None:
    model = tiny("llama")
    in_memory, on_disk = record(model, choices()), record(model, choices(), path=tmp_path / "s")
    same(in_memory, on_disk)
    assert in_memory.letters == on_disk.letters == list("ABABAB")
    in_memory.save(tmp_path / "t")
    assert files(tmp_path / "t") == files(tmp_path / "s")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_the_rounded_full(tmp_path: Path, dtype: str) -> None:
    model = tiny("llama")
    full = record(model, choices())
    half = record(model, choices(), path=tmp_path / "s", dtype=dtype)
    assert torch.equal(half[2].positive, full[2].positive.to(shards_file.DTYPES[dtype]).float())
    assert half.nbytes * 2 == full.nbytes


def test_a_half_precision_model() -> None:
    model = tiny("llama")
    full = record(model, choices())
    model.hf.to(torch.bfloat16)
    half = record(HuggingFaceModel(model.hf, model.tokenizer), choices())
    off = (half[3].positive - full[3].positive).norm() / full[3].positive.norm()
    assert half.manifest["model"]["dtype"] == "bfloat16"
    assert half.manifest["path"] == "packed"
    assert 0 < float(off) < 0.1


def test_a_deleted_shard_comes_back(tmp_path: Path, small_shards: None) -> None:
    model = tiny("llama")
    record(model, choices(10), path=tmp_path / "s")
    before = files(tmp_path / "s")
    assert len([name for name in before if name.endswith(".safetensors")]) == 3
    kept = tmp_path / "s" / "shards" / "00000000-00000007.safetensors"
    stamp = kept.stat().st_mtime_ns
    (tmp_path / "s" / "shards" / "00000008-00000015.safetensors").unlink()
    with pytest.raises(StoreError, match="1 of 3 shards are missing, the first is 00000008-00000015"):
        ActivationStore.open(tmp_path / "s")
    record(model, choices(10), path=tmp_path / "s")
    assert files(tmp_path / "s") == before
    assert kept.stat().st_mtime_ns == stamp


def test_an_interrupted_record_goes_on(tmp_path: Path, small_shards: None) -> None:
    model = tiny("llama")
    record(model, choices(10), path=tmp_path / "whole", batch_size=2)
    calls = 0

    def fail(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt

    with torch_hook(model.parts.blocks[0], fail), pytest.raises(KeyboardInterrupt):
        record(model, choices(10), path=tmp_path / "s", batch_size=2)
    done = files(tmp_path / "s")
    assert [name for name in done if "shards" in name] == ["shards/00000000-00000007.safetensors"]
    counted: list[int] = []
    with torch_hook(model.parts.blocks[0], lambda *_: counted.append(1)):
        store = record(model, choices(10), path=tmp_path / "s", batch_size=2)
    assert len(counted) == 2 + 3  # the check, then the batches of the two shards that were missing
    assert files(tmp_path / "s") == files(tmp_path / "whole")
    check(store, model, choices(10), "letter")


def test_a_complete_store_is_not_computed_again(tmp_path: Path) -> None:
    model = tiny("llama")
    first = record(model, choices(), path=tmp_path / "s")
    counted: list[int] = []
    with torch_hook(model.parts.blocks[0], lambda *_: counted.append(1)):
        same(first, record(model, choices(), path=tmp_path / "s"))
    assert counted == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"layers": [1]}, r"layers: the store has \[0, 1, 2, 3\], this call has \[1\]"),
        ({"site": "mlp_out"}, "site: the store has 'resid_post', this call has 'mlp_out'"),
        ({"read": "last"}, "read: the store has 'letter', this call has 'last'"),
        ({"dtype": "float16"}, "dtype: the store has 'float32', this call has 'float16'"),
    ],
)
def test_another_setting_is_refused(tmp_path: Path, changes: dict[str, Any], line: str) -> None:
    model = tiny("llama")
    record(model, choices(), path=tmp_path / "s")
    before = files(tmp_path / "s")
    with pytest.raises(MismatchError, match=line):
        record(model, choices(), path=tmp_path / "s", **changes)
    assert files(tmp_path / "s") == before
    record(model, choices(), path=tmp_path / "s", overwrite=True, **changes)
    record(model, choices(), path=tmp_path / "t", **changes)
    assert files(tmp_path / "s") == files(tmp_path / "t")


def test_another_model_or_data_is_refused(tmp_path: Path) -> None:
    model = tiny("llama")
    record(model, choices(), path=tmp_path / "s")
    with pytest.raises(MismatchError, match=r"model\.fingerprint"):
        record(tiny("llama", seed=3), choices(), path=tmp_path / "s")
    with pytest.raises(MismatchError, match=r"model\.template"):
        record(tiny("llama", chat=False), choices(), path=tmp_path / "s")
    with pytest.raises(MismatchError, match=r"data\.fingerprint"):
        record(model, Pairs(choices()[::-1].items), path=tmp_path / "s")
    with pytest.raises(MismatchError, match="pairs: the store has 6, this call has 4"):
        record(model, choices(4), path=tmp_path / "s")


def test_going_on_the_other_way_is_refused(tmp_path: Path, small_shards: None) -> None:
    model = tiny("llama")
    record(model, choices(), path=tmp_path / "s")
    (tmp_path / "s" / "shards" / "00000008-00000011.safetensors").unlink()
    handle = refused_mask(model)
    with pytest.raises(MismatchError, match="were computed 'packed', this call would go on 'plain'"):
        record(model, choices(), path=tmp_path / "s")
    handle.remove()


def test_overwriting_removes_the_old_rows(tmp_path: Path, small_shards: None) -> None:
    model = tiny("llama")
    record(model, choices(10), path=tmp_path / "s")
    store = record(model, choices(3), path=tmp_path / "s", overwrite=True)
    assert len(store) == 3
    assert len(list((tmp_path / "s" / "shards").iterdir())) == 1


def test_bad_input_never_costs_an_old_store(tmp_path: Path) -> None:
    model = tiny("llama")
    record(model, choices(), path=tmp_path / "s")
    before = files(tmp_path / "s")
    with pytest.raises(PositionError):
        record(model, choices(), path=tmp_path / "s", read=900, overwrite=True)
    assert files(tmp_path / "s") == before
