from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from recording_cases import files, run_program

from steerkit.store import ActivationStore


def interrupt(folder: Path, *, kills: int, signals: list[str], seed: int = 0) -> dict[str, Any]:
    """Record again and again, interrupted at random, in a program of its own; what it reports."""
    words = json.dumps({"folder": str(folder), "kills": kills, "signals": signals, "seed": seed})
    report: dict[str, Any] = run_program("killing.py", words)
    return report


def check(folder: Path, report: dict[str, Any], *, kills: int) -> None:
    assert report["kills"] >= kills
    assert report["torn"] == []
    for name, path in report["stores"]:
        assert files(folder / path) == files(folder / "whole" / name), name
        assert ActivationStore.open(folder / path).verify().ok


def test_kill_9_and_ctrl_c_in_turn(tmp_path: Path) -> None:
    report = interrupt(tmp_path, kills=12, signals=["SIGKILL", "SIGINT"], seed=1)
    check(tmp_path, report, kills=12)
    assert report["stages"].get("with shards", 0) > 0


@pytest.mark.slow
def test_kill_9_at_fifty_random_moments(tmp_path: Path) -> None:
    report = interrupt(tmp_path, kills=60, signals=["SIGKILL"], seed=2)
    check(tmp_path, report, kills=60)
    assert report["stages"].get("with shards", 0) >= 20, "the kills must meet stores that are being filled"
    assert report["stages"].get("before the manifest", 0) > 0, "and such that are being begun"
