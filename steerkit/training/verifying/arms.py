"""The same questions asked of the base, the hook, the adapter and the merged weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steerkit.data.pairs import ContrastPair
from steerkit.diagnostics.comparing import acting, base_of
from steerkit.evaluation.choices import Scorable, score_choices
from steerkit.evaluation.intervals import Difference
from steerkit.evaluation.scores import ChoiceScores
from steerkit.tables import Cell, Table, Tabular

BASE, HOOK, LORA, MERGED = "base", "hook", "LoRA", "merged"


@dataclass(frozen=True, repr=False, eq=False)
class Arms(Tabular):
    """p(matching) of several models on the same pairs.

    Args:
        scores: By name, the base first.
        label: What the pairs are called.
    """

    scores: Mapping[str, ChoiceScores]
    label: str = "pairs"

    def less(self, name: str, other: str) -> Difference:
        """How much more one takes the matching answer than another, item by item.

        Raises:
            KeyError: Nothing was scored under one of the names.
        """
        return self.scores[name].minus(self.scores[other])

    def share(self, name: str) -> float:
        """What a model's move is of the hook's; NaN where the hook is missing or does not move beyond chance."""
        if HOOK not in self.scores or name not in self.scores:
            return math.nan
        hook = self.less(HOOK, BASE)
        return self.less(name, BASE).mean / hook.mean if moves(hook) else math.nan

    def table(self) -> Table:
        """What is shown of it."""
        columns = ["model", "p(matching)", "±", "mass", "less base", "± ", "less hook", " ±"]
        rows: list[list[Cell]] = []
        for name, one in self.scores.items():
            cells: list[Cell] = [name, one.p_matching, one.stderr, one.mass]
            for other in (BASE, HOOK):
                if name == other or other not in self.scores:
                    cells += [None, None]
                else:
                    found = self.less(name, other)
                    cells += [found.mean, found.stderr]
            rows.append(cells)
        return Table(columns, rows, f"A/B on {len(self.scores[BASE])} {self.label}")

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            name: {"p_matching": one.p_matching, "stderr": one.stderr, "mass": one.mass,
                   "less_base": self.less(name, BASE).mean, "less_base_stderr": self.less(name, BASE).stderr}
            for name, one in self.scores.items()
        }  # fmt: skip


def moves(change: Difference) -> bool:
    """A move that is not chance: at least 1.96 standard errors, and more than a hundredth."""
    return abs(change.mean) > 0.01 and not abs(change.mean) < 1.96 * change.stderr


def score_arms(
    models: Mapping[str, Scorable], pairs: Sequence[ContrastPair], *, label: str = "pairs", batch_size: int = 16
) -> Arms:
    """Score every model on the same pairs.

    Args:
        models: By name, the base first.
        pairs: With one prompt and two answers each.
        label: What they are called.
        batch_size: Questions a forward pass.

    Raises:
        DataError: A pair cannot be scored; see `score_choices`.
    """
    scores = {}
    for name, one in models.items():
        with acting(one):  # once, and not for each batch
            scores[name] = score_choices(base_of(one), pairs, batch_size=batch_size)
    return Arms(scores, label)
