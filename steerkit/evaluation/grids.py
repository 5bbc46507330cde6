"""The result of a sweep: every cell by item, the best layer, and where not to believe it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.errors import DataError, LayerError
from steerkit.evaluation.conventions import finite, letter_mask, signed
from steerkit.evaluation.effects import BestLayer, Effect, best_layer, effect_of
from steerkit.evaluation.intervals import standard_error
from steerkit.evaluation.questions import Question
from steerkit.evaluation.scores import ChoiceScores
from steerkit.tables import Cell, Table, Tabular

if TYPE_CHECKING:
    from pandas import DataFrame

LOW_MASS = 0.9
LETTER_BIAS = 0.2


@dataclass(frozen=True, repr=False, eq=False)
class Sweep(Tabular):
    """p(matching) at every layer and coefficient.

    Args:
        layers: Rows of the grid.
        coefs: Columns of the grid, ascending.
        ids: Names of the items.
        letters: Multiple-choice letter of each item's positive answer; empty without one.
        log_positive: Log-probability of the positive answer in every cell.
        log_negative: The same for the negative answer.
        unsteered: The scores without the vector.
        path: How it was computed: `"packed"`, `"cached"` or `"naive"`.
        reason: Why so.
        check_error: Difference of packed and plain logits on the first question, relative to the largest logit.
    """

    layers: tuple[int, ...]
    coefs: tuple[float, ...]
    ids: tuple[str, ...]
    letters: tuple[str, ...]
    log_positive: Float[Tensor, "layer coef item"]
    log_negative: Float[Tensor, "layer coef item"]
    unsteered: ChoiceScores
    path: str
    reason: str
    check_error: float | None = None

    @classmethod
    def from_variants(
        cls,
        layers: Sequence[int],
        coefs: Sequence[float],
        questions: Sequence[Question],
        logs: tuple[Float[Tensor, "variant item"], Float[Tensor, "variant item"]],
        *,
        how: tuple[str, str, float | None],
    ) -> Sweep:
        """From the log-probabilities of each variant: the unsteered model, then layer by layer all but `coef=0`."""
        ids, letters = tuple(one.id for one in questions), tuple(one.letter for one in questions)
        grids = []
        for log in logs:
            grid = log[0].expand(len(layers), len(coefs), -1).clone()
            steered = [k for k, coef in enumerate(coefs) if coef != 0]
            grid[:, steered] = log[1:].view(len(layers), len(steered), -1)
            grids.append(grid)
        unsteered = ChoiceScores.from_logs(ids, letters, logs[0][0], logs[1][0])
        return cls(tuple(layers), tuple(coefs), ids, letters, grids[0], grids[1], unsteered, *how)

    @cached_property
    def items(self) -> Float[Tensor, "layer coef item"]:
        """p(matching) of every item in every cell."""
        return torch.sigmoid(self.log_positive - self.log_negative)

    @cached_property
    def item_mass(self) -> Float[Tensor, "layer coef item"]:
        """Probability of both answers together, of every item in every cell."""
        return self.log_positive.exp() + self.log_negative.exp()

    @property
    def p_matching(self) -> Float[Tensor, "layer coef"]:
        """Mean over items of the matching answer's share."""
        return self.items.mean(-1)

    @property
    def stderr(self) -> Float[Tensor, "layer coef"]:
        """Standard error of that mean over items."""
        return standard_error(self.items)

    @property
    def mass(self) -> Float[Tensor, "layer coef"]:
        """Mean probability of both answers together."""
        return self.item_mass.mean(-1)

    @property
    def accuracy(self) -> Float[Tensor, "layer coef"]:
        """Share of items with p(matching) above one half."""
        return (self.items > 0.5).double().mean(-1)

    @property
    def a_items(self) -> Float[Tensor, "layer coef"]:
        """p(matching) over items whose matching letter is A; NaN without any."""
        return self.items[..., letter_mask(self.letters, "A")].mean(-1)

    @property
    def b_items(self) -> Float[Tensor, "layer coef"]:
        """The same for B."""
        return self.items[..., letter_mask(self.letters, "B")].mean(-1)

    @property
    def letter_bias(self) -> Float[Tensor, "layer coef"]:
        """p(matching) of A-items minus that of B-items; far from 0, the letter counts and not the answer."""
        return self.a_items - self.b_items

    @cached_property
    def effect(self) -> Effect:
        """By layer, p(matching) at the highest coefficient minus that at the lowest (0 where all have one sign)."""
        low, high = min(0.0, self.coefs[0]), max(0.0, self.coefs[-1])
        return effect_of(self.layers, self._at(high), self._at(low), letters=self.letters, ends=(low, high))

    @cached_property
    def best(self) -> BestLayer:
        """The layer with the largest effect, and those that cannot be told from it."""
        return best_layer(self.effect)

    def at(self, *, layer: int, coef: float) -> ChoiceScores:
        """The scores of one cell, item by item; `coef=0` is always there.

        Raises:
            LayerError: The grid has no such layer.
            DataError: The grid has no such coefficient.
        """
        if layer not in self.layers:
            raise LayerError(f"the sweep has no layer {layer!r}; it has {list(self.layers)}")
        if coef == 0:
            return self.unsteered
        if coef not in self.coefs:
            raise DataError(f"the sweep has no coefficient {coef!r}; it has {list(self.coefs)}")
        row, column = self.layers.index(layer), self.coefs.index(coef)
        return ChoiceScores.from_logs(
            self.ids, self.letters, self.log_positive[row, column], self.log_negative[row, column]
        )

    def _at(self, coef: float) -> Float[Tensor, "layer item"]:
        if coef in self.coefs:
            return self.items[:, self.coefs.index(coef)]
        return self.unsteered.items.p_matching.expand(len(self.layers), -1)

    def _warnings(self, row: int) -> str:
        """Where the mass is low or the letters disagree, at a layer's worst coefficient."""
        notes = []
        mass, at = self.mass[row].min(dim=0)
        if mass < LOW_MASS:
            notes.append(f"mass {float(mass):.2f} at {signed(self.coefs[int(at)])}")
        bias, at = self.letter_bias[row].abs().nan_to_num(nan=0.0).max(dim=0)
        if bias > LETTER_BIAS:
            notes.append(f"A {float(self.a_items[row, at]):.2f} B {float(self.b_items[row, at]):.2f} "
                         f"at {signed(self.coefs[int(at)])}")  # fmt: skip
        return "; ".join(notes)

    def table(self) -> Table:
        """What is shown of it."""
        low, high = self.effect.ends
        columns = [
            "layer",
            *(signed(coef) for coef in self.coefs),
            f"{signed(high)} less {signed(low)}",
            "±",
            "look at",
        ]
        rows: list[list[Cell]] = []
        for row, layer in enumerate(self.layers):
            cells: list[Cell] = [round(p, 3) for p in self.p_matching[row].tolist()]
            change = [round(float(self.effect.mean[row]), 3), round(float(self.effect.stderr[row]), 3)]
            rows.append([layer, *cells, *change, self._warnings(row)])
        base = self.unsteered
        title = f"p(matching) of {len(self.ids)} items; unsteered {base.p_matching:.3f} ± {base.stderr:.3f}"
        return Table(columns, rows, f"{title}; {self.path}: {self.reason}", note=str(self.best))

    def to_frame(self) -> DataFrame:
        """One row a cell."""
        from pandas import DataFrame

        return DataFrame(self._cells())

    def to_json(self) -> str:
        """The cells, the effect by layer, the best layer, and how it was computed."""
        whole = {
            "count": len(self.ids), "path": self.path, "reason": self.reason, "check_error": self.check_error,
            "unsteered": json.loads(self.unsteered.to_json()), "cells": self._cells(),
            "effect": self.effect.as_dict(), "best": self.best.as_dict(), "p_matching_by_item": self.items.tolist(),
        }  # fmt: skip
        return json.dumps(finite(whole), ensure_ascii=False)

    def _cells(self) -> list[dict[str, Any]]:
        names = ("p_matching", "stderr", "mass", "accuracy", "a_items", "b_items")
        grids = {name: getattr(self, name).tolist() for name in names}
        return [
            {"layer": layer, "coef": coef, **{name: grids[name][i][k] for name in names}}
            for i, layer in enumerate(self.layers)
            for k, coef in enumerate(self.coefs)
        ]

    def plot(self) -> Any:
        """The heat map, and beside it the effect by layer with its standard error."""
        from steerkit.evaluation.charts import plot_sweep

        return plot_sweep(self)
