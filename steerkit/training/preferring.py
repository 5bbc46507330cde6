"""How much a model prefers the chosen answers to the rejected ones, when it is told nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.diagnostics.figures import to_json
from steerkit.evaluation.intervals import Difference, paired_difference, standard_error
from steerkit.evaluation.proportions import Rate
from steerkit.tables import Cell, Table, Tabular
from steerkit.training.teaching.lessons import read_lessons
from steerkit.training.teaching.scoring import score_rows

BASE = "base"


@dataclass(frozen=True, eq=False, repr=False)
class Preferring(Tabular):
    r"""Margins $P(r^+ \mid q) - P(r^- \mid q)$ of held-out preferences, in nats per token, for several models.

    $P$ is the mean log-probability of an answer's tokens; no instruction stands before the question.

    Args:
        margins: By name; `"base"` is the plain model.
        ids: The preferences.
    """

    margins: Mapping[str, Float[Tensor, " item"]]
    ids: tuple[str, ...]

    def accuracy(self, name: str) -> Rate:
        """Share of preferences whose chosen answer is the likelier one, with its interval."""
        return Rate.of((self.margins[name] > 0).double())

    def gain(self, name: str) -> Difference:
        """How much further the margins are than those of the base, pair by pair."""
        return paired_difference(self.margins[name], self.margins[BASE])

    def table(self) -> Table:
        """What is shown of it."""
        rows: list[list[Cell]] = []
        for name, values in self.margins.items():
            rate, gain = self.accuracy(name), None if name == BASE else self.gain(name)
            ends = (None, None) if gain is None else gain.interval
            rows.append([name, rate.share, rate.low, rate.high, float(values.mean()), float(standard_error(values)),
                         None if gain is None else gain.mean, *ends])  # fmt: skip
        columns = ["model", "chosen likelier", "95 % from", "to", "margin", "±", "over base", "95 % from", "to"]
        return Table(columns, rows, f"Which answer is likelier: {len(self.ids)} held-out preferences")

    def to_json(self) -> str:
        """The margins."""
        return to_json({"ids": list(self.ids), "margins": {name: one.tolist() for name, one in self.margins.items()}})


def measure_preferring(
    model: HuggingFaceModel,
    preferences: Sequence[Any],
    others: Mapping[str, AbstractContextManager[Any]],
    *,
    batch_size: int = 16,
) -> Preferring:
    """The margins of the model, and of the same model within each of some contexts.

    Args:
        model: The base.
        preferences: Held out.
        others: What acts on the model while it is entered, by name.
        batch_size: Rows a forward pass.

    Raises:
        DataError: A preference cannot be scored; see `read_lessons`.
    """
    lessons = read_lessons(preferences, None, model)
    rows = [one.chosen_good for one in lessons] + [one.rejected_good for one in lessons]
    margins = {}
    arms: dict[str, AbstractContextManager[Any]] = {BASE: nullcontext(), **others}
    for name, acting in arms.items():
        with acting:
            chosen, rejected = torch.chunk(
                score_rows(model.forward, rows, batch_size=batch_size, pad_id=model.pad_id), 2
            )
        margins[name] = chosen - rejected
    return Preferring(margins, tuple(one.id for one in lessons))
