"""A program that records with several processes at once, some of which are killed; called by the tests by scenario.

It loads torch once; a worker is a fork of it with its own RANK and WORLD_SIZE, as torchrun sets them.
`python working.py together '{"folder": ...}'` prints what happened as JSON.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from recording_cases import ask, choices
from tiny import tiny

from steerkit.data.pairs import ContrastPair, Pairs, Side
from steerkit.errors import SteerkitError
from steerkit.recording import record
from steerkit.recording.planner import Planner
from steerkit.recording.runner import ShardRunner
from steerkit.store import Worker

COUNT = 40
OPTIONS: dict[str, Any] = {"shard_pairs": 2, "batch_size": 2, "progress": False}
STORES: dict[str, dict[str, Any]] = {
    "rows": {},
    "every token": {"read": "each", "max_tokens": 2, "dtype": "bfloat16"},
    "rows and means": {"statistics": "mean"},
    "covariances alone": {"statistics": "covariance", "keep": "statistics"},
}


class Crowd:
    """Forked workers of one store, and what they did: `log` has a line for each shard that was computed."""

    def __init__(self, path: Path, world: int, **options: Any) -> None:
        self.path, self.world, self.options = path, world, options
        self.log = path.with_name(path.name + ".log")
        self.children: dict[int, int] = {}

    def start(
        self,
        rank: int,
        *,
        pairs: Pairs | None = None,
        pause: float = 0.0,
        late: float = 0.0,
        stuck: bool = False,
        **more: Any,
    ) -> int:
        """Begin to record in a child; `pause` seconds a shard, `late` seconds after it was made."""
        child = os.fork()
        if child:
            self.children[rank] = child
            return child
        code = 1
        try:
            if self.world > 1:
                os.environ.update(RANK=str(rank), WORLD_SIZE=str(self.world))
            time.sleep(late)
            if stuck:
                Planner.rows = lambda _: time.sleep(60)  # type: ignore[assignment, method-assign, misc, return-value]
            self._slow(rank, pause)
            record(MODEL, pairs or PAIRS, path=self.path, **{**OPTIONS, **self.options, **more})
            code = 0
        except SteerkitError as error:
            self.path.with_name(f"{self.path.name}.{rank}.error").write_text(str(error))
            code = 7
        except Exception:
            self.path.with_name(f"{self.path.name}.{rank}.error").write_text(traceback.format_exc())
            raise
        finally:
            os._exit(code)

    def _slow(self, rank: int, pause: float) -> None:
        compute = ShardRunner.shard

        def shard(runner: ShardRunner, pairs: Any) -> Any:
            with self.log.open("a") as log:
                log.write(f"{rank} {pairs[0].id}\n")
            time.sleep(pause)
            return compute(runner, pairs)

        ShardRunner.shard = shard  # type: ignore[method-assign]

    def wait(self, *ranks: int) -> list[int]:
        """Their exit codes."""
        found = []
        for rank in ranks or sorted(self.children):
            _, status = os.waitpid(self.children.pop(rank), 0)
            found.append(os.waitstatus_to_exitcode(status))
        return found

    def kill(self, rank: int) -> None:
        os.kill(self.children[rank], signal.SIGKILL)
        assert self.wait(rank) == [-signal.SIGKILL]

    def computed(self, rank: int | None = None) -> int:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return len([line for line in lines if rank is None or line.startswith(f"{rank} ")])

    def until(self, count: int, *ranks: int) -> None:
        """Wait until each of them has begun so many shards."""
        until(lambda: all(self.computed(rank) >= count for rank in ranks))

    def said(self, rank: int) -> str:
        path = self.path.with_name(f"{self.path.name}.{rank}.error")
        return path.read_text() if path.exists() else ""


def until(true: Callable[[], bool], *, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def run(folder: Path, name: str, world: int, **options: Any) -> Crowd:
    """All workers to their end."""
    crowd = Crowd(folder / name, world, **options)
    for rank in range(world):
        crowd.start(rank)
    codes = crowd.wait()
    assert codes == [0] * world, (name, world, codes, [crowd.said(rank) for rank in range(world)])
    return crowd


def together(folder: Path) -> Any:
    """Each kind of store by 1, 2 and 3 workers."""
    return {
        f"{name}-{world}": run(folder, f"{name}-{world}", world, **options).computed()
        for name, options in STORES.items()
        for world in (1, 2, 3)
    }


def killed(folder: Path) -> Any:
    """Each worker of three in turn, in the middle; the others finish."""
    report = {}
    for name, options in STORES.items():
        run(folder, f"{name}-1", 1, **options)
        for victim in (0, 1):
            crowd = Crowd(folder / f"{name}-killed-{victim}", 3, **options)
            for rank in range(3):
                crowd.start(rank, pause=0.05)
            crowd.until(3, victim)
            crowd.kill(victim)
            of_victim, codes = crowd.computed(victim), crowd.wait()
            report[crowd.path.name] = {"codes": codes, "computed": crowd.computed(), "of victim": of_victim}
    return report


def all_killed(folder: Path) -> Any:
    """All of three; another number of workers ends it."""
    report = {}
    for name, options in STORES.items():
        run(folder, f"{name}-1", 1, **options)
        crowd = Crowd(folder / f"{name}-gone-on", 3, **options)
        for rank in range(3):
            crowd.start(rank, pause=0.05)
        crowd.until(2, 0, 1, 2)
        for rank in range(3):
            crowd.kill(rank)
        report[crowd.path.name] = run(folder, crowd.path.name, 2, **options).computed()
    return report


def comes_back(folder: Path) -> Any:
    """A killed worker is started again while the others work; it goes on with its share."""
    run(folder, "whole", 1)
    crowd = Crowd(folder / "s", 2)
    crowd.start(0, pause=0.15)
    crowd.start(1, pause=0.15)
    crowd.until(2, 1)
    crowd.kill(1)
    before = crowd.computed(1)
    crowd.start(1, pause=0.01)
    return {"codes": crowd.wait(), "more": crowd.computed(1) - before, "computed": crowd.computed()}


def comes_late(folder: Path) -> Any:
    """Worker 1 comes when worker 0 is done with its own share: it does its own all the same."""
    run(folder, "whole", 1)
    crowd = Crowd(folder / "s", 2)
    crowd.start(0)
    crowd.start(1, late=1.5)
    return {"codes": crowd.wait(), "computed": [crowd.computed(0), crowd.computed(1)]}


def never_comes(folder: Path) -> Any:
    """Worker 1 never comes; worker 0 does its share when it has waited long enough."""
    run(folder, "whole", 1)
    crowd = Crowd(folder / "s", 2, worker=Worker(0, 2, patience=0.5))
    crowd.start(0)
    return {"codes": crowd.wait(), "computed": crowd.computed()}


def no_first(folder: Path) -> Any:
    """Worker 0 never comes, or dies before the store is begun."""
    crowd = Crowd(folder / "alone", 2, worker=Worker(1, 2, patience=0.5))
    crowd.start(1)
    report: dict[str, Any] = {"alone": {"codes": crowd.wait(), "said": crowd.said(1)}}

    crowd = Crowd(folder / "dies", 2)
    crowd.start(1)
    crowd.start(0, stuck=True)
    until((folder / "dies/lock.0-of-2.json").exists)
    time.sleep(0.3)
    crowd.kill(0)
    start = time.monotonic()
    codes = crowd.wait()
    report["dies"] = {"codes": codes, "said": crowd.said(1), "seconds": time.monotonic() - start}
    return report


def bad_input(folder: Path) -> Any:
    """A pair that is too long: worker 0 finds it, the others hear of it, also one that comes when it is over."""
    sides = Side(ask("x" * 600), "(A)"), Side(ask("x" * 600), "(B)")
    pairs = Pairs([*choices(30), ContrastPair(*sides, id="endless")])
    crowd = Crowd(folder / "s", 3)
    start = time.monotonic()
    crowd.start(1, pairs=pairs)
    crowd.start(2, pairs=pairs, late=1.5)
    crowd.start(0, pairs=pairs, late=0.3)
    codes = crowd.wait()
    report = {"codes": codes, "said": [crowd.said(rank) for rank in range(3)], "seconds": time.monotonic() - start}
    again = Crowd(folder / "s", 2)
    for rank in range(2):
        again.start(rank)
    run(folder, "whole", 1)
    return {**report, "again": again.wait()}


def one_differs(folder: Path) -> Any:
    """Worker 1 has another model and is refused; the others do its share at once."""
    global MODEL  # noqa: PLW0603 - of the child alone
    run(folder, "whole", 1)
    crowd = Crowd(folder / "s", 2)
    crowd.start(0, pause=0.1)
    crowd.until(1, 0)
    right, MODEL = MODEL, tiny("llama", seed=5)
    crowd.start(1)
    MODEL = right
    return {"codes": crowd.wait(), "computed": crowd.computed(), "said": crowd.said(1)}


def overwrite(folder: Path) -> Any:
    """Two workers throw away an old store: one of other settings, and one of the same with a shard that is wrong."""
    run(folder, "whole", 1)
    report = {}
    for name, options in {"other": {"layers": [1]}, "same": {}}.items():
        run(folder, name, 1, **options)
        old = sorted((folder / name / "shards").iterdir())[3]
        old.write_bytes(old.read_bytes()[::-1])
        (folder / f"{name}.log").unlink()
        crowd = Crowd(folder / name, 2, overwrite=True)
        crowd.start(1)
        crowd.start(0, late=0.5)
        report[name] = {"codes": crowd.wait(), "computed": [crowd.computed(0), crowd.computed(1)]}
    return report


if __name__ == "__main__":
    faulthandler.dump_traceback_later(int(os.environ["PATIENCE"]), exit=True)  # so that a hang tells where
    torch.set_num_threads(1)
    MODEL, PAIRS = tiny("llama"), choices(COUNT)
    scenario, given = sys.argv[1], json.loads(sys.argv[2])
    place = Path(given["folder"])
    place.mkdir(parents=True, exist_ok=True)
    print(json.dumps(globals()[scenario](place)))
