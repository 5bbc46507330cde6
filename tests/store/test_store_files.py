from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from store_cases import edit, make

from steerkit.errors import StoreError
from steerkit.store import ActivationStore
from steerkit.store import shards as shards_file


def test_not_a_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"is not an activation store: it holds no manifest.json"):
        ActivationStore.open(tmp_path)


def test_a_damaged_manifest(tmp_path: Path) -> None:
    make().save(tmp_path / "s")
    (tmp_path / "s" / "manifest.json").write_text("{ half")
    with pytest.raises(StoreError, match=r"manifest.json is damaged .* overwrite=True"):
        ActivationStore.open(tmp_path / "s")


def test_another_schema(tmp_path: Path) -> None:
    make().save(tmp_path / "s")
    edit(tmp_path / "s", schema_version=7, steerkit_version="3.0")
    with pytest.raises(StoreError, match=r"schema_version 7; this version of steerkit reads 2. .*\(3.0\)"):
        ActivationStore.open(tmp_path / "s")


def test_a_manifest_that_lacks_a_field(tmp_path: Path) -> None:
    make().save(tmp_path / "s")
    path = tmp_path / "s" / "manifest.json"
    path.write_text(json.dumps({"schema_version": 2, "kind": "pooled", "model": {}}))
    with pytest.raises(StoreError, match="lacks site, layers"):
        ActivationStore.open(tmp_path / "s")


def test_a_missing_shard(tmp_path: Path) -> None:
    make(rows_per_shard=8).save(tmp_path / "s")
    for shard in sorted((tmp_path / "s" / "shards").iterdir())[-1:]:
        shard.unlink()
    with pytest.raises(StoreError, match=r"incomplete: 1 of 3 shards are missing.*Run the same record again"):
        ActivationStore.open(tmp_path / "s")


def test_a_truncated_shard(tmp_path: Path) -> None:
    make().save(tmp_path / "s")
    shard = next((tmp_path / "s" / "shards").iterdir())
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(StoreError, match=r"safetensors is damaged"):
        ActivationStore.open(tmp_path / "s")[1]


def test_a_shard_of_another_store(tmp_path: Path) -> None:
    make().save(tmp_path / "s")
    make(site="x", read="last").save(tmp_path / "t")
    name = next((tmp_path / "s" / "shards").iterdir()).name
    os.replace(tmp_path / "t" / "shards" / name, tmp_path / "s" / "shards" / name)  # noqa: PTH105
    with pytest.raises(StoreError, match="belongs to another store"):
        ActivationStore.open(tmp_path / "s")[1]


def test_a_shard_of_unknown_origin(tmp_path: Path) -> None:
    make().save(tmp_path / "s")
    shard = next((tmp_path / "s" / "shards").iterdir())
    save_file(load_file(shard), shard)
    with pytest.raises(StoreError, match="belongs to another store"):
        ActivationStore.open(tmp_path / "s")[1]


def test_a_damaged_index(tmp_path: Path) -> None:
    make().save(tmp_path / "s")
    path = tmp_path / "s" / "index.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(StoreError, match="has 23 rows, the manifest says 24"):
        _ = ActivationStore.open(tmp_path / "s").ids
    path.unlink()
    with pytest.raises(StoreError, match=r"index.jsonl cannot be read"):
        _ = ActivationStore.open(tmp_path / "s").ids


def test_save_overwrites_only_when_told(tmp_path: Path) -> None:
    make().save(tmp_path / "s")
    with pytest.raises(StoreError, match=r"holds a store; give another path, or overwrite=True"):
        make().save(tmp_path / "s")
    small = make(pairs=2).save(tmp_path / "s", overwrite=True)
    assert len(small) == 2
    assert len(list((tmp_path / "s" / "shards").iterdir())) == 1


def test_it_never_writes_among_other_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("...")
    with pytest.raises(StoreError, match=r"holds other files \(thesis.tex\)"):
        make().save(tmp_path, overwrite=True)
    with pytest.raises(StoreError, match=r"thesis.tex is a file"):
        make().save(tmp_path / "thesis.tex")
    assert (tmp_path / "thesis.tex").read_text() == "..."


def test_shards_stay_small() -> None:
    assert shards_file.pairs_per_shard(layers=8, hidden_size=256, dtype="float32") == 1000
    assert shards_file.pairs_per_shard(layers=80, hidden_size=8192, dtype="float32") == 12
    assert shards_file.pairs_per_shard(layers=80, hidden_size=8192, dtype="bfloat16") == 25
    assert shards_file.pairs_per_shard(layers=1000, hidden_size=100_000, dtype="float32") == 1
