"""One way to change the embedded model, and what it does to every behavior on held-out topics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from steerkit.adapters import Adapter
from steerkit.data.loading import load_pairs
from steerkit.demo import BEHAVIORS
from steerkit.demo.answers import OpenScore, score_open
from steerkit.evaluation import ChoiceScores, score_choices
from steerkit.evaluation.intervals import Difference
from steerkit.training.verifying.merging import merged_weights


@dataclass(frozen=True)
class Arm:
    """One way to change the model, and what it does to each behavior on held-out topics.

    Args:
        name: What it is called.
        choices: p(matching) by behavior.
        answers: Sampled open answers by behavior.
    """

    name: str
    choices: Mapping[str, ChoiceScores]
    answers: Mapping[str, OpenScore]

    def moved(self, base: Arm, behavior: str) -> Difference:
        """How far p(matching) moved from the base's, pair by pair."""
        return self.choices[behavior].minus(base.choices[behavior])


def measure(model: Any, name: str, adapter: Adapter) -> Arm:
    """With the adapter merged, which answers as the adapter does, and faster."""
    merged, _ = merged_weights(model, adapter)
    with merged.on(model):
        choices = {one: score_choices(model, load_pairs(f"demo:{one}", split="test")) for one in BEHAVIORS}
        answers = {one: score_open(model, one) for one in BEHAVIORS}
    return Arm(name, choices, answers)
