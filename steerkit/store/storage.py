"""Where the files of a store lie: in a folder of this machine, or beyond it by fsspec. Nothing else knows which."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from steerkit.errors import StoreError

DRAFT = ".tmp"
"""What a file is called until it is whole."""
CHUNK = 2**22
OPEN_FILES = 64
Bytes = npt.NDArray[np.uint8]
Range = tuple[str, int, int]
"""A file, the first byte of it, and the one after the last."""


@runtime_checkable
class Folder(Protocol):
    """The files of one store; names are relative, with `/` between their parts."""

    path: str
    local: Path | None

    def names(self, under: str = "") -> list[str]:
        """What lies directly in it, or in a folder inside; empty where there is nothing."""
        ...

    def sizes(self, under: str = "") -> dict[str, int]:
        """The files in it, or in a folder inside, with their bytes; from one look at all of them."""
        ...

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        ...

    def chunks(self, name: str) -> Iterator[bytes]:
        """All bytes of a file, a piece at a time."""
        ...

    def ranges(self, wanted: Sequence[Range]) -> list[Bytes]:
        """Some bytes of some files, and only those; fewer where a file ends before. Not to be written to."""
        ...

    def gather(self, name: str, first: int, width: int, rows: npt.NDArray[np.int64]) -> Bytes:
        """Rows of `width` bytes `[row, width]` from a table that begins at byte `first`, and only those."""
        ...

    def write(self, name: str, data: Iterable[bytes], *, before: Callable[[], None] | None = None) -> None:
        """A file, whole or not at all; `before` is called when it is written and is about to take its place."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        ...


def open_folder(path: str | Path | Folder) -> Folder:
    """The folder at a path, or at an address such as `s3://bucket/store`.

    Example:
        >>> open_folder("acts/mood").path
        'acts/mood'
    """
    if isinstance(path, LocalFolder | RemoteFolder):
        return path
    text = str(path)
    if "://" not in text:
        return LocalFolder(Path(text).expanduser())
    if text.startswith("file://"):
        return LocalFolder(Path(text.removeprefix("file://")))
    import fsspec

    try:
        files, root = fsspec.core.url_to_fs(text)
    except (ImportError, ValueError) as error:
        raise StoreError(f"{text} cannot be reached: {error}") from error
    return RemoteFolder(files, root, text)


def read(folder: Folder, name: str) -> bytes:
    """All bytes of a file."""
    return b"".join(folder.chunks(name))


def _refuse(path: str, error: OSError) -> StoreError:
    return StoreError(f"cannot write {path}: {error}. What was stored before is kept; make room or give another path, "
                      "then record again to go on")  # fmt: skip


