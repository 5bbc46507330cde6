from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_cli import run, told

import steerkit as sk
from steerkit.backends.loading import BACKENDS


def test_parity_shows_every_backend(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = told(capsys, "parity", "demo", "--plot", tmp_path / "parity.html")
    assert found["passed"]
    assert {row["backend"] for row in found["rows"]} == set(BACKENDS)
    assert (tmp_path / "parity.html").stat().st_size > 10_000


def test_parity_takes_a_vector_pairs_and_a_precision(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def few(source: Any, *, split: Any) -> sk.Pairs:
        asked.append((source, split))
        return load_pairs(source, split=split)[:4]

    load_pairs, path = sk.load_pairs, tmp_path / "v.safetensors"
    monkeypatch.setattr(sk, "load_pairs", few)
    sk.SteeringVector(torch.randn(2, sk.load("demo").info.hidden_size), layers=[1, 2]).save(path)
    words = ("parity", "demo", "--vector", path, "--layer", "2", "--coef", "-0.5", "--pairs", "demo:mood", "--split",
             "test", "--backends", "huggingface,nnsight", "--model-dtype", "bfloat16")  # fmt: skip
    found = told(capsys, *words)
    assert found["dtype"] == "bfloat16"
    assert "times -0.5, at resid_post of block 2" in found["setup"]
    assert {row["backend"] for row in found["rows"]} == {"huggingface", "nnsight"}
    assert asked == [("demo:mood", "test")]


def test_a_difference_beyond_tolerance_is_exit_code_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKENDS, "planted", "test_parity_planted:_Drifting")
    code, out, err = run(capsys, "parity", "demo", "--backends", "planted", "--json")
    assert code == 1, err
    found = json.loads(out)
    assert not found["passed"]
    assert "planted differs in weights, logits" in found["summary"]


def test_a_library_that_is_missing_is_exit_code_0(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKENDS, "nnsight", "steerkit_no_such_library:Model")
    code, out, _ = run(capsys, "parity", "demo", "--backends", "huggingface,nnsight")
    assert code == 0
    assert "not installed: No module named 'steerkit_no_such_library'" in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--backends", "vllm"), "backend 'vllm' is not known"),
        (("--layer", "99"), "layer 99 does not exist"),
        (("--coef", "nan"), "coef=nan is not valid"),
        (("--vector", "nowhere.safetensors"), "nowhere.safetensors"),
        (("--pairs", "demo:moood"), "mood"),
    ],
)
def test_bad_input_is_one_line(words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "parity", "demo", *words)
    assert code == 1
    assert err.startswith("error: ")
    assert says in err
    assert "Traceback" not in err + out
