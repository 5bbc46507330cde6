"""A training while it runs: a bar with the loss as a curve, in a terminal or a notebook, and a file to follow."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

NAME = "curve.jsonl"
BARS = "▁▂▃▄▅▆▇█"
WIDTH = 24
Row = Mapping[str, float]
Show = Callable[[Row], None]
Describe = Callable[[Row], str]


def sparkline(values: Sequence[float], *, width: int = WIDTH) -> str:
    """A curve in one line of text, from 0 to its highest value.

    Example:
        >>> sparkline([8, 4, 2, 0])
        '█▅▃▁'
    """
    if not values:
        return ""
    count = min(width, len(values))
    cuts = [len(values) * i // count for i in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]
    top = max(means)
    return "".join(BARS[min(int(mean / top * len(BARS)), len(BARS) - 1) if top > 0 else 0] for mean in means)


@contextmanager
def shown(rows: Sequence[Row], total: int, *, show: bool, folder: Path | None, describe: Describe) -> Iterator[Show]:
    """Gives a function to call with each step's numbers.

    Args:
        rows: The steps that were done before.
        total: How many there will be.
        show: Show a bar; without a terminal or notebook none is shown.
        folder: Where `curve.jsonl` grows by a line a step.
        describe: The numbers of a step in a few words.
    """
    losses = [row["loss"] for row in rows]
    with _log(folder, rows) as write, _bar(losses, total, show=show, describe=describe) as draw:

        def add(row: Row) -> None:
            losses.append(row["loss"])
            write(row)
            draw(row)

        yield add


@contextmanager
def _log(folder: Path | None, rows: Sequence[Row]) -> Iterator[Show]:
    if folder is None:
        yield lambda _row: None
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / NAME).open("w", encoding="utf-8", buffering=1) as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
        yield lambda row: print(json.dumps(row), file=file)


@contextmanager
def _bar(losses: list[float], total: int, *, show: bool, describe: Describe) -> Iterator[Show]:
    notebook = _notebook() if show else None
    if notebook is not None:
        with _cell(notebook, losses, total, describe) as draw:
            yield draw
    elif show and sys.stderr.isatty():
        with _terminal(losses, total, describe) as draw:
            yield draw
    else:
        yield lambda _row: None


@contextmanager
def _terminal(losses: list[float], total: int, describe: Describe) -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("training"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn(),
               TextColumn("{task.fields[curve]} {task.fields[text]}"))  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total, completed=len(losses), curve="", text="")
        yield lambda row: bar.update(task, advance=1, curve=sparkline(losses), text=describe(row))


@contextmanager
def _cell(display: Any, losses: list[float], total: int, describe: Describe) -> Iterator[Show]:
    """One output of a notebook cell, drawn anew at most twice a second and at the end."""
    handle, drawn, last = display({"text/plain": ""}, raw=True, display_id=True), 0.0, ""

    def draw(row: Row) -> None:
        nonlocal drawn, last
        last = f"training {len(losses)}/{total} {sparkline(losses)} {describe(row)}"
        if time.monotonic() - drawn > 0.5:
            drawn = time.monotonic()
            handle.update({"text/plain": last}, raw=True)

    try:
        yield draw
    finally:
        handle.update({"text/plain": last}, raw=True)


def _notebook() -> Any:
    """IPython's `display`, where this runs in a notebook."""
    if "IPython" not in sys.modules:
        return None
    from IPython import get_ipython
    from IPython.display import display

    shell = get_ipython()
    return display if shell is not None and hasattr(shell, "kernel") else None
