"""The result of a parity run: one row for each backend and quantity."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Literal

from steerkit.tables import Cell, Table, Tabular

Kind = Literal["measured", "for comparison", "absent", "failed"]
"""What a row is: a difference that counts, one that only explains others, a backend that cannot run this model here, or
an error."""

COLUMNS = ("backend", "attention", "held against", "quantity", "difference", "allowed", "where", "verdict")


@dataclass(frozen=True)
class ParityRow:
    """One quantity of one backend.

    Args:
        backend: Who ran the model.
        quantity: What was compared; empty for a backend that was not run.
        difference: The largest one: relative to the largest value of the reference for logits and states, absolute for
            probabilities, a count of tokens for scopes; `None` without a measurement.
        allowed: How much rounding explains in the model's dtype.
        where: Where the largest difference lies.
        attention: The attention implementation that the backend ran.
        against: What it was held against.
        kind: What the row is.
        reason: Why there is no measurement.
    """

    backend: str
    quantity: str = ""
    difference: float | None = None
    allowed: float | None = None
    where: str = ""
    attention: str = ""
    against: str = ""
    kind: Kind = "measured"
    reason: str = ""

    @property
    def passed(self) -> bool:
        """No difference beyond what is allowed; what was not compared, or only explains, is nobody's failure."""
        if self.kind == "measured":
            return self.difference is not None and self.allowed is not None and self.difference <= self.allowed
        return self.kind != "failed"

    @property
    def verdict(self) -> str:
        """The finding in words."""
        if self.kind in ("absent", "failed"):
            return self.reason
        if self.difference == 0:
            return "equal"
        if self.kind == "for comparison":
            return "attention alone"
        return "within rounding" if self.passed else "BEYOND TOLERANCE"


@dataclass(frozen=True, repr=False)
class Parity(Tabular):
    """How far the backends are apart on one model.

    Args:
        model: Its name.
        dtype: Of its weights; the tolerances follow from it.
        setup: What was run, in words: the vector, where and how strongly it is added, and the pairs.
        rows: Every backend and quantity.
    """

    model: str
    dtype: str
    setup: str
    rows: tuple[ParityRow, ...]

    @property
    def passed(self) -> bool:
        """No row lies beyond its tolerance, and no backend failed."""
        return all(row.passed for row in self.rows)

    def of(self, backend: str) -> tuple[ParityRow, ...]:
        """The rows of one backend."""
        return tuple(row for row in self.rows if row.backend == backend)

    @property
    def summary(self) -> str:
        """The findings in one sentence for each kind."""
        bad: dict[str, list[str]] = {}
        for row in self.rows:
            if not row.passed:
                bad.setdefault(row.backend, []).append(row.quantity or "the start")
        absent = [row.backend for row in self.rows if row.kind == "absent"]
        ran = dict.fromkeys(row.backend for row in self.rows if row.kind != "absent")
        parts = [f"{name} differs in {', '.join(quantities)}" for name, quantities in bad.items()]
        parts += [f"not compared: {', '.join(absent)}"] if absent else []
        good = [name for name in ran if name not in bad]
        return "; ".join(([f"the same within rounding: {', '.join(good)}"] if good else []) + parts)

    def table(self) -> Table:
        """What is shown of it."""
        rows: list[list[Cell]] = [
            [r.backend, r.attention, r.against, r.quantity, r.difference, r.allowed, r.where, r.verdict]
            for r in self.rows
        ]
        return Table(COLUMNS, rows, f"Parity of {self.model}, {self.dtype}: {self.setup}", self.summary)

    def plot(self) -> Any:
        """Every difference as a multiple of what is allowed, as a plotly figure."""
        from steerkit.agreement.figure import plot_parity

        return plot_parity(self)

    def to_json(self) -> str:
        """All of it for machines; a difference that is not a number is `null`."""
        rows = [
            {
                **{name: getattr(row, name) for name in ("backend", "attention", "against", "quantity")},
                **{name: _finite(getattr(row, name)) for name in ("difference", "allowed")},
                **{name: getattr(row, name) for name in ("where", "kind", "verdict", "passed")},
            }
            for row in self.rows
        ]
        head = {"model": self.model, "dtype": self.dtype, "setup": self.setup, "passed": self.passed}
        return json.dumps({**head, "summary": self.summary, "rows": rows})


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
