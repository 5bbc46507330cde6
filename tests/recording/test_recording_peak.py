"""The memory that recording takes does not grow with the number of pairs; measured in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from recording_cases import run_program

ROOM = 8 * 1024
"""What may differ between runs, in kB: allocators keep what was freed, and the index is read in pieces of 4 MB."""


def peak(folder: Path, count: int, **options: Any) -> int:
    words = json.dumps({"folder": str(folder / str(count)), "count": count, "options": options})
    found: dict[str, int] = run_program("peaking.py", words)
    return found["with a batch read"]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak of a process")
@pytest.mark.slow
def test_ten_thousand_pairs_take_the_memory_of_a_thousand(tmp_path: Path) -> None:
    small, large = (peak(tmp_path, count, shard_pairs=200) for count in (1_000, 10_000))
    assert large < small + ROOM, (small, large)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak of a process")
@pytest.mark.slow
def test_a_hundred_thousand_pairs_too(tmp_path: Path) -> None:
    small, large = (peak(tmp_path, count, shard_pairs=200) for count in (1_000, 100_000))
    assert large < small + ROOM, (small, large)
