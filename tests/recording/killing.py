"""A program that records on a tiny model in forked children and kills them at random moments.

It loads torch once; a child is a fork of it, so no kill costs an import. Called by the tests as
`python killing.py '{"folder": ..., "kills": 50, "signals": ["SIGKILL"], "seed": 0}'`; prints what happened as JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from recording_cases import choices, files
from tiny import tiny

from steerkit.recording import record

PAIRS = 60
STORES: dict[str, dict[str, Any]] = {
    "rows": {"shard_pairs": 2},
    "rows and means": {"shard_pairs": 3, "statistics": "mean"},
    "covariances alone": {"shard_pairs": 2, "statistics": "covariance", "keep": "statistics"},
    "every token": {"shard_pairs": 4, "read": "each", "max_tokens": 2, "dtype": "bfloat16"},
}


def fork(model: Any, path: Path, options: dict[str, Any]) -> int:
    """Begin to record in a child."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        record(model, PAIRS_GIVEN, path=path, progress=False, batch_size=2, **options)
        code = 0
    except KeyboardInterrupt:
        code = 130
    finally:
        os._exit(code)


def finish(model: Any, path: Path, options: dict[str, Any]) -> float:
    """Record to the end; the seconds it took."""
    start = time.monotonic()
    _, status = os.waitpid(fork(model, path, options), 0)
    assert os.waitstatus_to_exitcode(status) == 0, f"{path.name}: {status}"
    return time.monotonic() - start


def stage(path: Path) -> str:
    """How far a killed run had come."""
    if not (path / "manifest.json").exists():
        return "before the manifest"
    return "with shards" if any(path.glob("*/*.safetensors")) else "before the first shard"


def torn(path: Path, whole: dict[str, bytes]) -> list[str]:
    """Files in their place that are not what an uninterrupted run writes; statistics grow, so they are left out."""
    return [
        name
        for name, data in files(path).items()
        if not name.endswith(".tmp") and not name.startswith(("lock", "statistics")) and data != whole.get(name)
    ]


def run(folder: Path, kills: int, signals: list[int], seed: int) -> dict[str, Any]:
    """Kill at random until it is enough, store by store, and let each end."""
    rng, model = random.Random(seed), tiny("llama")
    whole = {name: finish(model, folder / "whole" / name, options) for name, options in STORES.items()}
    wanted = {name: files(folder / "whole" / name) for name in STORES}
    report: dict[str, Any] = {"kills": 0, "stages": {}, "torn": [], "stores": []}
    names = list(STORES)
    while report["kills"] < kills:
        name = names[len(report["stores"]) % len(names)]
        path = folder / f"killed-{len(report['stores'])}"
        report["stores"].append([name, path.name])
        for turn in range(max(kills // len(names) // 2, 2)):
            how = signals[turn % len(signals)]
            child = fork(model, path, STORES[name])
            time.sleep(rng.uniform(0, 0.5 * whole[name]))
            os.kill(child, how)
            _, status = os.waitpid(child, 0)
            if (code := os.waitstatus_to_exitcode(status)) == 0:
                break
            assert code in (-how, 130 if how == signal.SIGINT else -how), code
            report["kills"] += 1
            at = stage(path)
            report["stages"][at] = report["stages"].get(at, 0) + 1
            report["torn"] += torn(path, wanted[name])
        finish(model, path, STORES[name])
    return report


if __name__ == "__main__":
    torch.set_num_threads(1)
    PAIRS_GIVEN = choices(PAIRS)
    given = json.loads(sys.argv[1])
    signals = [getattr(signal, name) for name in given["signals"]]
    print(json.dumps(run(Path(given["folder"]), given["kills"], signals, given["seed"])))