class LocalFolder:
    """A folder of this machine; files are mapped into memory, and written beside their place first."""

    def __init__(self, path: Path) -> None:
        self.local: Path | None = path
        self.path = str(path)
        self._root = path
        self._maps: OrderedDict[str, tuple[tuple[int, int, int], Bytes]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": OrderedDict()}

    def names(self, under: str = "") -> list[str]:
        """What lies directly in it."""
        folder = self._root / under
        return sorted(os.listdir(folder)) if folder.is_dir() else []  # noqa: PTH208 - names alone, of many files

    def sizes(self, under: str = "") -> dict[str, int]:
        """The files in it."""
        folder = self._root / under
        if not folder.is_dir():
            return {}
        found = {}
        with os.scandir(folder) as entries:  # one look at all
            for one in entries:
                with suppress(FileNotFoundError):  # a draft that another process moved to its place in between
                    if one.is_file():
                        found[one.name] = one.stat().st_size
        return found

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self._root / name).is_file()

    def chunks(self, name: str) -> Iterator[bytes]:
        """All bytes of a file."""
        with (self._root / name).open("rb") as file:
            while piece := file.read(CHUNK):
                yield piece

    def ranges(self, wanted: Sequence[Range]) -> list[Bytes]:
        """Views into mapped files: a byte is read from the disk when it is looked at."""
        return [self._map(name)[start:end] for name, start, end in wanted]

    def gather(self, name: str, first: int, width: int, rows: npt.NDArray[np.int64]) -> Bytes:
        """Rows of a table inside a file."""
        end = first + width * (int(rows.max()) + 1)
        table: Bytes = self._map(name)[first:end].reshape(-1, width)[rows]
        return table

    def _map(self, name: str) -> Bytes:
        """A file as mapped; anew where it has changed, for pages beyond the end of a shortened one would kill us."""
        path = self._root / name
        about = path.stat()
        stamp = (about.st_ino, about.st_size, about.st_mtime_ns)
        if name in self._maps and self._maps[name][0] == stamp:
            self._maps.move_to_end(name)
            return self._maps[name][1]
        with path.open("rb") as file:
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if about.st_size else b""
        self._maps[name] = (stamp, np.frombuffer(pages, dtype=np.uint8))
        while len(self._maps) > OPEN_FILES:
            self._maps.popitem(last=False)
        return self._maps[name][1]

    def write(self, name: str, data: Iterable[bytes], *, before: Callable[[], None] | None = None) -> None:
        """Written beside its place, brought to the disk, then moved there in one step.

        Raises:
            StoreError: The disk is full or the folder cannot be written; nothing half-written stays.
        """
        path = self._root / name
        draft = path.with_name(path.name + DRAFT)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("wb") as file:
                for piece in data:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            if before is not None:
                before()
            os.replace(draft, path)  # noqa: PTH105 - the name of the guarantee
            _sync_folder(path.parent)
        except BaseException as error:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise _refuse(str(path), error) from error
            raise

    def remove(self, name: str) -> None:
        """Remove a file."""
        (self._root / name).unlink(missing_ok=True)


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class RemoteFolder:
    """Files by fsspec: object storage shows an object when it is whole, so there is nothing to move."""

    def __init__(self, files: Any, root: str, path: str) -> None:
        self.local: Path | None = None
        self.path = path.rstrip("/")
        self._files = files
        self._root = root.rstrip("/")

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def names(self, under: str = "") -> list[str]:
        """What lies directly in it."""
        return sorted(_last(one["name"]) for one in self._list(under))

    def sizes(self, under: str = "") -> dict[str, int]:
        """The files in it."""
        return {_last(one["name"]): int(one["size"]) for one in self._list(under) if one["type"] == "file"}

    def _list(self, under: str) -> list[dict[str, Any]]:
        self._files.invalidate_cache(self._at(under))
        try:
            found: list[dict[str, Any]] = self._files.ls(self._at(under), detail=True)
        except FileNotFoundError:
            return []
        return [one for one in found if _last(one["name"]) not in ("", _last(self._at(under)))]

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        return bool(self._files.isfile(self._at(name)))

    def chunks(self, name: str) -> Iterator[bytes]:
        """All bytes of a file."""
        with self._files.open(self._at(name), "rb") as file:
            while piece := file.read(CHUNK):
                yield piece

    def ranges(self, wanted: Sequence[Range]) -> list[Bytes]:
        """Some bytes of some files, asked for together."""
        paths = [self._at(name) for name, _, _ in wanted]
        starts, ends = [start for _, start, _ in wanted], [end for _, _, end in wanted]
        found = self._files.cat_ranges(paths, starts, ends, on_error="raise")
        return [np.frombuffer(piece, dtype=np.uint8) for piece in found]

    def gather(self, name: str, first: int, width: int, rows: npt.NDArray[np.int64]) -> Bytes:
        """Rows of a table inside a file; neighbours are asked for at once."""
        wanted, places = np.unique(rows, return_inverse=True)
        breaks = [0, *(np.flatnonzero(np.diff(wanted) > 1) + 1), len(wanted)]
        runs = [(int(wanted[a]), int(wanted[b - 1]) + 1) for a, b in pairwise(breaks)]
        pieces = self.ranges([(name, first + a * width, first + b * width) for a, b in runs])
        table: Bytes = np.concatenate(pieces).reshape(-1, width)[places]
        return table

    def write(self, name: str, data: Iterable[bytes], *, before: Callable[[], None] | None = None) -> None:
        """Gathered on this machine, then sent at once.

        Raises:
            StoreError: It cannot be written.
        """
        try:
            with tempfile.TemporaryDirectory(prefix="steerkit-") as place:
                draft = Path(place) / "draft"
                with draft.open("wb") as file:
                    file.writelines(data)
                if before is not None:
                    before()
                self._files.makedirs(self._at(name).rsplit("/", 1)[0], exist_ok=True)
                self._files.put_file(str(draft), self._at(name))
        except OSError as error:
            raise _refuse(f"{self.path}/{name}", error) from error

    def remove(self, name: str) -> None:
        """Remove a file."""
        with suppress(FileNotFoundError):
            self._files.rm_file(self._at(name))


def _last(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]
