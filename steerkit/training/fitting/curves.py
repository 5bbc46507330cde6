"""What a training did, step by step."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from steerkit.tables import Cell, Table, Tabular

if TYPE_CHECKING:
    from pandas import DataFrame

SHOWN = 12
"""Rows of the table: the first step, the last, and some between."""
ALWAYS = ("step", "loss", "lr", "grad_norm")


@dataclass(frozen=True, repr=False, eq=False)
class Curve(Tabular):
    """The loss and whatever else was measured, one row a step.

    Args:
        rows: Numbers by name, with `step` (from 0), `loss`, `lr`, `grad_norm` (before clipping) and `seconds`.

    Example:
        >>> Curve([{"step": 0, "loss": 2.0, "lr": 0.1}, {"step": 1, "loss": 1.0, "lr": 0.1}])
        2 steps, loss 2 to 1
        step  loss   lr
           0     2  0.1
           1     1  0.1
    """

    rows: Sequence[Mapping[str, float]]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def loss(self) -> list[float]:
        """By step."""
        return self.series("loss")

    @cached_property
    def names(self) -> list[str]:
        """What was measured, the usual first."""
        found = dict.fromkeys(name for row in self.rows for name in row)
        return [name for name in ALWAYS if name in found] + [name for name in found if name not in ALWAYS]

    def series(self, name: str) -> list[float]:
        """One of the numbers by step; NaN where a step lacks it."""
        return [float(row.get(name, float("nan"))) for row in self.rows]

    def table(self) -> Table:
        """What is shown of it."""
        most = len(self.rows) - 1
        chosen = sorted({round(most * i / (SHOWN - 1)) for i in range(SHOWN)}) if self.rows else []
        names = [name for name in self.names if name != "seconds"]
        rows: list[list[Cell]] = [
            [int(self.rows[i]["step"]) if name == "step" else self.rows[i].get(name) for name in names] for i in chosen
        ]
        loss = f", loss {self.loss[0]:.4g} to {self.loss[-1]:.4g}" if self.rows else ""
        return Table(names, rows, f"{len(self.rows)} steps{loss}")

    def to_frame(self) -> DataFrame:
        """One row a step."""
        from pandas import DataFrame

        return DataFrame([dict(row) for row in self.rows])

    def to_json(self) -> str:
        """A list of rows."""
        return json.dumps([dict(row) for row in self.rows])

    def plot(self) -> Any:
        """The loss by step, with whatever else shares its scale, and below it the length of the gradient."""
        from plotly.subplots import make_subplots

        from steerkit.diagnostics.figures import NULL, POSITIVE, style

        figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.72, 0.28], vertical_spacing=0.06)
        steps = self.series("step")
        figure.add_scatter(x=steps, y=self.loss, name="loss", line={"color": POSITIVE}, row=1, col=1)
        others = [name for name in self.names if name not in (*ALWAYS, "seconds")]
        for name in others:
            figure.add_scatter(x=steps, y=self.series(name), name=name, visible="legendonly", row=1, col=1)
        norm = self.series("grad_norm")
        figure.add_scatter(x=steps, y=norm, name="gradient norm", line={"color": NULL}, row=2, col=1)
        figure.update_yaxes(title="loss", rangemode="tozero", row=1, col=1)
        figure.update_yaxes(title="gradient", type="log", row=2, col=1)
        figure.update_xaxes(title="step", row=2, col=1)
        loss = f"{self.loss[0]:.3g} to {self.loss[-1]:.3g} in {len(self)} steps" if self.rows else "no step"
        return style(figure, title=f"Loss: {loss}")
