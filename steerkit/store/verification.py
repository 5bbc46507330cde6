"""Whether a store is whole: every byte of every file held against the checksums."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.errors import StoreError
from steerkit.store import folder as folder_file
from steerkit.store import index as index_file
from steerkit.store import manifest as manifest_file
from steerkit.store.headers import Header, read_headers
from steerkit.store.manifest import identity, read_manifest
from steerkit.store.opening import open_shards
from steerkit.store.seals import OPEN, hash_without
from steerkit.store.shards import FOLDER, OFFSETS, check_header, human_size, shard_name, spans
from steerkit.store.storage import DRAFT, Folder, open_folder
from steerkit.store.workers import Span
from steerkit.tables import Table, Tabular

if TYPE_CHECKING:
    import pandas as pd

RECORD = "delete it and run the same record again: it goes on there"
ANEW = "put back a copy, or record again with overwrite=True"


@dataclass(frozen=True)
class Problem:
    """Something wrong with a store.

    Args:
        file: Where.
        wrong: What.
        todo: What helps.
    """

    file: str
    wrong: str
    todo: str


@dataclass(frozen=True, repr=False)
class Verification(Tabular):
    """What was found when every byte of a store was read; prints as a table.

    Args:
        path: Where it lies.
        files: How many files were read.
        nbytes: How many bytes.
        problems: What is wrong.
    """

    path: str
    files: int
    nbytes: int
    problems: tuple[Problem, ...] = ()

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return not self.problems

    def table(self) -> Table:
        """What is shown of it."""
        read = f"{self.path}: {self.files} files, {human_size(self.nbytes)} read"
        if self.ok:
            return Table(["verified", read], [["result", "whole: every byte is as it was written"]])
        rows = [[one.file, one.wrong, one.todo] for one in self.problems]
        count = "1 problem" if len(rows) == 1 else f"{len(rows)} problems"
        return Table(["file", "what is wrong", "what to do"], rows, title=f"{read}; {count}")

    def to_frame(self) -> pd.DataFrame:
        """The problems, one a row."""
        import pandas as pd

        return pd.DataFrame([asdict(one) for one in self.problems], columns=["file", "wrong", "todo"])

    def to_json(self) -> str:
        """Everything, for machines."""
        return json.dumps({"ok": self.ok, **asdict(self)})


def verify(path: str | Path) -> Verification:
    """Read every byte of a store and hold it against the checksums in its files.

    What is found: a changed byte, a file cut short, missing, too many, or of another store. An interrupted store lacks
    shards. Half-written drafts and locks are left out.

    Args:
        path: The folder, or an address such as `s3://bucket/store`.

    Raises:
        StoreError: Nothing lies there.

    Example:
        >>> import tempfile, torch
        >>> from steerkit.store import ActivationStore, Paired
        >>> store = ActivationStore.from_layers({3: Paired(torch.ones(4, 2), torch.zeros(4, 2))})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     saved = store.save(folder)
        ...     verify(folder).ok
        True
    """
    folder = open_folder(path)
    if not folder.names():
        raise StoreError(f"{folder.path} is not an activation store: nothing lies there. Give the folder that record "
                         "wrote")  # fmt: skip
    return _Check(folder).run()


def verify_all(folders: Sequence[Folder]) -> Verification:
    """The same for the files of several stores together; those in memory have none."""
    found = [_Check(folder).run() for folder in folders]
    problems = tuple(problem for one in found for problem in one.problems)
    where = ", ".join(one.path for one in found) or "memory"
    return Verification(where, sum(one.files for one in found), sum(one.nbytes for one in found), problems)


class _Check:
    """One store, file by file."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._files = self._bytes = 0
        self._problems: list[Problem] = []

    def run(self) -> Verification:
        manifest = self._manifest()
        if manifest is not None:
            self._index(manifest)
        self._shards(manifest)
        self._statistics(manifest)
        for name in self._folder.names():
            if not folder_file.is_ours(name):
                self._say(name, "does not belong to a store", "move it away")
        return Verification(self._folder.path, self._files, self._bytes, tuple(self._problems))

    def _say(self, file: str, wrong: str, todo: str) -> None:
        self._problems.append(Problem(file, wrong, todo))

    def _manifest(self) -> dict[str, Any] | None:
        try:
            manifest = read_manifest(self._folder)
            for _ in self._count(manifest_file.NAME):
                pass
        except (StoreError, OSError) as error:
            wrong = str(error).removeprefix(f"{self._folder.path}/{manifest_file.NAME} ").split(";")[0]
            self._say(manifest_file.NAME, wrong, ANEW)
            return None
        return manifest

    def _index(self, manifest: Mapping[str, Any]) -> None:
        if not self._folder.exists(index_file.NAME):
            self._say(index_file.NAME, "is missing", index_file.AGAIN)
            return
        try:
            for _ in self._count(index_file.NAME):
                pass
            rows = index_file.IndexFile(self._folder, rows=2 * manifest["pairs"], sha256=manifest["index_sha256"])
            json.dumps(rows[0])
        except (StoreError, OSError, ValueError) as error:
            wrong = str(error).removeprefix(f"{self._folder.path}/{index_file.NAME} ").split(";")[0]
            self._say(index_file.NAME, wrong, index_file.AGAIN)

    def _shards(self, manifest: Mapping[str, Any] | None) -> None:
        """Those that must be there, then those that must not."""
        there = [f"{FOLDER}/{name}" for name in self._folder.names(FOLDER) if not name.endswith(DRAFT)]
        if manifest is None:
            for name in there:
                self._sealed(name, lambda _: None)
            return
        rows = 2 * manifest["pairs"] if manifest.get("keep") != "statistics" else 0
        wanted = {shard_name(span): span for span in spans(rows, manifest["rows_per_shard"])}
        whose = identity(manifest)
        for name, span in wanted.items():
            if name in there:
                self._sealed(name, _fits(span, manifest, whose), manifest)
            else:
                self._say(name, "is missing", "run the same record again: it goes on there")
        for name in there:
            if name not in wanted:
                self._say(name, "does not belong to this store", "delete it")

    def _statistics(self, manifest: Mapping[str, Any] | None) -> None:
        def whose(header: Header) -> None:
            if manifest is not None and header.says.get("store") != identity(manifest):
                raise ValueError("it belongs to another store")

        if manifest is not None and manifest.get("keep") == "statistics":
            try:
                open_shards(self._folder, manifest)
            except (StoreError, OSError) as error:
                self._say(folder_file.STATISTICS, str(error).split(". ")[0], "run the same record again")
        for name in self._folder.names(folder_file.STATISTICS):
            if name.endswith(".safetensors"):
                self._sealed(f"{folder_file.STATISTICS}/{name}", whose)
            elif not name.endswith(DRAFT):
                self._say(f"{folder_file.STATISTICS}/{name}", "does not belong to a store", "move it away")

    def _sealed(self, name: str, fits: Callable[[Header], None], manifest: Mapping[str, Any] | None = None) -> None:
        """One file with a seal in its header."""
        try:
            header = read_headers(self._folder, [name])[0]
            seal = header.says.get("sha256")
            head = self._folder.ranges([(name, 0, header.end)])[0].tobytes()
            at = head.find(seal.encode()) if isinstance(seal, str) and len(seal) == len(OPEN) else -1
            if hash_without(max(at, 0), self._count(name)) != seal or at < 0:
                raise ValueError("its bytes are not those that were written: the sha256 does not fit")
            fits(header)
            if manifest is not None and manifest["kind"] == "each":
                self._offsets(name, header)
        except (OSError, ValueError) as error:
            self._say(name, str(error), RECORD)

    def _offsets(self, name: str, header: Header) -> None:
        entry = header.entries[OFFSETS]
        edges = entry.tensor(self._folder.ranges([(name, entry.start, entry.end)])[0])
        tokens = {one.shape[0] for key, one in header.entries.items() if key != OFFSETS}
        if bool((edges.diff() < 0).any()) or int(edges[0]) != 0 or tokens != {int(edges[-1])}:
            raise ValueError("its offsets do not fit its tokens")

    def _count(self, name: str) -> Iterator[bytes]:
        self._files += 1
        for piece in self._folder.chunks(name):
            self._bytes += len(piece)
            yield piece


def _fits(span: Span, manifest: Mapping[str, Any], whose: str) -> Callable[[Header], None]:
    return lambda header: check_header(header, span, manifest, whose=whose)
