"""Filling a store: the index and the manifest first, then shard by shard; what is there already is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor

from steerkit.errors import InputError, MismatchError, StoreError
from steerkit.store import index as index_file
from steerkit.store import manifest as manifest_file
from steerkit.store.activations import ActivationStore
from steerkit.store.background import Background
from steerkit.store.folder import check_folder, clear, clear_drafts
from steerkit.store.follower import Follower
from steerkit.store.index import IndexHash, Row
from steerkit.store.locks import WriterLock
from steerkit.store.manifest import differences, list_differences, read_manifest
from steerkit.store.memory import MemoryShards
from steerkit.store.opening import open_shards
from steerkit.store.seals import seal_json
from steerkit.store.shards import check_rows, find_shards, read_shard, spans, write_shard
from steerkit.store.storage import Folder, open_folder
from steerkit.store.workers import Span, Worker

Choose = Callable[[], tuple[str, str]]
"""Gives how the rows are computed, and why so."""
Shard = tuple[Span, Mapping[int, Tensor], Tensor | None]


class StoreWriter:
    """A store that is being filled, on disk or in memory; a context manager that keeps other writers out.

    What is put is written by a thread in the background, one shard at a time. Leaving by an exception, Ctrl-C
    included, first writes what was put.

    Args:
        path: The folder, or an address such as `s3://bucket/store`; `None` for a store in memory.
        manifest: What the rows are made with. With `keep: "statistics"` no rows are stored: the follower has them all.
        overwrite: Throw away a store that lies there.
        worker: Which part of the shards this process writes.
        follower: What else is kept of every shard.
        locked: Keep other writers out; false where the caller does.

    Example:
        >>> import torch
        >>> from steerkit.store import ActivationStore, Paired
        >>> made = ActivationStore.from_layers({3: Paired(torch.ones(2, 4), torch.zeros(2, 4))})
        >>> with StoreWriter(None, made.manifest) as writer:
        ...     writer.begin([{"pair": str(i // 2), "side": "..."} for i in range(4)], path_taken="plain")
        ...     for first, end in writer.missing:
        ...         writer.put((first, end), {3: torch.ones(end - first, 4)})
        ...     store = writer.finish()
        >>> store[3].positive.shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        path: str | Path | Folder | None,
        manifest: Mapping[str, Any],
        *,
        overwrite: bool = False,
        worker: Worker | None = None,
        follower: Follower | None = None,
        locked: bool = True,
    ) -> None:
        self.folder = None if path is None else open_folder(path)
        self.manifest: dict[str, Any] = dict(manifest)
        self.worker = worker or Worker()
        self.stored: dict[str, Any] | None = None
        self.lock: WriterLock | None = None
        self.follower = follower
        self.overwrite, self._locked = overwrite, locked
        self._index: Sequence[Row] = ()
        self.spans = spans(2 * manifest["pairs"], manifest["rows_per_shard"])
        self._plan = set(self.spans)
        self._memory = MemoryShards(manifest)
        self._background = Background(self._write)
        self._open = ExitStack()

    def __enter__(self) -> StoreWriter:
        """Take the lock and look what lies there.

        Raises:
            MismatchError: A store made with something else lies there.
            StoreError: Another process writes there; files that are not a store lie there; its manifest is damaged; or
                the folder cannot be written.
        """
        try:
            if self.folder is not None:
                self._enter(self.folder)
            self._background.start()
            return self
        except BaseException as error:
            self._open.__exit__(type(error), error, error.__traceback__)  # the lock's note tells the others why
            if self.folder is None or not isinstance(error, OSError):
                raise
            raise StoreError(f"cannot write {self.folder.path}: {error}; give a folder that can be written") from error

    def _enter(self, folder: Folder) -> None:
        check_folder(folder)
        if folder.local is not None and self._locked:
            self.lock = WriterLock(folder.local, self.worker)
            self._open.push(self.lock)  # before it is taken: it lets go of what it has, also of nothing
            self.lock.__enter__()
        self.look()
        clear_drafts(folder, self.worker, self.spans)
        if self.follower is not None and self.stored is not None:
            self.follower.begin(folder, self.stored, self.worker)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        with self._open:
            if self.lock is not None:
                self.lock.failed = error
            try:
                self.flush()
            except Exception as failed:
                if error is None:
                    raise
                if failed is not error:
                    error.add_note(f"and while the last shards were written: {failed}")
            finally:
                self._background.stop()

    @property
    def taken_over(self) -> str:
        """Whose lock was taken over, if somebody died here."""
        return "" if self.lock is None else self.lock.taken_over

    def look(self) -> None:
        """Read the manifest of the store to go on with, if there is one; where another worker begins it, look again.

        Raises:
            MismatchError: That store was made with something else.
            StoreError: Its manifest is damaged.
        """
        if self.folder is None or self.overwrite or not self.folder.exists(manifest_file.NAME):
            return
        stored = read_manifest(self.folder)
        found = differences(stored, self.manifest)
        if found:
            raise MismatchError(
                f"{self.folder.path} holds a store made with something else:\n"
                f"{list_differences(found, here='this call')}\n"
                "Give another path, or overwrite=True to throw that store away"
            )
        self.stored = stored

    def join(self) -> bool:
        """Go on with the store that another worker has begun just now, if it is there."""
        self.overwrite, before = False, self.overwrite
        self.look()
        self.overwrite = before and self.stored is None
        if self.follower is not None and self.stored is not None:
            self.follower.begin(self.folder, self.stored, self.worker)
        return self.stored is not None

    @property
    def missing(self) -> list[Span]:
        """The shards of this worker that are still to be put, as their first row and the one after their last."""
        return self.left(self.worker.share(self.spans))

    def left(self, some: Sequence[Span]) -> list[Span]:
        """Those of some shards that are still to be put."""
        if self.folder is None or self.stored is None:
            return list(some)
        if self.manifest.get("keep") == "statistics":
            return [span for span in some if self.follower is None or not self.follower.has(span)]
        there = find_shards(self.folder, some)
        return [span for span in some if span not in there]

    @property
    def needs_index(self) -> bool:
        """Whether `begin` needs the rows: there is no store yet, or its index is missing or damaged."""
        if self.folder is None or self.stored is None:
            return True
        return self.worker.rank == 0 and not index_file.is_whole(self.folder, self.stored["index_sha256"])

    def begin(self, rows: Iterable[Row] | None = None, *, path_taken: str | Choose, reason: str = "") -> None:
        """Write the index and then the manifest, or keep those of the store to go on with.

        The rows are taken one by one and not kept. A store that is overwritten goes when all of them were taken
        without an error. The manifest is written last, so what lies there is no store before it is one to go on with.

        Args:
            rows: What each row is; not needed where `needs_index` is false.
            path_taken: `"packed"` or `"plain"`: how the rows are computed; or a function that gives this and the
                reason, called when the last row was taken.
            reason: Why not packed.

        Raises:
            MismatchError: The rows that are there were computed in the other way, or the index is that of other data.
            InputError: The rows are needed, or are not two for each pair.
            StoreError: It cannot be written.
        """
        if isinstance(path_taken, str):
            self._settle(path_taken, reason)
        if self.needs_index:
            if rows is None:
                raise InputError("begin needs the rows of the index: there is no store with a whole one to go on with")
            self._write_index(rows, path_taken)
        elif not isinstance(path_taken, str):
            self._settle(*path_taken())
        self._catch_up()

    def _settle(self, path_taken: str, reason: str) -> None:
        self.manifest |= {"path": path_taken, "path_reason": reason}
        if self.folder is not None and self.stored is not None and self.stored.get("path") != path_taken:
            raise MismatchError(f"the rows in {self.folder.path} were computed {self.stored.get('path')!r}, this call "
                                f"would go on {path_taken!r}; give another path, or overwrite=True")  # fmt: skip

    def _write_index(self, rows: Iterable[Row], choose: str | Choose) -> None:
        made = IndexHash(rows, expected=2 * self.manifest["pairs"])

        def before() -> None:
            if not isinstance(choose, str):
                self._settle(*choose())
            if self.folder is not None and self.stored is None:
                clear(self.folder)
            elif self.stored is not None and made.sha256 != self.stored["index_sha256"]:
                raise MismatchError("the index of the store is damaged, and the one made now is another: the pairs' "
                                    "ids or tokens differ. Give another path, or overwrite=True")  # fmt: skip

        if self.folder is None:
            self._index = made.keep()
            before()
            return
        self.folder.write(index_file.NAME, made, before=before)
        if self.stored is None:
            self.manifest["index_sha256"] = made.sha256
            self.folder.write(manifest_file.NAME, [seal_json(self.manifest)])
            self.stored, self.overwrite = self.manifest, False

    def _catch_up(self) -> None:
        """Show the follower the shards that lie there and that it has not seen."""
        if self.follower is None:
            return
        self.follower.begin(self.folder, self.stored or self.manifest, self.worker)
        if self.folder is None or self.stored is None or self.manifest.get("keep") == "statistics":
            return
        there = find_shards(self.folder, self.spans)
        for span in self.worker.share(self.spans):
            if span in there and not self.follower.has(span):
                self.follower.put(span, *read_shard(self.folder, span, self.stored))

    def put(self, span: Span, rows: Mapping[int, Tensor], offsets: Tensor | None = None) -> None:
        """Hand over one shard; it is written in the background, and must not be changed any more.

        Args:
            span: Its first row, and the one after its last.
            rows: The rows of every layer, in the stored dtype: `[row, hidden]`, or `[token, hidden]` with offsets.
            offsets: Where each row's tokens begin, and where the last one's end.

        Raises:
            InputError: It is not one of the store's shards, or not of the shape it must have.
            StoreError: An earlier shard could not be written.
        """
        if span not in self._plan:
            raise InputError(f"rows {span} are no shard of this store; put those of writer.missing")
        check_rows(rows, offsets, span, self.manifest)
        self._background.put((span, rows, offsets))

    def _write(self, shard: Shard) -> None:
        span, rows, offsets = shard
        if self.manifest.get("keep") != "statistics":
            if self.folder is None:
                self._memory.put(span, rows, offsets)
            else:
                write_shard(self.folder, span, rows, self.stored or self.manifest, offsets=offsets)
        if self.follower is not None:
            self.follower.put(span, rows, offsets)

    def settle(self) -> None:
        """Wait until the shards that were put lie on the disk; an error in writing one is raised."""
        self._background.flush()

    def flush(self) -> None:
        """Wait until all that was put is written, the follower's file too.

        Raises:
            StoreError: A shard could not be written.
        """
        self._background.flush()
        if self.follower is not None:
            self.follower.finish()

    def finish(self) -> ActivationStore:
        """Wait until all is written, and give the filled store.

        Raises:
            StoreError: A shard could not be written, or other workers have not written theirs yet.
        """
        self.flush()
        if self.folder is None:
            moments = None if self.follower is None else self.follower.moments
            return ActivationStore(self._memory, self.manifest, index=self._index, moments=moments)
        manifest = read_manifest(self.folder)
        return ActivationStore(open_shards(self.folder, manifest), manifest)
