from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from recording_cases import choices, files
from tiny import tiny

from steerkit.errors import InputError
from steerkit.extraction import extract
from steerkit.recording import record
from steerkit.store import ActivationStore, Worker

ROOT = Path(__file__).parents[2]
PATIENCE = 600
"""Seconds that a program may take beside others on a slow machine; what takes longer hangs."""
SHARDS = 20
KINDS = ["rows", "every token", "rows and means", "covariances alone"]


def environment() -> dict[str, str]:
    places = os.pathsep.join(str(place) for place in (ROOT, ROOT / "tests", Path(__file__).parent))
    return {
        **os.environ,
        "PYTHONPATH": places,
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PATIENCE": str(PATIENCE),
    }


def play(scenario: str, folder: Path) -> Any:
    """A scenario of working.py in a program of its own; what it reports."""
    words = [sys.executable, Path(__file__).with_name("working.py"), scenario, json.dumps({"folder": str(folder)})]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, text=True, env=environment(), start_new_session=True, **pipes) as done:
        try:
            out, error = done.communicate(timeout=PATIENCE + 30)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(done.pid, signal.SIGKILL)  # with the workers that still wait, where it failed
    assert done.returncode == 0, error[-4000:]
    return json.loads(out)


def of_rows(folder: Path) -> dict[str, bytes]:
    """The files whose bytes do not depend on the number of workers: all but their statistics."""
    return {name: data for name, data in files(folder).items() if not name.startswith("statistics")}


def check_same(folder: Path, whole: Path) -> None:
    """The same bytes; and the same statistics, merged."""
    assert of_rows(folder) == of_rows(whole)
    store, one = ActivationStore.open(folder), ActivationStore.open(whole)
    assert store.verify().ok
    if not store.manifest["statistics"]:
        return
    for layer in store.layers:
        found, wanted = store.statistics(layer), one.statistics(layer)
        assert found is not None
        assert wanted is not None
        assert found.pairs == wanted.pairs == len(store)
        for name, values in wanted.tensors().items():
            torch.testing.assert_close(found.tensors()[name], values, rtol=1e-9, atol=1e-9)
    assert extract(store).cosine(extract(one)).min() > 1 - 1e-6


def test_one_two_and_three_workers_write_the_same_bytes(tmp_path: Path) -> None:
    report = play("together", tmp_path)
    assert set(report.values()) == {SHARDS}
    for name in KINDS:
        for world in (2, 3):
            check_same(tmp_path / f"{name}-{world}", tmp_path / f"{name}-1")
    names = sorted(name for name in files(tmp_path / "rows and means-3") if name.startswith("statistics"))
    assert names == [f"statistics/{rank}-of-3.safetensors" for rank in range(3)]


@pytest.mark.slow
def test_a_killed_worker_costs_at_most_its_shard_and_the_others_end(tmp_path: Path) -> None:
    report = play("killed", tmp_path)
    assert len(report) == 2 * len(KINDS)
    for name, found in report.items():
        assert found["codes"] == [0, 0], name
        assert 3 <= found["of victim"] < SHARDS // 3, "it must be killed in the middle"
        if "covariances" not in name:  # what is summed is written every now and then, rows at once
            assert found["computed"] <= SHARDS + 1, f"{name}: the shard that was being computed or written"
        check_same(tmp_path / name, tmp_path / f"{name.partition('-')[0]}-1")


@pytest.mark.slow
def test_another_number_of_workers_ends_what_killed_ones_began(tmp_path: Path) -> None:
    for name, computed in play("all_killed", tmp_path).items():
        if "covariances" not in name:
            assert computed <= SHARDS + 3, name
        check_same(tmp_path / name, tmp_path / f"{name.partition('-')[0]}-1")


def test_a_killed_worker_comes_back(tmp_path: Path) -> None:
    report = play("comes_back", tmp_path)
    assert report["codes"] == [0, 0]
    assert report["more"] >= 3
    assert report["computed"] <= SHARDS + 2
    check_same(tmp_path / "s", tmp_path / "whole")


