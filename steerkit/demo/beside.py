"""A process beside the demo that aligns the model.

Nothing heavy is imported before it runs, so both processes load their libraries at the same time.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.errors import SteerkitError

if TYPE_CHECKING:
    from steerkit.demo.arms import Arm


class Aligning:
    """A process that aligns the model in every way and measures all but the first."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process, self._folder = process, folder

    def arms(self, model: Any) -> Iterator[Arm]:
        """What each way does to every behavior, as soon as it is known.

        Args:
            model: The embedded model, to measure the first way with.

        Raises:
            SteerkitError: The process failed.
        """
        from steerkit.adapters import Adapter
        from steerkit.demo.aligning import MODES
        from steerkit.demo.arms import Arm, measure

        first, *others = MODES.values()
        self._line(first)
        yield measure(model, first, Adapter.load(self._folder / first))
        for name in others:
            yield Arm.from_json(self._line(name))

    def _line(self, name: str) -> str:
        """The next that the process says, which is about this way."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SteerkitError(f"{name}: aligning the model ended with code {self._process.wait()}; what it said "
                                "stands above")  # fmt: skip
        return line


@contextmanager
def aligning(source: str | Path, folder: Path) -> Iterator[Aligning]:
    """Begin to align; at the end the process is stopped, done or not.

    Args:
        source: Of the model.
        folder: Where the adapters go, each into a folder of its name.
    """
    words = [sys.executable, "-m", "steerkit.demo.aligning", str(source), str(folder)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Aligning(process, folder)
        finally:
            process.terminate()


def half(threads: int) -> int:
    """The threads of the process that aligns; the others are the demo's.

    Example:
        >>> half(5), half(1)
        (2, 1)
    """
    return max(threads // 2, 1)


@contextmanager
def on_the_other_half() -> Iterator[None]:
    """Leave half of the cores to the process beside."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(max(threads - half(threads), 1))
    try:
        yield
    finally:
        torch.set_num_threads(threads)
