"""What a check measures, and what is made of all of them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from steerkit.errors import SteerkitError
from steerkit.tables import Cell, Table, Tabular


class ConformanceError(SteerkitError, AssertionError):
    """A part does not keep its contract; the message is the table of all checks."""


@dataclass(frozen=True)
class Check:
    """One property that was measured: its largest relative difference, and what is allowed."""

    name: str
    difference: float
    allowed: float

    @property
    def passed(self) -> bool:
        """The difference is a number within what is allowed."""
        return self.difference <= self.allowed


@dataclass(frozen=True, repr=False)
class Conformance(Tabular):
    """All checks of one part."""

    subject: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Every check passed."""
        return all(check.passed for check in self.checks)

    def table(self) -> Table:
        """What is shown of it."""
        rows: list[list[Cell]] = [
            [c.name, c.difference, c.allowed, "ok" if c.passed else "FAILED"] for c in self.checks
        ]
        return Table(["check", "difference", "allowed", ""], rows, self.subject)


def judge(result: Conformance) -> Conformance:
    """The result, unless a check failed."""
    if not result.passed:
        raise ConformanceError(repr(result))
    return result


def distance(a: Tensor, b: Tensor, *, exact: bool = False) -> float:
    """Largest difference, relative to the largest value of `b` unless `exact`."""
    a, b = a.float().cpu(), b.float().cpu()
    worst = float((a - b).abs().max())
    return worst if exact or worst == 0 else worst / max(float(b.abs().max()), 1e-12)
