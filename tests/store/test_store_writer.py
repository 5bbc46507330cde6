from __future__ import annotations

import itertools
import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from store_cases import about, begin, begin_and_put, edit, files, fill, interrupt, lines, shard, start, values, wait

from steerkit.errors import InputError, MismatchError, StoreError
from steerkit.store import ActivationStore, StoreWriter, Worker, verify
from steerkit.store.locks import WriterLock


def test_one_who_looks_at_a_dead_workers_lock_is_not_taken_for_it(tmp_path: Path) -> None:
    (tmp_path / "lock.2-of-3").touch()  # left by a worker that died
    looking, done = FileLock(tmp_path / "lock.2-of-3"), threading.Event()

    def look() -> None:
        with looking:
            done.set()
            time.sleep(0.1)

    looker = threading.Thread(target=look)
    looker.start()
    done.wait()
    with WriterLock(tmp_path, Worker(1, 2)):
        pass
    looker.join()


def test_a_store_that_was_filled_in_two_goes_is_the_same(tmp_path: Path) -> None:
    manifest = about(30)
    fill(tmp_path / "whole", manifest)
    rows, _ = values(manifest)
    with StoreWriter(tmp_path / "s", manifest) as writer:
        writer.begin(lines(30), path_taken="packed")
        for span in writer.missing[:3]:
            writer.put(span, *shard(rows, None, span))
    with pytest.raises(StoreError, match="5 of 8 shards are missing, the first is 00000024-00000031"):
        ActivationStore.open(tmp_path / "s")
    stamp = (tmp_path / "s/shards/00000000-00000007.safetensors").stat().st_mtime_ns
    with StoreWriter(tmp_path / "s", manifest) as writer:
        assert not writer.needs_index
        assert len(writer.missing) == 5
    fill(tmp_path / "s", manifest)
    assert files(tmp_path / "s") == files(tmp_path / "whole")
    assert (tmp_path / "s/shards/00000000-00000007.safetensors").stat().st_mtime_ns == stamp


def test_killed_at_any_moment_it_can_be_gone_on_with(tmp_path: Path) -> None:
    """Sixty times in a child that begins, overwrites or goes on; what is left is nothing, or a store that resumes."""
    manifest, old = about(12), about(12, read="last")
    before = time.monotonic()
    fill(tmp_path / "whole", manifest)
    usual = time.monotonic() - before
    fill(tmp_path / "old", old)
    draw, outcomes = random.Random(0), set()
    for number in range(60):
        folder = tmp_path / str(number)
        if number % 2:
            shutil.copytree(tmp_path / "old", folder)
        child = start(lambda folder=folder, number=number: fill(folder, manifest, overwrite=bool(number % 2)))
        time.sleep(draw.random() * usual)
        os.kill(child, signal.SIGKILL)
        wait(child)
        left = files(folder) if folder.exists() else {}
        outcomes.add(len([name for name in left if name.endswith(".safetensors")]))
        if "manifest.json" in left:
            wrong = {problem.wrong for problem in verify(folder).problems}
            assert wrong <= {"is missing"}, wrong
            was = "whole" if left["manifest.json"] == files(tmp_path / "whole")["manifest.json"] else "old"
            there = files(tmp_path / was)
            assert all(there[name] == data for name, data in left.items() if name in there)
        fill(folder, manifest, overwrite="manifest.json" in left and was == "old")
        assert files(folder) == files(tmp_path / "whole")
    assert len(outcomes) > 1, "all were killed at the same place; it tests nothing"


