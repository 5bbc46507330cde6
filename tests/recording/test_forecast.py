from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from recording_cases import answers, choices, files, refused_mask, torch_hook
from tiny import tiny

from steerkit.errors import DataError, InputError
from steerkit.recording import RecordingPlan, plan_recording, record
from steerkit.recording import forecast as forecast_file

CASES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "some layers in half": {"layers": [0, 3], "dtype": "float16", "shard_pairs": 7},
    "every token": {"read": "each", "max_tokens": 2, "shard_pairs": 4},
    "sums": {"statistics": "covariance", "keep": "statistics", "layers": [1, 2]},
    "rows and means": {"statistics": "mean", "shard_pairs": 1},
}


@pytest.mark.parametrize("case", CASES)
def test_bytes_are_those_of_the_files(case: str, tmp_path: Path) -> None:
    model = tiny("llama")
    found = plan_recording(model, choices(30), path=tmp_path / "s", **CASES[case])
    assert not (tmp_path / "s").exists()
    record(model, choices(30), path=tmp_path / "s", **CASES[case])
    written = files(tmp_path / "s")
    assert found.bytes == pytest.approx(sum(map(len, written.values())), rel=0.002)
    assert found.shards == len([name for name in written if name.startswith("shards/")])
    assert (found.pairs, found.rows) == (30, 60)


@pytest.mark.parametrize("packed", [True, False])
def test_tokens_and_passes_are_those_that_run(packed: bool) -> None:
    model = tiny("llama")
    handle = None if packed else refused_mask(model)
    options: dict[str, Any] = {"batch_tokens": 300, "shard_pairs": 10}
    found = plan_recording(model, choices(30), **options)
    fed: list[tuple[int, int]] = []
    with torch_hook(model.hf.model.embed_tokens, lambda m, args, out: fed.append(tuple(args[0].shape))):
        record(model, choices(30), **options)
    if handle is not None:
        handle.remove()
    batches = fed[2:] if packed else fed[1:]  # the first are the check of the longest pair
    batches = batches[-found.passes :]
    assert found.path_taken == ("packed" if packed else "plain")
    assert len(batches) == found.passes > 3
    assert sum(rows * columns for rows, columns in batches) == found.padded_tokens
    assert found.tokens <= found.padded_tokens
    assert all(rows * columns <= 300 for rows, columns in batches)


def test_the_time_is_that_of_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes one second with every block that runs: the estimate must be the number of passes."""
    model, ran = tiny("llama"), [0.0]
    monkeypatch.setattr(forecast_file.time, "perf_counter", lambda: ran[0])

    def tick(*_: Any) -> None:
        ran[0] += 1

    same = choices(1)
    pairs = type(same)([same[0]] * 64)
    with torch_hook(model.parts.blocks[0], tick):
        found = plan_recording(model, pairs, batch_size=4)
    checked = 2  # passes of the longest pair, which are part of recording
    assert found.passes == 16
    assert found.seconds == pytest.approx(16 + checked)


def test_it_says_when_the_disk_is_too_small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = tiny("llama")
    roomy = plan_recording(model, choices(8), path=tmp_path / "deep" / "s")
    assert roomy.fits
    assert roomy.free_bytes is not None
    assert "WARNING" not in repr(roomy)
    monkeypatch.setattr(forecast_file.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    tight = plan_recording(model, choices(8), path=tmp_path / "s")
    assert not tight.fits
    assert repr(tight).splitlines()[-1].startswith("WARNING: it does not fit: ")
    assert json.loads(tight.to_json())["fits"] is False
    assert plan_recording(model, choices(8)).free_bytes is None


def test_bad_input_is_that_of_record() -> None:
    with pytest.raises(InputError, match="dtype='float64' is not valid"):
        plan_recording(tiny("llama"), choices(2), dtype="float64")
    with pytest.raises(DataError, match="the model's context is 45"):
        plan_recording(tiny("llama", max_position_embeddings=45), choices())


def test_it_prints_as_a_table() -> None:
    found = plan_recording(tiny("llama"), answers())
    assert isinstance(found, RecordingPlan)
    lines = repr(found).splitlines()
    assert lines[0].startswith("RecordingPlan")
    assert any(line.startswith("pairs") and line.endswith("3") for line in lines)
    assert "forward passes" in found._repr_html_()
    assert torch.is_grad_enabled()
