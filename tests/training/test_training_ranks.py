"""Two real processes against one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.training.fitting.ranks import Ranks

PROGRAM = Path(__file__).parent / "distilling.py"


def _run(folder: Path, *before: str) -> list[dict[str, Any]]:
    folder.mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, *before, str(PROGRAM), str(folder)], env=environment, capture_output=True,
                          text=True, timeout=240, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(one.read_text()) for one in sorted(folder.glob("rank*.json"))]


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(tmp_path: Path) -> None:
    (alone,) = _run(tmp_path / "one")
    started = ("-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={_free_port()}")
    first, second = _run(tmp_path / "two", *started)
    assert (alone["processes"], first["processes"]) == (1, 2)
    assert first == second
    for name, series in alone["curve"].items():
        assert first["curve"][name] == pytest.approx(series, rel=1e-4, abs=1e-6)
    assert first["weights"] == pytest.approx(alone["weights"], rel=1e-3, abs=1e-4)


@given(st.integers(0, 12), st.integers(1, 4), st.integers(1, 4))
def test_the_shares_of_all_processes_are_the_batch(items: int, pieces: int, size: int) -> None:
    shares = [Ranks(rank, size).share(range(items), pieces) for rank in range(size)]
    assert sorted(item for share in shares for piece in share for item in piece) == list(range(items))
    assert all(len(share) <= pieces and all(share) for share in shares)