def test_late_workers_do_their_share_and_absent_ones_have_it_done(tmp_path: Path) -> None:
    late = play("comes_late", tmp_path / "late")
    assert late == {"codes": [0, 0], "computed": [SHARDS // 2, SHARDS // 2]}
    check_same(tmp_path / "late/s", tmp_path / "late/whole")
    never = play("never_comes", tmp_path / "never")
    assert never == {"codes": [0], "computed": SHARDS}
    check_same(tmp_path / "never/s", tmp_path / "never/whole")


def test_without_worker_0_the_others_say_so_and_stop(tmp_path: Path) -> None:
    report = play("no_first", tmp_path)
    assert report["alone"]["codes"] == [7]
    assert "s for worker 0-of-2 to begin" in report["alone"]["said"]
    assert "start all 2 workers on the same path" in report["alone"]["said"]
    assert report["dies"]["codes"] == [7]
    assert "worker 0-of-2 did not begin" in report["dies"]["said"]
    assert "died. This is worker 1-of-2; it waited" in report["dies"]["said"]
    assert report["dies"]["seconds"] < 3
    assert not list((tmp_path / "dies").glob("*.safetensors"))


def test_bad_input_stops_all_workers_with_its_message(tmp_path: Path) -> None:
    report = play("bad_input", tmp_path)
    assert report["codes"] == [7, 7, 7]
    assert report["said"][0].startswith("pair 'endless' has")
    for said in report["said"][1:]:
        assert "worker 0-of-3 did not begin" in said
        assert "stopped: DataError: pair 'endless' has" in said
    assert report["seconds"] < 10
    assert report["again"] == [0, 0], "the notes of failed workers are in nobody's way"
    check_same(tmp_path / "s", tmp_path / "whole")


def test_a_worker_with_another_model_is_refused_and_its_share_done(tmp_path: Path) -> None:
    report = play("one_differs", tmp_path)
    assert (report["codes"], report["computed"]) == ([0, 7], SHARDS)
    assert "model.fingerprint" in report["said"]
    check_same(tmp_path / "s", tmp_path / "whole")


def test_two_workers_overwrite(tmp_path: Path) -> None:
    for name, found in play("overwrite", tmp_path).items():
        assert found == {"codes": [0, 0], "computed": [SHARDS // 2, SHARDS // 2]}, name
        check_same(tmp_path / name, tmp_path / "whole")


def torchrun(*words: str, cwd: Path, processes: int = 2) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return subprocess.run(
        [*start, *words], check=False, capture_output=True, text=True, env=environment(), cwd=cwd, timeout=300
    )


@pytest.mark.slow
def test_the_command_under_torchrun(tmp_path: Path) -> None:
    words = ["record", "demo", "demo:mood", "--split", "test", "--layers", "2,3", "--shard-pairs", "4"]
    done = torchrun("-m", "steerkit.cli", *words, "-o", "s", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("ActivationStore") == 1, "only worker 0 prints"
    alone = [sys.executable, "-m", "steerkit.cli", *words, "-o", "whole"]
    subprocess.run(alone, check=True, capture_output=True, env=environment(), cwd=tmp_path)
    check_same(tmp_path / "s", tmp_path / "whole")


@pytest.mark.slow
def test_the_command_under_torchrun_with_bad_input(tmp_path: Path) -> None:
    long = {"prompt": "x " * 2000, "positive": "(A)", "negative": "(B)"}
    (tmp_path / "long.jsonl").write_text(json.dumps(long) + "\n")
    done = torchrun("-m", "steerkit.cli", "record", "demo", "long.jsonl", "-o", "s", cwd=tmp_path)
    assert done.returncode != 0
    assert "the model's context is" in done.stderr


SCRIPT = """
import os
import torch
torch.distributed.init_process_group("gloo")
for name in ("RANK", "WORLD_SIZE"):
    del os.environ[name]  # what torch.distributed says is enough
from recording_cases import choices
from tiny import tiny
import steerkit as sk
from steerkit.store import Worker
assert Worker.here().world == 2
store = sk.record(tiny("llama"), choices(12), path="s", shard_pairs=2, batch_size=2, progress=False)
assert len(store) == 12
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_an_initialized_torch_distributed_is_followed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = torchrun(str(script), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    torch.set_num_threads(1)
    record(tiny("llama"), choices(12), path=tmp_path / "whole", shard_pairs=2, batch_size=2)
    check_same(tmp_path / "s", tmp_path / "whole")


def test_the_environment_says_which_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    for rank, world, wanted in (("1", "3", Worker(1, 3)), ("0", "1", Worker()), ("", "", Worker())):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", world)
        assert Worker.here() == wanted
    for rank, world in (("", "2"), ("x", "2"), ("2", "2"), ("0", "two")):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", world)
        with pytest.raises(InputError, match=r"RANK='.*' and WORLD_SIZE=|ranks go from 0"):
            Worker.here()


@pytest.mark.usefixtures("as_user")
def test_what_several_workers_cannot_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, pairs = tiny("llama"), choices(4)
    with pytest.raises(InputError, match="shares a store with others; give a path"):
        record(model, pairs, worker=Worker(0, 2))
    with pytest.raises(InputError, match=r"overwrite=True is not valid for 2 workers at memory://"):
        record(model, pairs, path="memory://x/s", worker=Worker(0, 2), overwrite=True)
    with pytest.raises(InputError, match="patience=0 is not valid"):
        Worker(0, 2, patience=0)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert len(record(model, pairs)) == 4, "in memory each process has its own store"


def test_two_workers_beyond_this_machine() -> None:
    """There are no locks; what the other has not written is taken over when the patience ends."""
    import fsspec

    model, pairs = tiny("llama"), choices(8)
    whole = record(model, pairs, path="memory://workers/whole", shard_pairs=2)
    found = record(model, pairs, path="memory://workers/s", shard_pairs=2, worker=Worker(0, 2, patience=0.2))
    record(model, pairs, path="memory://workers/s", shard_pairs=2, worker=Worker(1, 2, patience=0.2))
    assert whole.verify().ok
    assert found.verify().ok
    memory = fsspec.filesystem("memory")
    names = {at.partition("/whole/")[2] for at in memory.find("/workers/whole")}
    assert len(names) == 4 + 2
    for name in names:
        assert memory.cat(f"/workers/s/{name}") == memory.cat(f"/workers/whole/{name}")
