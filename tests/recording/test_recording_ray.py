"""Recording with Ray Data, on a cluster of this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from recording_cases import choices, files

from steerkit.errors import InputError
from steerkit.recording import record_with_ray
from steerkit.store import ActivationStore

ROOT = Path(__file__).parents[2]
PATIENCE = 600
"""Seconds that a program may take beside others on a slow machine; what takes longer hangs."""
with_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'steerkit[ray]'")


def environment() -> dict[str, str]:
    places = os.pathsep.join(str(place) for place in (ROOT, ROOT / "tests", Path(__file__).parent))
    ours = {"PYTHONPATH": places, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PATIENCE": str(PATIENCE)}
    ray = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
    ray["RAY_worker_niceness"] = "0"  # else whatever runs beside them goes first
    return {**os.environ, **ours, **ray}


def play(scenario: str, folder: Path) -> Any:
    """A scenario of raying.py in a program of its own; what it reports."""
    words = [sys.executable, Path(__file__).with_name("raying.py"), scenario, json.dumps({"folder": str(folder)})]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, text=True, env=environment(), start_new_session=True, **pipes) as done:
        try:
            _, error = done.communicate(timeout=PATIENCE + 30)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(done.pid, signal.SIGKILL)  # with the workers that still wait, where it failed
    assert done.returncode == 0, error[-4000:]
    return json.loads((folder / "found.json").read_text())


def of_rows(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in files(folder).items() if not name.startswith("statistics")}


@with_ray
@pytest.mark.slow
def test_ray_writes_the_same_bytes(tmp_path: Path) -> None:
    assert play("together", tmp_path) is True
    for name in ("rows", "every token", "rows and means", "covariances alone"):
        assert of_rows(tmp_path / f"{name}-ray") == of_rows(tmp_path / f"{name}-1"), name
        store, one = (ActivationStore.open(tmp_path / f"{name}-{how}") for how in ("ray", "1"))
        assert store.verify().ok
        if store.manifest["statistics"]:
            found, wanted = store.statistics(2), one.statistics(2)
            assert found is not None
            assert wanted is not None
            for key, values in wanted.tensors().items():
                torch.testing.assert_close(found.tensors()[key], values, rtol=1e-9, atol=1e-9)


@with_ray
@pytest.mark.slow
def test_a_killed_actor_costs_at_most_its_shard(tmp_path: Path) -> None:
    report = play("killed", tmp_path)
    assert len(report["victims"]) == 1
    assert report["processes"] >= 4, "the task that begins, two actors, and the one in the place of the dead"
    assert files(tmp_path / "s") == files(tmp_path / "whole")
    assert not list((tmp_path / "s").glob("lock*"))


@with_ray
@pytest.mark.slow
def test_errors_come_out_as_themselves(tmp_path: Path) -> None:
    said = play("refused", tmp_path)
    assert said["too long"][0] == "DataError"
    assert said["too long"][1].startswith("pair 'endless' has")
    assert said["nan"][0] == "ModelError"
    assert "rows of a shard cannot be stored" in said["nan"][1]
    assert said["other"][0] == "MismatchError"
    assert said["no model"][0] == "ModelError"


@with_ray
@pytest.mark.slow
def test_the_command_with_ray(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "steerkit.cli", "record", "demo", "demo:mood", "--split", "test", "--layers", "2"]
    for more in (["--engine", "ray", "--workers", "2", "-o", "s"], ["-o", "whole"]):
        command = [*words, "--shard-pairs", "20", *more]
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment(), cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-4000:]
        assert "ActivationStore" in done.stdout
    assert files(tmp_path / "s") == files(tmp_path / "whole")


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(InputError, match=r"Ray is not installed .*; pip install 'steerkit\[ray\]'"):
        record_with_ray("demo", choices(4), path=tmp_path / "s")
    assert not (tmp_path / "s").exists()


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize("change", [{"workers": 0}, {"workers": 1.5}, {"num_gpus": -1}])
def test_numbers_that_are_none(change: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not valid"):
        record_with_ray("demo", choices(4), path=tmp_path / "s", **change)
