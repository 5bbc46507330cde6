"""What is wrong with distilled weights, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steerkit.tables import Table, Tabular

if TYPE_CHECKING:
    from steerkit.training.verifying.verification import Verification


@dataclass(frozen=True)
class Finding:
    """One sign of failure.

    Args:
        name: Of the rule that found it.
        grave: With it, the weights do not do what the edit did; without, they do it with a reservation.
        what: What was measured.
        advice: The likely causes and what to do.
    """

    name: str
    grave: bool
    what: str
    advice: str


Rule = Callable[["Verification"], Finding | None]
"""One row of the table of failures: what it finds, or `None`."""


@dataclass(frozen=True, repr=False)
class Verdict(Tabular):
    """Whether the weights do what the edit did.

    Args:
        findings: The grave ones first; none where all is well.
        sound: What there is to say for the weights.
    """

    findings: tuple[Finding, ...]
    sound: str

    @property
    def passed(self) -> bool:
        """Nothing grave was found."""
        return not any(one.grave for one in self.findings)

    @property
    def names(self) -> tuple[str, ...]:
        """The rules that found something."""
        return tuple(one.name for one in self.findings)

    @property
    def text(self) -> str:
        """All of it in sentences."""
        return "\n".join([f"{self.headline} {self.sound}", *(f"{one.what} {one.advice}" for one in self.findings)])

    @property
    def headline(self) -> str:
        """In one sentence."""
        if not self.passed:
            return "The weights do not do what was wanted."
        return "The weights do what was wanted" + (", with reservations." if self.findings else ".")

    def table(self) -> Table:
        """What is shown of it."""
        rows = [[one.name, "grave" if one.grave else "mild", one.what, one.advice] for one in self.findings]
        return Table(["finding", "is", "measured", "likely causes, and what to do"], rows,
                     f"{self.headline} {self.sound}")  # fmt: skip


def judge(found: Verification, rules: Iterable[Rule]) -> Verdict:
    """Ask every rule; those of `shift_rules` and of `behavior_rules` are the standing ones."""
    findings = [one for rule in rules if (one := rule(found)) is not None]
    return Verdict(tuple(sorted(findings, key=lambda one: not one.grave)), found.summary)
