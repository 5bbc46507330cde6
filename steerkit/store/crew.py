"""Several workers on one store: waiting for the one that begins it, and going on for those that died."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass

from steerkit.errors import StoreError
from steerkit.store.locks import WriterLock, is_held, read_note, tell
from steerkit.store.shards import read_shard
from steerkit.store.storage import Folder
from steerkit.store.workers import Span, Worker
from steerkit.store.writer import StoreWriter

Say = Callable[[str], None]
QUICK, SLOW = 0.05, 5.0
"""Seconds between two looks at what the others do; they grow while nothing happens."""
_log = logging.getLogger("steerkit")
LONG = 20.0
"""Seconds of waiting after which it is said."""


def process_start() -> float:
    """When this process began, in seconds since 1970: what others left before is of an earlier run."""
    import psutil

    return float(psutil.Process().create_time())


@dataclass(frozen=True)
class Sign:
    """What is seen of another worker.

    Args:
        held: It holds its lock: it lives.
        note: What its note says.
        stopped: It was there in this run, and is no more.
    """

    held: bool
    note: dict[str, object]
    stopped: bool

    @property
    def told(self) -> str:
        """Who it is and why it stopped, as far as it said."""
        return tell(self.note) + (f" stopped: {self.note['failed']}" if "failed" in self.note else " died")


def look_at(folder: Folder, worker: Worker, *, since: float) -> Sign:
    """What is to be seen of a worker; beyond this machine there are no locks, and nothing is seen.

    Args:
        folder: The store's.
        worker: Which one.
        since: When this run began; an older note is of an earlier one.
    """
    if folder.local is None:
        return Sign(False, {}, False)
    held = is_held(folder.local, worker)
    note = read_note(folder.local, worker)
    written = note.get("written")
    fresh = isinstance(written, float) and written >= since
    return Sign(held and "helper" not in note, note, fresh and not held)


class Crew:
    """All workers of a store, as one of them sees the others.

    Worker 0 begins the store; the others wait for that. When a worker's own shards are written it waits for those of
    the others. A worker whose lock is free although it was there has died, and its shards are computed by one that
    lives: its lock is taken for one shard at a time, so it can come back in between.

    Args:
        writer: That of this worker.
    """

    def __init__(self, writer: StoreWriter) -> None:
        self._writer, self._worker = writer, writer.worker
        self._say: Say = _log.info
        self._since = process_start() if self._worker.world > 1 else 0.0
        self._heard: dict[Worker, float] = {}
        self._count: dict[Worker, int] = {}
        self._pause = QUICK

    def await_begin(self) -> None:
        """Wait until worker 0 has begun the store; nothing to do for worker 0 itself, and where it lies there already.

        Raises:
            StoreError: Worker 0 stopped before, or showed no sign of life for longer than this one's patience.
            MismatchError: The store that it began is made with something else.
        """
        writer, folder, first = self._writer, self._writer.folder, Worker(0, self._worker.world)
        if folder is None or self._worker.rank == 0 or writer.stored is not None:
            return
        start, seen, before = time.monotonic(), False, None
        for waited in self._waiting(f"worker {first} to begin {folder.path}"):
            sign = look_at(folder, first, since=self._since)
            seen = seen or sign.held
            begun = (sign.held or sign.stopped) and "begun" in sign.note and sign.note == before
            before = sign.note  # seen twice, for a lock is taken a moment before its note is written
            if (begun or not writer.overwrite) and writer.join():
                return
            if (seen and not sign.held) or (sign.stopped and "begun" not in sign.note):
                raise StoreError(f"worker {first} did not begin {folder.path}: {sign.told}. This is worker "
                                 f"{self._worker}; it waited {waited:.1f} s for it. See what worker {first} says, then "
                                 "start all workers again")  # fmt: skip
            if sign.held:
                start = time.monotonic()
            if time.monotonic() - start > self._worker.patience:
                raise StoreError(f"waited {waited:.1f} s for worker {first} to begin {folder.path}, and saw no sign of "
                                 f"it. This is worker {self._worker}; start all {first.world} workers on the same "
                                 "path")  # fmt: skip

    def announce(self) -> None:
        """Tell the others that the store is begun."""
        if self._worker.rank == 0 and self._worker.world > 1 and self._writer.lock is not None:
            self._writer.lock.say(begun=True)

    def rest(self, say: Say) -> Generator[Span]:
        """Shards to compute in the place of workers that died; it ends when the shards of all workers are there.

        Each is to be put before the next one is asked for.

        Args:
            say: Takes a line of text when it waits long, or takes over.
        """
        self._say = say
        writer = self._writer
        if writer.folder is None or self._worker.world == 1:
            return
        writer.flush()
        for _ in self._waiting(f"the other workers' shards of {writer.folder.path}"):
            left = self._left()
            if not left:
                self._sweep(writer.folder)
                return
            for worker, some in left.items():
                if worker == self._worker:
                    yield from some
                    writer.flush()
                elif self._is_gone(writer.folder, worker, len(some)):
                    yield from self._help(writer.folder, worker)

    def _left(self) -> dict[Worker, list[Span]]:
        """What is still to be written or counted, by worker."""
        writer, world = self._writer, self._worker.world
        if writer.follower is not None:
            writer.follower.refresh()
        numbers = {span: number for number, span in enumerate(writer.spans)}
        left = set(writer.left(writer.spans))
        if writer.follower is not None:
            left |= {span for span in writer.spans if not writer.follower.has(span)}
        found: dict[Worker, list[Span]] = {}
        for span in sorted(left):
            rank = numbers[span] % world
            found.setdefault(self._worker if rank == self._worker.rank else Worker(rank, world), []).append(span)
        return found

    def _is_gone(self, folder: Folder, worker: Worker, count: int) -> bool:
        """Whether a worker that has so many shards to write still does so."""
        sign = look_at(folder, worker, since=self._since)
        now = time.monotonic()
        if sign.held or worker not in self._heard or self._count[worker] != count:
            self._heard[worker], self._count[worker] = now, count
        if sign.stopped:
            return True
        return not sign.held and now - self._heard[worker] > self._worker.patience

    def _help(self, folder: Folder, worker: Worker) -> Iterator[Span]:
        """One shard of a worker that is gone, under its lock."""
        if folder.local is None:
            yield from self._one(worker)
            return
        lock = WriterLock(folder.local, worker, helper=self._worker)
        try:
            lock.__enter__()
        except StoreError:
            return  # it came back, or another one helps
        try:
            yield from self._one(worker)
        finally:
            lock.failed = lock.failed or StoreError("its shards are taken over")
            lock.__exit__()

    def _sweep(self, folder: Folder) -> None:
        """Remove what workers that are gone left of their locks."""
        for worker in self._worker.others():
            if folder.local is not None and look_at(folder, worker, since=0.0).stopped:
                with suppress(StoreError), WriterLock(folder.local, worker, helper=self._worker):
                    pass

    def _one(self, worker: Worker) -> Iterator[Span]:
        writer = self._writer
        some = self._left().get(worker, [])
        if not some or writer.folder is None or writer.stored is None:
            return
        span, self._pause = some[0], QUICK
        self._say(f"worker {worker} is gone; {self._worker} does the rows {span[0]} to {span[1] - 1} in its place")
        if writer.left([span]) or writer.follower is None:
            yield span
        else:
            writer.follower.put(span, *read_shard(writer.folder, span, writer.stored))
        writer.flush()

    def _waiting(self, what: str) -> Iterator[float]:
        """Turns of waiting, with the seconds so far; each turn a longer one."""
        start, said = time.monotonic(), False
        self._pause = QUICK
        while True:
            waited = time.monotonic() - start
            yield waited
            if waited > LONG and not said:
                self._say(f"worker {self._worker} waits for {what}, {waited:.0f} s so far")
                said = True
            time.sleep(self._pause)
            self._pause = min(self._pause * 1.2, SLOW)
