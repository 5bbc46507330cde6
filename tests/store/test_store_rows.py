from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from store_cases import make

from steerkit.errors import InputError, LayerError
from steerkit.store import ActivationStore, Paired
from steerkit.store import shards as shards_file


def test_a_paired_refuses_unequal_sides() -> None:
    paired = object.__new__(Paired)  # past the type checks of the test run, as users call it
    paired.__dict__.update(positive=torch.zeros(2, 3), negative=torch.zeros(3, 3))
    with pytest.raises(InputError, match=r"positive is \(2, 3\) and negative \(3, 3\)"):
        paired.__post_init__()


def test_rows_stay_with_their_pairs(tmp_path: Path) -> None:
    store = make()
    saved = store.save(tmp_path / "s")
    for layer in (1, 3):
        assert torch.equal(saved[layer].positive, store[layer].positive)
        assert torch.equal(saved[layer].negative, store[layer].negative)
    rows = load_file(next((tmp_path / "s" / "shards").iterdir()))["layer.3"]
    assert torch.equal(rows[0::2], store[3].positive)
    assert torch.equal(rows[1::2], store[3].negative)
    assert saved.ids == store.ids == [str(i) for i in range(12)]
    assert saved.letters == store.letters


def test_difference_is_positive_minus_negative() -> None:
    paired = make()[1]
    assert torch.equal(paired.difference, paired.positive - paired.negative)
    assert len(paired) == 12


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_round_trip_is_bit_exact(tmp_path: Path, dtype: str) -> None:
    store = make(dtype=dtype)
    saved = store.save(tmp_path / "s")
    wanted = store[1].positive.to(shards_file.DTYPES[dtype])
    assert saved[1].positive.dtype == torch.float32
    assert torch.equal(saved[1].positive.to(wanted.dtype), wanted)
    assert not torch.equal(saved[1].positive, store[1].positive)
    assert saved.nbytes == make().nbytes // 2
    again = saved.save(tmp_path / "t")
    assert torch.equal(again[3].negative, saved[3].negative)


def test_one_layer_reads_only_its_own_bytes(tmp_path: Path) -> None:
    """The bytes of the other layer are destroyed, and nobody notices."""
    store = make(pairs=2, hidden=1024).save(tmp_path / "s")
    before = store[3]
    shard = next((tmp_path / "s" / "shards").iterdir())
    raw = bytearray(shard.read_bytes())
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    start, end = (8 + int.from_bytes(raw[:8], "little") + at for at in header["layer.1"]["data_offsets"])
    raw[start:end] = b"\xff" * (end - start)
    shard.write_bytes(raw)
    reopened = ActivationStore.open(tmp_path / "s")
    assert torch.equal(reopened[3].positive, before.positive)
    assert reopened[1].positive.isnan().all()


def test_select_shows_some_layers() -> None:
    store = make().select([3])
    assert store.layers == (3,)
    with pytest.raises(LayerError, match="layer 1 is not in this store; it holds layers 3"):
        store[1]
    assert make().select(1).layers == (1,)


def test_a_view_is_saved_as_what_it_shows(tmp_path: Path) -> None:
    _, test = make(pairs=20).select(3).split(test=5)
    saved = test.save(tmp_path / "s")
    assert saved.ids == test.ids
    assert saved.layers == (3,)
    assert torch.equal(saved[3].negative, test[3].negative)


def test_to_numpy() -> None:
    store = make()
    arrays = store.to_numpy()
    assert arrays["negative"].shape == (2, 12, 8)
    np.testing.assert_array_equal(arrays["positive"][1], store[3].positive.numpy())


def test_it_prints_as_a_table(tmp_path: Path) -> None:
    store = make().save(tmp_path / "s")
    text = repr(store)
    for word in (
        "12 pairs, 2 layers x 8",
        "1.54 kB in float32",
        "A 4, B 8",
        "layers 1, 3",
        "resid_post",
        "tiny",
        "made",
    ):
        assert word in text
    assert store._repr_html_().startswith("<table")
    assert "9 of 12" in repr(store.split()[0])


def test_from_layers_refuses_what_does_not_fit() -> None:
    a, b = Paired(torch.zeros(2, 3), torch.zeros(2, 3)), Paired(torch.zeros(4, 3), torch.zeros(4, 3))
    with pytest.raises(InputError, match="give one or more layers of the same pairs"):
        ActivationStore.from_layers({0: a, 1: b})
    with pytest.raises(InputError, match="1 ids for 2 pairs"):
        ActivationStore.from_layers({0: a}, ids=["x"])
