"""How long prompts and answers are, and whether the chosen answers can be told by their length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from steerkit.tables import Cell, Table, Tabular

BIAS = 0.1
"""A share of longer chosen answers this far from one half is a length bias, if chance does not explain it."""
SURE = 3.0
"""How many standard errors chance may explain."""


@dataclass(frozen=True, repr=False)
class Lengths(Tabular):
    r"""Lengths of preferences, row by row.

    The share of longer chosen answers is $(\#[c > r] + \#[c = r] / 2) / n$; by chance it is one half, with a standard
    error of $\sqrt{\#[c \ne r]} / 2n$.

    Args:
        prompt: Of the prompts.
        chosen: Of the chosen answers.
        rejected: Of the rejected ones.
        unit: What is counted: `"characters"` or `"tokens"`.

    Example:
        >>> lengths = Lengths(prompt=(9, 9), chosen=(5, 7), rejected=(4, 4))
        >>> lengths.gaps, lengths.chosen_longer, lengths.is_biased
        ((1, 3), 1.0, False)

    Source: what is a bias is our rule; that preferences have one is shown by Singhal et al. 2023, "A Long Way to Go".
    """

    prompt: Sequence[int]
    chosen: Sequence[int]
    rejected: Sequence[int]
    unit: str = "characters"

    @property
    def gaps(self) -> tuple[int, ...]:
        """Chosen minus rejected."""
        return tuple(c - r for c, r in zip(self.chosen, self.rejected, strict=True))

    @property
    def chosen_longer(self) -> float:
        """Share of the pairs whose chosen answer is the longer one, between 0 and 1; equal lengths count half."""
        return sum((gap > 0) + (gap == 0) / 2 for gap in self.gaps) / len(self.gaps)

    @property
    def standard_error(self) -> float:
        """Of that share, if length did not matter."""
        return sqrt(sum(gap != 0 for gap in self.gaps)) / (2 * len(self.gaps))

    @property
    def mean_gap(self) -> float:
        """Mean of chosen minus rejected, in the unit."""
        return sum(self.gaps) / len(self.gaps)

    @property
    def is_biased(self) -> bool:
        """The share is further from one half than `BIAS`, and than `SURE` standard errors."""
        off = abs(self.chosen_longer - 0.5)
        return off > BIAS and off > SURE * self.standard_error

    @property
    def verdict(self) -> str:
        """The share in words."""
        says = "a length bias" if self.is_biased else "no length bias"
        return (f"the chosen answer is the longer one in {self.chosen_longer:.1%} of {len(self.gaps)} (by chance 50.0% "
                f"with a standard error of {self.standard_error:.1%}), by {self.mean_gap:+.1f} {self.unit} on average: "
                f"{says}")  # fmt: skip

    def matched(self, tolerance: float) -> tuple[bool, ...]:
        """For each pair, whether its lengths differ by at most this share of the longer one."""
        both = zip(self.chosen, self.rejected, strict=True)
        return tuple(abs(c - r) <= tolerance * max(c, r) for c, r in both)

    def table(self) -> Table:
        """What is shown of it."""
        columns = [self.unit, "mean", "shortest", "5 %", "median", "95 %", "longest"]
        parts = {
            "prompt": self.prompt,
            "chosen": self.chosen,
            "rejected": self.rejected,
            "chosen - rejected": self.gaps,
        }
        rows: list[list[Cell]] = []
        for name, values in parts.items():
            ordered = sorted(values)
            at = [ordered[round(share * (len(ordered) - 1))] for share in (0, 0.05, 0.5, 0.95, 1)]
            rows.append([name, sum(ordered) / len(ordered), *at])
        return Table(columns, rows, note=self.verdict)
