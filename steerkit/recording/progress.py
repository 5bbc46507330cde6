"""A progress bar with rate and remaining time, where somebody is there to see it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """What work reports to; calling it says how many more are done.

    Args:
        advance: Takes how many more are done.
        say: Shows a line of text on standard error, above the bar.
    """

    advance: Callable[[int], None]
    say: Callable[[str], None]

    def __call__(self, count: int) -> None:
        self.advance(count)


@contextmanager
def progress_bar(total: int, *, show: bool, unit: str = "pairs") -> Iterator[Progress]:
    """Gives a function to call with how many more are done.

    Args:
        total: How many there are.
        show: Show a bar; without a terminal none is shown. What is said is shown in any case.
        unit: What is counted.

    Example:
        >>> with progress_bar(10, show=False) as advance:
        ...     advance(10)
    """
    if not show or not sys.stderr.isatty():
        yield Progress(lambda _count: None, lambda text: print(text, file=sys.stderr, flush=True))
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("recording"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total, rate="")

        def advance(count: int) -> None:
            bar.advance(task, count)
            speed = bar.tasks[0].speed
            bar.update(task, rate=f"{speed:.3g} {unit}/s" if speed else "")

        yield Progress(advance, lambda text: bar.console.print(text, markup=False, highlight=False))