def test_a_second_writer_is_refused_and_told_who_writes(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", about(9)) as writer:
        writer.begin(lines(9), path_taken="packed")
        with (
            pytest.raises(StoreError, match=rf"is being written by process {os.getpid()} on .* since 20.*; wait"),
            StoreWriter(tmp_path / "s", about(9)),
        ):
            pass
        assert len(writer.missing) == 3
    fill(tmp_path / "s", about(9))
    assert sorted(one.name for one in (tmp_path / "s").iterdir()) == ["index.jsonl", "manifest.json", "shards"]


def test_a_writer_with_another_number_of_workers_is_refused(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", about(9), worker=Worker(1, 2)):
        with (
            pytest.raises(StoreError, match=r"by 2 workers, one of them is process .*; this one is 0-of-3"),
            StoreWriter(tmp_path / "s", about(9), worker=Worker(0, 3)),
        ):
            pass
        with StoreWriter(tmp_path / "s", about(9), worker=Worker(0, 2)) as other:
            assert other.missing == [(0, 8), (16, 18)]


HOLD = """
import sys, time
sys.path.insert(0, sys.argv[2])
from store_cases import about, lines, shard, values
from steerkit.store import StoreWriter, Worker
rows, _ = values(about(9))
worker = Worker(*map(int, sys.argv[3:]))
with StoreWriter(sys.argv[1], about(9), worker=worker) as writer:
    writer.begin(lines(9), path_taken="packed")
    writer.put((0, 8), *shard(rows, None, (0, 8)))
    writer.flush()
    print("holds", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("worker", [(0, 1), (0, 2)], ids=str)
def test_the_lock_of_a_killed_process_is_noticed_and_taken_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, worker: tuple[int, int]
) -> None:
    words = [sys.executable, "-c", HOLD, str(tmp_path / "s"), str(Path(__file__).parent), *map(str, worker)]
    holder = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "holds\n"
        with pytest.raises(StoreError, match=rf"process {holder.pid} on"), StoreWriter(tmp_path / "s", about(9)):
            pass
    finally:
        holder.kill()  # SIGKILL
        holder.wait()
        holder.stdout.close()
    assert (tmp_path / "s" / f"lock.{worker[0]}-of-{worker[1]}").exists()
    before = files(tmp_path / "s")["manifest.json"]
    with caplog.at_level(logging.INFO, "steerkit"), StoreWriter(tmp_path / "s", about(9)) as writer:
        assert writer.taken_over.startswith(f"process {holder.pid} on ")
        assert "died" in writer.taken_over
        assert writer.missing == [(8, 16), (16, 18)]
    assert f"process {holder.pid}" in caplog.text
    fill(tmp_path / "s", about(9))
    assert files(tmp_path / "s")["manifest.json"] == before
    assert sorted(one.name for one in (tmp_path / "s").iterdir()) == ["index.jsonl", "manifest.json", "shards"]


def test_two_at_the_same_moment_never_both_write(tmp_path: Path) -> None:
    """Many threads, each with a lock of its own, try again and again; at most one is inside."""
    inside, most, entered = [0], [0], [0]

    def work() -> None:
        for _ in range(15):
            try:
                with StoreWriter(tmp_path / "s", about(2)):
                    inside[0] += 1
                    entered[0] += 1
                    most[0] = max(most[0], inside[0])
                    time.sleep(0.001)
                    inside[0] -= 1
            except StoreError:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert most == [1]
    assert entered[0] >= 15
    assert files(tmp_path) == {}, "nothing was begun, so nothing is left"


def test_ctrl_c_loses_nothing_that_was_put(tmp_path: Path) -> None:
    manifest = about(30)
    with pytest.raises(KeyboardInterrupt):
        interrupt(tmp_path / "s", manifest, after=4)
    assert len(list((tmp_path / "s" / "shards").iterdir())) == 4
    assert {problem.wrong for problem in verify(tmp_path / "s").problems} == {"is missing"}
    fill(tmp_path / "s", manifest)
    fill(tmp_path / "whole", manifest)
    assert files(tmp_path / "s") == files(tmp_path / "whole")


@pytest.mark.parametrize("after", [0, 1, 2, 7])
def test_a_real_ctrl_c_in_the_middle_of_putting(tmp_path: Path, after: int) -> None:
    """SIGINT to a child that does nothing but put; every shard that is there is whole, and the lock is gone."""
    manifest = about(80, hidden=64)
    fill(tmp_path / "whole", manifest)
    rows, _ = values(manifest)

    def work() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with StoreWriter(tmp_path / "s", manifest) as writer:
                writer.begin(lines(80), path_taken="packed")
                for number, span in enumerate(writer.missing):
                    if number == after:
                        threading.Timer(0.002, os.kill, (os.getpid(), signal.SIGINT)).start()
                    writer.put(span, *shard(rows, None, span))
                time.sleep(10)
        except KeyboardInterrupt:
            os._exit(7)

    assert wait(start(work)) == 7
    assert {problem.wrong for problem in verify(tmp_path / "s").problems} <= {"is missing"}
    assert len(list((tmp_path / "s").glob("shards/*.safetensors"))) >= after
    assert not list((tmp_path / "s").glob("lock*"))
    assert not list((tmp_path / "s" / "shards").glob("*.tmp"))
    fill(tmp_path / "s", manifest)
    assert files(tmp_path / "s") == files(tmp_path / "whole")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("this user cannot mount a small disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_costs_only_what_does_not_fit(small_disk: Path, tmp_path: Path) -> None:
    manifest = about(400, hidden=256)
    fill(tmp_path / "whole", manifest)
    with pytest.raises(StoreError, match=r"No space left on device. What was stored before is kept; make room"):
        fill(small_disk / "s", manifest)
    left = files(small_disk / "s")
    assert len(left) > 3
    assert all(files(tmp_path / "whole")[name] == data for name, data in left.items())
    assert {problem.wrong for problem in verify(small_disk / "s").problems} == {"is missing"}
    shutil.copytree(small_disk / "s", tmp_path / "s")
    fill(tmp_path / "s", manifest)
    assert files(tmp_path / "s") == files(tmp_path / "whole")


def test_a_file_that_cannot_grow(tmp_path: Path) -> None:
    """The same without being root: a limit on the size of files, in a child."""
    manifest = about(40, hidden=256)

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        try:
            fill(tmp_path / "s", manifest)
        except StoreError as error:
            os._exit(7 if "File too large" in str(error) else 8)

    assert wait(start(work)) == 7
    assert sorted(files(tmp_path / "s")) == ["index.jsonl", "manifest.json"]
    fill(tmp_path / "s", manifest)
    assert verify(tmp_path / "s").ok


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot write /dev/null/s: .*; give a folder that can be written"):
        fill("/dev/null/s", about(9))
    tmp_path.chmod(0o755)
    (tmp_path / "locked").mkdir(mode=0o555)

    def work() -> None:
        os.seteuid(65534) if os.geteuid() == 0 else None
        try:
            fill(tmp_path / "locked" / "s", about(9))
        except StoreError as error:
            os._exit(7 if "ermission denied" in str(error) else 8)

    assert wait(start(work)) == 7
    assert not list((tmp_path / "locked").iterdir())


def test_an_error_behind_the_back_comes_out_and_stops(tmp_path: Path) -> None:
    manifest = about(30)
    rows, _ = values(manifest)

    def work() -> None:
        with StoreWriter(tmp_path / "s", manifest) as writer:
            writer.begin(lines(30), path_taken="packed")
            (tmp_path / "s/shards/00000008-00000015.safetensors.tmp").mkdir(parents=True)
            for span in itertools.cycle(writer.missing):
                writer.put(span, *shard(rows, None, span))

    with pytest.raises(StoreError, match="Is a directory"):
        work()


def test_at_most_one_shard_waits(tmp_path: Path) -> None:
    manifest = about(40)
    rows, _ = values(manifest)
    gate, arrived = threading.Event(), []
    with StoreWriter(None, manifest) as writer:
        writer.begin(lines(40), path_taken="packed")
        put = writer._memory.put

        def slow(span: tuple[int, int], *more: Any) -> None:
            gate.wait(10)
            put(span, *more)

        writer._memory.put = slow  # type: ignore[method-assign]

        def feed() -> None:
            for span in writer.missing[:5]:
                writer.put(span, *shard(rows, None, span))
                arrived.append(span)

        feeder = threading.Thread(target=feed)
        feeder.start()
        time.sleep(0.2)
        assert len(arrived) == 2  # one is being written, one waits
        gate.set()
        feeder.join()


def test_bad_rows_never_cost_an_old_store(tmp_path: Path) -> None:
    fill(tmp_path / "s", about(9))
    before = files(tmp_path / "s")

    def bad() -> Iterator[dict[str, Any]]:
        yield from lines(8)
        raise ValueError("pair 8 is too long")

    for rows, error in ((bad(), ValueError), (lines(8), InputError)):
        with pytest.raises(error):
            begin(tmp_path / "s", about(9, read="last"), rows, overwrite=True)
        assert files(tmp_path / "s") == before


def test_nothing_is_left_of_a_store_that_was_never_begun(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="before"), StoreWriter(tmp_path / "a" / "b", about(9)):
        raise ValueError("before")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("span", "change", "says"),
    [
        ((-8, 0), {}, "are no shard of this store"),
        ((8, 0), {}, "are no shard of this store"),
        ((0, 6), {}, "are no shard of this store"),
        ((0, 8), {0: torch.zeros(7, 4)}, r"layer 0 is \(7, 4\)"),
        ((0, 8), {0: torch.zeros(8, 4).double()}, "float64; it must be"),
        ((0, 8), {5: torch.zeros(8, 4)}, r"layers \[0, 2, 5\]"),
    ],
)
def test_rows_that_are_no_shard_are_refused(tmp_path: Path, span: Any, change: Any, says: str) -> None:
    manifest = about(9)
    rows, _ = values(manifest)
    with pytest.raises(InputError, match=says):
        begin_and_put(tmp_path / "s", manifest, span, {**shard(rows, None, (0, 8))[0], **change})
    assert not (tmp_path / "s" / "shards").exists()


@pytest.mark.parametrize("offsets", [[0, 2, 1, 4, 4], [1, 2, 3, 4, 5], [0, 1, 2, 3], [0, -1, 2, 3, 4]])
def test_unsorted_or_negative_offsets_are_refused(tmp_path: Path, offsets: list[int]) -> None:
    manifest = about(2, kind="each", max_tokens=4)
    rows = {layer: torch.zeros(4, 4) for layer in (0, 2)}
    with pytest.raises(InputError, match="offsets must be 5"):
        begin_and_put(tmp_path / "s", manifest, (0, 4), rows, torch.tensor(offsets))


def test_a_damaged_index_is_made_anew_and_another_one_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "s", about(9))
    before = files(tmp_path / "s")
    (tmp_path / "s" / "index.jsonl").write_text("?")
    with pytest.raises(MismatchError, match="the pairs' ids or tokens differ"):
        begin(tmp_path / "s", about(9), [{**row, "pair": "x"} for row in lines(9)])
    with pytest.raises(InputError, match="needs the rows"):
        begin(tmp_path / "s", about(9), None)
    fill(tmp_path / "s", about(9))
    assert files(tmp_path / "s") == before


def test_the_way_rows_are_computed_can_be_known_late_and_must_stay(tmp_path: Path) -> None:
    seen: list[int] = []

    def rows() -> Iterator[dict[str, Any]]:
        for row in lines(9):
            seen.append(1)
            yield row

    with StoreWriter(tmp_path / "s", about(9)) as writer:
        writer.begin(rows(), path_taken=lambda: ("plain", f"{len(seen)} rows"))
    with StoreWriter(tmp_path / "s", about(9)) as writer:
        assert writer.stored is not None
        assert (writer.stored["path"], writer.stored["path_reason"]) == ("plain", "18 rows")
        with pytest.raises(MismatchError, match="were computed 'plain', this call would go on 'packed'"):
            writer.begin(path_taken="packed")


def test_workers_make_the_same_bytes_together(tmp_path: Path) -> None:
    manifest = about(30)
    fill(tmp_path / "whole", manifest)
    rows, _ = values(manifest)
    for rank in (0, 1, 2):
        with StoreWriter(tmp_path / "s", manifest, worker=Worker(rank, 3)) as writer:
            writer.begin(lines(30) if writer.needs_index else None, path_taken="packed")
            for span in writer.missing:
                writer.put(span, *shard(rows, None, span))
    assert files(tmp_path / "s") == files(tmp_path / "whole")


@pytest.mark.parametrize(("rank", "world"), [(2, 2), (-1, 2), (0, 0), (True, 2)])
@pytest.mark.usefixtures("as_user")
def test_a_rank_must_be_below_the_world(rank: int, world: int) -> None:
    with pytest.raises(InputError, match="ranks go from 0 to world - 1"):
        Worker(rank, world)


def test_an_old_schema_is_not_gone_on_with(tmp_path: Path) -> None:
    fill(tmp_path / "s", about(9))
    edit(tmp_path / "s", schema_version=1)
    with pytest.raises(StoreError, match="has schema_version 1; this version of steerkit reads 2"):
        fill(tmp_path / "s", about(9))
