"""Locks: one writer for one part of a store. The system holds them, so a process that dies lets go of its own."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from steerkit.errors import StoreError
from steerkit.store.storage import DRAFT
from steerkit.store.workers import Worker

NAME = re.compile(r"lock\.(\d+)-of-(\d+)(\.json)?(\.tmp)?")
"""Of a lock, and of the note beside it."""
PATIENCE = 0.3
"""Seconds to wait for a lock, so that one who only looks whether it is free is not in the way."""
_log = logging.getLogger("steerkit")


class WriterLock:
    """The right of one worker to write its shards; a context manager.

    Args:
        folder: The store's folder.
        worker: Whose shards.
        helper: Another worker that writes some of them in its place, for a moment.
    """

    def __init__(self, folder: Path, worker: Worker, *, helper: Worker | None = None) -> None:
        self._folder, self._worker, self._helper = folder, worker, helper
        self._file = _lock_file(folder, worker)
        self._note = _note_file(self._file)
        self._lock = FileLock(self._file, timeout=PATIENCE, poll_interval=0.02, thread_local=False)
        self._made: list[Path] = []
        self._told: dict[str, object] = {} if helper is None else {"helper": str(helper)}
        self.taken_over: str = ""
        self.failed: BaseException | None = None
        """Why this worker stops before all is done; the others read it in the note, which then stays."""

    def __enter__(self) -> WriterLock:
        """Take it.

        Raises:
            StoreError: Another process writes these shards, or writes with another number of workers; or the folder
                cannot be written.
        """
        try:
            self._make_folder()
            self._take()
            return self
        except BaseException as error:
            self.__exit__()
            if not isinstance(error, OSError):
                raise
            raise StoreError(f"cannot write {self._folder}: {error}; give a folder that can be written") from error

    def _make_folder(self) -> None:
        missing = [one for one in (self._folder, *self._folder.parents) if not one.exists()]
        self._folder.mkdir(parents=True, exist_ok=True)
        self._made = missing

    def _take(self) -> None:
        while not self._is_taken():
            if self._helper is not None or not read_note(self._folder, self._worker).get("helper"):
                raise StoreError(f"{self._folder} is being written by {_tell(self._note)}; wait until it is done, or "
                                 "give another path")  # fmt: skip
        for other in lock_owners(self._folder):
            if other.world != self._worker.world:
                self._check_other(other)
        if self._note.exists():
            self._say(self._note)
        self.say(host=socket.gethostname(), pid=os.getpid(), since=_now())

    def _is_taken(self) -> bool:
        try:
            self._lock.acquire()
        except Timeout:
            return False
        return True

    def say(self, **more: object) -> None:
        """Write the note: who holds the lock, and what else the others should know."""
        self._told |= more
        draft = self._note.with_name(self._note.name + DRAFT)
        draft.write_text(json.dumps(self._told))
        draft.replace(self._note)

    def _check_other(self, other: Worker) -> None:
        """Another number of workers would write other shards at the same time: not while one of those lives."""
        file = _lock_file(self._folder, other)
        note = _note_file(file)
        if is_held(self._folder, other, patience=PATIENCE):
            raise StoreError(f"{self._folder} is being written by {other.world} workers, one of them is "
                             f"{_tell(note)}; this one is {self._worker}. Wait until they are done, or give "
                             "another path")  # fmt: skip
        if note.exists():
            self._say(note)
        note.unlink(missing_ok=True)
        file.unlink(missing_ok=True)

    def _say(self, note: Path) -> None:
        self.taken_over = f"{_tell(note)} wrote here and died; this one goes on after it"
        _log.info("%s: %s", self._folder, self.taken_over)

    def __exit__(
        self, kind: type[BaseException] | None = None, error: BaseException | None = None, _: object = None
    ) -> None:
        """Let go, and leave nothing: the file goes while it is still locked, so nobody can take a lock on a ghost."""
        try:
            self.failed = self.failed or error
            if self._lock.is_locked:
                self._remove_files()
        finally:
            self._lock.release()
        for folder in self._made:
            with suppress(OSError):
                folder.rmdir()

    def _remove_files(self) -> None:
        with suppress(OSError):
            if self.failed is not None and self._worker.world > 1:
                self.say(failed=f"{type(self.failed).__name__}: {self.failed}")
            else:
                self._note.unlink(missing_ok=True)
            self._file.unlink(missing_ok=True)


def lock_owners(folder: Path) -> list[Worker]:
    """The workers that have a lock in a store, alive or dead."""
    found = [NAME.fullmatch(name) for name in (os.listdir(folder) if folder.is_dir() else ())]  # noqa: PTH208
    return sorted({Worker(int(one[1]), int(one[2])) for one in found if one}, key=str)


def is_held(folder: Path, worker: Worker, *, patience: float = 0.0) -> bool:
    """Whether some process writes this worker's shards at this moment.

    Args:
        folder: The store's folder.
        worker: Whose shards.
        patience: Seconds to look again, so that another one who only looks is not taken for a writer.
    """
    path = _lock_file(folder, worker)
    if not path.exists():
        return False
    lock = FileLock(path, timeout=patience, poll_interval=0.02)
    try:
        with lock:
            if not _note_file(path).exists():
                path.unlink(missing_ok=True)  # it was gone already, and came back because we looked
            return False
    except Timeout:
        return True


def _lock_file(folder: Path, worker: Worker) -> Path:
    return folder / f"lock.{worker}"


def _note_file(lock: Path) -> Path:
    return lock.with_name(lock.name + ".json")


def read_note(folder: Path, worker: Worker) -> dict[str, object]:
    """What the note of a worker says; with `written`, when that was (seconds since 1970). Empty where there is none."""
    path = _note_file(_lock_file(folder, worker))
    try:
        return {**json.loads(path.read_text(encoding="utf-8")), "written": path.stat().st_mtime}
    except (OSError, ValueError, TypeError):
        return {}


def tell(note: Mapping[str, object]) -> str:
    """Who wrote a note."""
    if not {"pid", "host", "since"} <= set(note):
        return "another process"
    return f"process {note['pid']} on {note['host']} since {note['since']}"


def _tell(path: Path) -> str:
    found = NAME.fullmatch(path.name)
    return tell(read_note(path.parent, Worker(int(found[1]), int(found[2])))) if found else "another process"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
