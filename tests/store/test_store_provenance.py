from __future__ import annotations

from pathlib import Path

import pytest
from store_cases import INFO, make

from steerkit.backends.base import ModelInfo
from steerkit.errors import MismatchError
from steerkit.store import ActivationStore
from steerkit.store.manifest import differences, identity


def test_open_with_the_same_model(tmp_path: Path) -> None:
    make().save(tmp_path / "s")
    moved = ModelInfo(
        "elsewhere", "llama", 4, 8, "float32", "cuda", fingerprint="f00d", tokenizer="70c0", template="7e40"
    )
    assert len(ActivationStore.open(tmp_path / "s", model=moved)) == 12


def test_open_with_another_model_lists_every_difference(tmp_path: Path) -> None:
    make().save(tmp_path / "s")
    other = ModelInfo("big", "llama", 4, 8, "float32", "cpu", fingerprint="beef", tokenizer="70c0", template="")
    with pytest.raises(MismatchError) as caught:
        ActivationStore.open(tmp_path / "s", model=other)
    message = str(caught.value)
    assert "'tiny', not with 'big'" in message
    assert "model.fingerprint: the store has 'f00d', this model has 'beef'" in message
    assert "model.template: the store has '7e40', this model has ''" in message
    assert "tokenizer" not in message
    assert "override=True" in message
    assert len(ActivationStore.open(tmp_path / "s", model=other, override=True)) == 12


def test_without_a_fingerprint_the_name_counts(tmp_path: Path) -> None:
    nameless = {**INFO.as_dict(), "fingerprint": ""}
    make(model=nameless).save(tmp_path / "s")
    with pytest.raises(MismatchError, match=r"model.name: the store has 'tiny', this model has 'other'"):
        ActivationStore.open(tmp_path / "s", model={**nameless, "name": "other"})


def test_a_revision_counts_where_both_name_one(tmp_path: Path) -> None:
    make(model={**INFO.as_dict(), "revision": "v1"}).save(tmp_path / "s")
    assert ActivationStore.open(tmp_path / "s", model=INFO)
    with pytest.raises(MismatchError, match=r"model.revision: the store has 'v1', this model has 'v2'"):
        ActivationStore.open(tmp_path / "s", model={**INFO.as_dict(), "revision": "v2"})


@pytest.mark.parametrize(
    ("field", "value"),
    [("site", "mlp_out"), ("layers", [1]), ("dtype", "float16"), ("read", "last"), ("template", "plain"), ("pairs", 3),
     ("rows_per_shard", 2), ("steerkit_version", "9"), ("hidden_size", 9)],
)  # fmt: skip
def test_every_setting_counts_and_changes_the_identity(field: str, value: object) -> None:
    mine = make().manifest
    other = {**mine, field: value}
    assert [name for name, _, _ in differences(mine, other)] == [field]
    assert identity(mine) != identity(other)


def test_where_it_lies_and_runs_does_not_count() -> None:
    mine = make().manifest
    other = {**mine, "model": {**mine["model"], "device": "cuda:0", "name": "moved"}, "batch_size": 3}
    assert differences(mine, other) == []
    assert identity(mine) == identity(other)
