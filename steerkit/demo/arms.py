"""One way to change the embedded model, and what it does to every behavior on held-out topics."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from steerkit.adapters import Adapter
from steerkit.data.loading import load_pairs
from steerkit.demo import BEHAVIORS
from steerkit.demo.answers import OpenScore, score_open
from steerkit.evaluation import ChoiceScores, score_choices
from steerkit.evaluation.intervals import Difference
from steerkit.evaluation.scores import ScoredItems
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

    def to_json(self) -> str:
        """One line, with every item and answer, for another process."""
        choices = {name: {one.name: _plain(getattr(scores.items, one.name)) for one in fields(scores.items)}
                   for name, scores in self.choices.items()}  # fmt: skip
        return json.dumps({"name": self.name, "choices": choices,
                           "answers": {name: asdict(one) for name, one in self.answers.items()}})  # fmt: skip

    @classmethod
    def from_json(cls, line: str) -> Arm:
        """What `to_json` gave, number by number the same."""
        told = json.loads(line)
        choices = {name: ChoiceScores(ScoredItems(**{key: _packed(value) for key, value in items.items()}))
                   for name, items in told["choices"].items()}  # fmt: skip
        answers = {name: OpenScore(**{key: _packed(value) for key, value in one.items()})
                   for name, one in told["answers"].items()}  # fmt: skip
        return cls(told["name"], choices, answers)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else list(value)


def _packed(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    return torch.tensor(value, dtype=torch.float64) if value and isinstance(value[0], float) else tuple(value)


def measure(model: Any, name: str, adapter: Adapter) -> Arm:
    """With the adapter merged, which answers as the adapter does, and faster."""
    merged, _ = merged_weights(model, adapter)
    with merged.on(model):
        choices = {one: score_choices(model, load_pairs(f"demo:{one}", split="test")) for one in BEHAVIORS}
        answers = {one: score_open(model, one) for one in BEHAVIORS}
    return Arm(name, choices, answers)
