"""Two ways of doing the same work, timed in turns so that what else the machine does falls on both."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Ratio:
    """One line of the table: how long the first way takes in units of the second, and the aim for it."""

    name: str
    value: float
    low: float
    high: float
    aim: str
    met: bool
    runs: int

    def row(self) -> list[str | int | float]:
        """The cells of its line."""
        spread = f"{self.low:.3g} to {self.high:.3g}"
        return [self.name, float(f"{self.value:.3g}"), spread, self.aim, "yes" if self.met else "NO", self.runs]


def seconds(work: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ratio(
    name: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    runs: int = 7,
    at_most: float | None = None,
    at_least: float | None = None,
    inverse: bool = False,
) -> Ratio:
    """The median over several runs of our time by theirs (or theirs by ours), each run one after the other.

    Args:
        name: What is compared.
        ours: Our way.
        theirs: The other way.
        runs: How often both are run, after one run that does not count.
        at_most: The aim, from above.
        at_least: The aim, from below.
        inverse: Their time by ours (how many times faster we are).
    """
    ours(), theirs()
    pairs = []
    for turn in range(runs):
        if turn % 2:
            b, a = seconds(theirs), seconds(ours)
        else:
            a, b = seconds(ours), seconds(theirs)
        pairs.append(b / a if inverse else a / b)
    value = median(pairs)
    aim = f">= {at_least:g}" if at_least is not None else f"<= {at_most:g}" if at_most is not None else ""
    met = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
    return Ratio(name, value, min(pairs), max(pairs), aim, met, runs)
