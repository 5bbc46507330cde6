"""A progress bar with rate and remaining time, where somebody is there to see it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(total: int, *, show: bool, unit: str = "pairs") -> Iterator[Callable[[int], None]]:
    """Gives a function to call with how many more are done.

    Args:
        total: How many there are.
        show: Show a bar; without a terminal none is shown.
        unit: What is counted.

    Example:
        >>> with progress_bar(10, show=False) as advance:
        ...     advance(10)
    """
    if not show or not sys.stderr.isatty():
        yield lambda _count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("recording"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total, rate="")

        def advance(count: int) -> None:
            bar.advance(task, count)
            speed = bar.tasks[0].speed
            bar.update(task, rate=f"{speed:.3g} {unit}/s" if speed else "")

        yield advance
