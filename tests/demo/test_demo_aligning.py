"""The process that aligns the embedded model beside the demo."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import steerkit as sk
from steerkit.data.loading import load_pairs
from steerkit.demo.answers import score_open
from steerkit.demo.arms import Arm
from steerkit.demo.beside import aligning, on_the_other_half
from steerkit.errors import SteerkitError
from steerkit.evaluation import score_choices


def test_a_process_that_fails_says_so_and_leaves_the_threads_as_they_were(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    with (
        pytest.raises(SteerkitError, match="LORRA: aligning the model ended with code 1"),
        aligning(tmp_path / "no-model", tmp_path / "out") as beside,
        on_the_other_half(),
    ):
        list(beside.arms(None))
    assert torch.get_num_threads() == threads


def test_a_process_that_is_not_needed_any_more_ends(tmp_path: Path) -> None:
    with aligning("demo", tmp_path / "out") as beside:
        process = beside._process
    assert process.poll() is not None


def test_what_was_measured_there_is_the_same_here() -> None:
    model = sk.load("demo")
    made = Arm("base", {"mood": score_choices(model, load_pairs("demo:mood", split="test")[:6])},
               {"mood": score_open(model, "mood", count=4)})  # fmt: skip
    same = Arm.from_json(made.to_json())
    assert (same.name, same.answers) == (made.name, made.answers)
    assert same.choices["mood"].to_json() == made.choices["mood"].to_json()
    assert same.moved(made, "mood").mean == 0
    items = made.choices["mood"].items
    for name in ("p_positive", "p_negative", "mass", "p_matching"):
        assert torch.equal(getattr(same.choices["mood"].items, name), getattr(items, name))
    assert same.choices["mood"].items.id == items.id
