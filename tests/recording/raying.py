"""A program that records with Ray Data on a cluster of this machine; called by the tests by scenario."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import ray
import torch
from recording_cases import ask, choices
from tiny import tiny

from steerkit.data.pairs import ContrastPair, Pairs, Side
from steerkit.errors import MismatchError, SteerkitError
from steerkit.recording import record, record_with_ray

OPTIONS: dict[str, Any] = {"shard_pairs": 2, "batch_size": 2, "progress": False}
STORES: dict[str, dict[str, Any]] = {
    "rows": {},
    "every token": {"read": "each", "max_tokens": 2, "dtype": "bfloat16"},
    "rows and means": {"statistics": "mean"},
    "covariances alone": {"statistics": "covariance", "keep": "statistics"},
}


def load() -> Any:
    """What each actor calls."""
    return tiny("llama")


def slow(log: Path) -> Any:
    """A model that takes its time, and says which process runs it."""
    model = tiny("llama")

    def wait(*_: Any) -> None:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.1)

    model.parts.blocks[0].register_forward_pre_hook(wait)
    return model


def together(folder: Path) -> Any:
    """Each kind of store by two actors, and by this process; then a part of one is deleted and made again by Ray."""
    for name, options in STORES.items():
        record(load(), choices(24), path=folder / f"{name}-1", **OPTIONS, **options)
        record_with_ray(load, choices(24), path=folder / f"{name}-ray", workers=2, **OPTIONS, **options)
    again = folder / "rows-ray" / "shards" / "00000008-00000011.safetensors"
    again.unlink()
    record_with_ray(load, choices(24), path=folder / "rows-ray", workers=2, **OPTIONS)
    return again.exists()


def killed(folder: Path) -> Any:
    """An actor is killed when some shards are there."""
    record(load(), choices(24), path=folder / "whole", **OPTIONS)
    log, path = folder / "log", folder / "s"
    victims: list[int] = []

    def kill() -> None:
        while len(list(path.glob("shards/*.safetensors"))) < 3:
            time.sleep(0.02)
        victims.append(int(log.read_text().split()[-1]))
        os.kill(victims[0], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    record_with_ray(lambda: slow(log), choices(24), path=path, workers=2, **OPTIONS)
    killer.join()
    runs = [int(line) for line in log.read_text().split()]
    return {"victims": victims, "processes": len(set(runs)), "runs": len(runs)}


def refused(folder: Path) -> Any:
    """What goes wrong in an actor, or before, comes out as itself."""
    said = {}
    sides = Side(ask("x" * 600), "(A)"), Side(ask("x" * 600), "(B)")
    long = Pairs([*choices(4), ContrastPair(*sides, id="endless")])
    record_with_ray(load, choices(4), path=folder / "s", **OPTIONS)

    def broken() -> Any:
        model = tiny("llama")
        model.parts.blocks[1].register_forward_hook(lambda _m, _a, out: out * float("nan"))
        return model

    for name, source, pairs, path in (
        ("too long", load, long, "long"),
        ("nan", broken, choices(4), "nan"),
        ("other", load, choices(5), "s"),
        ("no model", "no/such/model/at/all", choices(4), "none"),
    ):
        try:
            record_with_ray(source, pairs, path=folder / path, layers=[2] if name == "nan" else "all", **OPTIONS)
        except SteerkitError as error:
            said[name] = [type(error).__name__, str(error)]
    assert issubclass(MismatchError, SteerkitError)
    return said


if __name__ == "__main__":
    faulthandler.dump_traceback_later(int(os.environ["PATIENCE"]), exit=True)  # so that a hang tells where
    torch.set_num_threads(1)
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200 << 20, log_to_driver=False, logging_level=40)
    place = Path(json.loads(sys.argv[2])["folder"])
    found = json.dumps(globals()[sys.argv[1]](place))
    (place / "found.json").write_text(found)  # Ray writes lines of its own to stdout
