"""Ctrl-C at each line of the store's code: the next call of the same process goes on, and ends with the same bytes."""

from __future__ import annotations

import gc
import linecache
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from recording_cases import choices, files
from tiny import tiny

from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.data.pairs import Pairs
from steerkit.recording import record

OPTIONS: dict[str, Any] = {"shard_pairs": 3, "batch_size": 2, "layers": [0], "statistics": "mean", "progress": False}


pytestmark = pytest.mark.filterwarnings(  # a file that Ctrl-C met between its opening and its `with`
    "ignore:unclosed file", "ignore:Exception ignored in. <_io:pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True)
def swept() -> Iterator[None]:
    """Such files are closed here, and not in a later test, where their warning would be an error."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def model() -> HuggingFaceModel:
    return tiny("llama")


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    return choices(12)


@pytest.fixture(scope="module")
def whole(model: HuggingFaceModel, pairs: Pairs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "store"
    record(model, pairs, path=path, **OPTIONS)
    return path


def nothing(_whole: Path, _path: Path) -> None:
    """No store is there."""


def killed(whole: Path, path: Path) -> None:
    """A store is there whose last shard is missing, and whose statistics had not been written yet."""
    shutil.copytree(whole, path)
    shutil.rmtree(path / "statistics")
    max((path / "shards").iterdir()).unlink()


Place = tuple[str, int]
"""A file's name and a line in it."""


def trace(work: Callable[[], object], at: Callable[[Place], object]) -> None:
    """Do some work, and tell of each line run in `steerkit/store`."""

    def see(frame: FrameType, event: str, _argument: object) -> Any:
        if "/steerkit/store/" not in frame.f_code.co_filename:
            return None
        if event == "line" and not is_out_of_reach(frame):
            at((Path(frame.f_code.co_filename).name, frame.f_lineno))
        return see

    before = sys.gettrace()
    sys.settrace(see)
    try:
        work()
    finally:
        sys.settrace(before)


def is_out_of_reach(frame: FrameType) -> bool:
    """Whether no code can guard this line, or no signal arrives there: an `__exit__`'s first one, and a `try:`."""
    code = frame.f_code
    lines = [number for _, _, number in code.co_lines() if number and number > code.co_firstlineno]
    source = linecache.getline(code.co_filename, frame.f_lineno).strip()
    return source == "try:" or (code.co_name == "__exit__" and frame.f_lineno == min(lines))


def interrupt(work: Callable[[], object], number: int) -> None:
    """Ctrl-C at the nth line."""
    count = 0

    def see(_place: Place) -> None:
        nonlocal count
        count += 1
        if count == number:
            sys.settrace(None)
            raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        trace(work, see)


def last_times(work: Callable[[], object]) -> dict[Place, int]:
    """The number of the last time that each line is run."""
    seen: list[Place] = []
    trace(work, seen.append)
    return {place: number for number, place in enumerate(seen, 1)}


def check(
    model: HuggingFaceModel, pairs: Pairs, whole: Path, folder: Path, begin: Callable[[Path, Path], None], file: str
) -> int:
    """Interrupt at the lines of some files, each time from the beginning; how many lines."""

    def work(path: Path) -> None:
        record(model, pairs, path=path, **OPTIONS)

    begin(whole, folder / "once")
    found = last_times(lambda: work(folder / "once"))
    chosen = {place: number for place, number in found.items() if fnmatch(place[0], file)}
    for place, number in chosen.items():
        path = folder / f"at-{number}"
        begin(whole, path)
        interrupt(lambda to=path: work(to), number)  # type: ignore[misc]
        work(path)
        assert files(path) == files(whole), place
        shutil.rmtree(path)
    return len(chosen)


def test_ctrl_c_while_statistics_catch_up(
    model: HuggingFaceModel, pairs: Pairs, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steerkit.store.tally.PATIENCE", 1e9)  # so that some shards are counted and not yet written
    assert check(model, pairs, whole, tmp_path, killed, "tally.py") > 20


@pytest.mark.slow
@pytest.mark.parametrize("begin", [nothing, killed])
def test_ctrl_c_at_every_line(
    model: HuggingFaceModel, pairs: Pairs, whole: Path, tmp_path: Path, begin: Callable[[Path, Path], None]
) -> None:
    assert check(model, pairs, whole, tmp_path, begin, "*") > 200
