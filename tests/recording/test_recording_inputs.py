from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from recording_cases import (
    ask,
    choices,
    computed,
    same,
    systems,
)
from tiny import tiny

from steerkit.data.pairs import ContrastPair, Pairs, Side
from steerkit.errors import DataError, InputError, LayerError, ModelError, PositionError
from steerkit.recording import record


def test_too_long_is_refused_before_any_compute(tmp_path: Path) -> None:
    model = tiny("llama", max_position_embeddings=45)
    with pytest.raises(DataError, match=r"pair 'q1' has 50 and 50 tokens, the model's context is 45.*on_long=\"skip\""):
        record(model, choices(), path=tmp_path / "s")
    assert computed(model, choices()) == 0
    assert not (tmp_path / "s").exists()
    assert len(record(model, choices().fits(model.tokenizer, 45, on_long="skip"))) < 6


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        (choices, {"layers": 4}, LayerError, "layer 4 does not exist; the model has 4 blocks, 0 to 3"),
        (choices, {"layers": []}, LayerError, "layers is empty"),
        (choices, {"layers": [1, 1]}, LayerError, "names a layer twice"),
        (choices, {"batch_size": 0}, InputError, "batch_size=0 is not valid; give an integer of at least 1"),
        (choices, {"dtype": "float64"}, InputError, "dtype='float64' is not valid; choose one of float32, float16"),
        (choices, {"read": -99}, PositionError, r"read=-99 is outside pair 'q0', which has a side of \d+ tokens"),
        (systems, {"read": "mean"}, DataError, "pair 's0' has a side without answer tokens"),
        (systems, {"read": "letter"}, DataError, "pair 's0' differs in its prompt"),
    ],
)
def test_bad_input(make: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    model = tiny("llama")
    with pytest.raises(error, match=message):
        record(model, make(), **options)
    assert computed(model, make(), **options) == 0


def test_one_answer_that_begins_the_other() -> None:
    pairs = Pairs([ContrastPair(Side(ask("Mood?"), "fine"), Side(ask("Mood?"), "fine thanks"), id="p")])
    with pytest.raises(DataError, match="pair 'p': one answer is the beginning of the other"):
        record(tiny("llama"), pairs, read="letter")
    assert len(record(tiny("llama"), pairs, read="last")) == 1


def test_a_site_that_the_model_lacks() -> None:
    with pytest.raises(LayerError, match="no site 'resid_mid'"):
        record(tiny("gpt_neox"), choices(), site="resid_mid")


def test_no_pairs() -> None:
    with pytest.raises(DataError, match="no pairs left"):
        record(tiny("llama"), [])


def test_a_list_of_pairs_will_do() -> None:
    same(record(tiny("llama"), list(choices())), record(tiny("llama"), choices()))


def test_nan_is_refused_with_its_place(tmp_path: Path) -> None:
    model = tiny("llama")
    token = model.tokenizer.convert_tokens_to_ids("5")
    with torch.no_grad():
        model.hf.model.embed_tokens.weight[token] = float("nan")
    with pytest.raises(ModelError, match=r"layer 1 of pair 'q5', positive side: the activations are NaN or infinite"):
        record(model, choices(), layers=[1, 2], path=tmp_path / "s")
    assert not list((tmp_path / "s").rglob("*.safetensors"))


def test_nan_is_counted(tmp_path: Path) -> None:
    """Both sides of one question of the second shard; what is stored before stays."""
    model = tiny("llama")
    token = model.tokenizer.convert_tokens_to_ids("5")
    with torch.no_grad():
        model.hf.model.embed_tokens.weight[token] = float("nan")
    pairs = Pairs([*choices(8), choices(6)[5]])
    message = r"2 of 8 rows of a shard cannot be stored, .*layer 0 of pair 'q5', positive side"
    with pytest.raises(ModelError, match=message):
        record(model, pairs, path=tmp_path / "s", shard_pairs=4, batch_size=3)
    assert [one.name for one in (tmp_path / "s" / "shards").iterdir()] == ["00000000-00000007.safetensors"]
    with pytest.raises(ModelError, match=r"6 of 8 rows .* activations are NaN or infinite"):
        record(model, Pairs([choices(1)[0], *[choices(6)[5]] * 3]), batch_size=1, read="each", max_tokens=2)


def test_a_dead_writer_is_spoken_of_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    note = tmp_path / "s" / "lock.0-of-1.json"
    note.parent.mkdir()
    note.write_text('{"host": "node7", "pid": 123, "since": "2026-01-02T03:04:05+00:00"}')
    record(tiny("llama"), choices(2), path=tmp_path / "s")
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "process 123 on node7 since 2026-01-02T03:04:05+00:00 wrote here and died" in said[0]
    assert not note.exists()


def test_float16_overflow_is_refused() -> None:
    model = tiny("llama")
    with torch.no_grad():
        model.hf.model.embed_tokens.weight.mul_(1e6)
    with pytest.raises(
        InputError, match=r"12 of 12 rows of a shard .* pair 'q0', positive side: [\d.e+]+ is too large"
    ):
        record(model, choices(), dtype="float16")
    with pytest.raises(InputError, match=r"is too large for dtype='float16'; use 'bfloat16' or 'float32'"):
        record(model, choices(), dtype="float16")
    assert record(model, choices(), dtype="bfloat16")[1].positive.isfinite().all()
