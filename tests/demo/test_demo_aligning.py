"""The process that aligns the embedded model beside the demo."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from steerkit.demo.aligning import aligning
from steerkit.errors import SteerkitError


def test_a_process_that_fails_says_so_and_leaves_the_threads_as_they_were(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    with (
        pytest.raises(SteerkitError, match="LORRA: aligning the model ended with code 1"),
        aligning(tmp_path / "no-model", tmp_path / "out") as beside,
    ):
        list(beside.adapters())
    assert torch.get_num_threads() == threads


def test_a_process_that_is_not_needed_any_more_ends(tmp_path: Path) -> None:
    with aligning("demo", tmp_path / "out") as beside:
        process = beside._process
    assert process.poll() is not None
