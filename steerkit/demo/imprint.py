"""Into the weights: the demo's vector distilled, and its preferences by RAHF, with what both do to every behavior."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from steerkit.adapters import Adapter
from steerkit.data.loading import load_pairs, load_questions
from steerkit.data.preferences import load_preferences
from steerkit.demo import BEHAVIORS
from steerkit.demo.answers import OpenScore, score_open
from steerkit.demo.preferences import BAD, GOOD
from steerkit.evaluation import ChoiceScores, score_choices
from steerkit.evaluation.intervals import Difference
from steerkit.tables import Cell, Table, Tabular
from steerkit.training.alignment import rahf
from steerkit.training.distilling.distillation import distill
from steerkit.training.distilling.distilled import Distilled
from steerkit.training.fitting.fit import Fit
from steerkit.training.rahf_report import Rahf
from steerkit.training.teaching.course import teach
from steerkit.training.teaching.instructions import Instructions
from steerkit.training.verifying.merging import merged_weights
from steerkit.training.verifying.verification import Verification
from steerkit.vectors import SteeringVector

BEHAVIOR = "sycophancy"
SIDES = 64
QUESTIONS = 64
TEACH = Fit(steps=60, lr=2e-3, batch=8, schedule="linear", warmup=0.1)
DISTIL = Fit(steps=100, lr=1e-3, batch=16)
SMOOTHING: Mapping[str, float] = {"none": 0.0, "scit": 0.2, "dual": 0.0}
"""As in RAHF's code: it ends the push for ever larger margins, which took the mood along."""
LAYERS: Mapping[str, Sequence[int] | None] = {"none": None, "scit": (3, 4), "dual": None}
"""Of SCIT, strength and layers were chosen on training topics: the least mood moved, for what own answers moved."""
ALPHA: Mapping[str, float] = {"none": 5.0, "scit": 3.5, "dual": 1.0}
MODES: Mapping[Literal["none", "scit", "dual"], str] = {"none": "LORRA", "scit": "RAHF-SCIT", "dual": "RAHF-Dual"}
BASE, HOOK, LORA = "base", "hook", "distilled vector"


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


@dataclass(frozen=True, repr=False)
class Imprint(Tabular):
    """What weights do that were trained from the vector, and from preferences.

    Args:
        tuned: The sycophancy vector, distilled with a negative coefficient.
        verified: Whether it does what the hook does.
        arms: Base first, then hook, distilled vector, LORRA and RAHF.
    """

    tuned: Distilled
    verified: Verification
    arms: tuple[Arm, ...]

    def arm(self, name: str) -> Arm:
        """One of the rows."""
        return next(one for one in self.arms if one.name == name)

    def rows(self) -> list[list[Cell]]:
        """A line a way: the move of each behavior, and the share of open answers that match."""
        base, lines = self.arms[0], []
        for arm in self.arms:
            line: list[Cell] = [arm.name]
            for behavior in BEHAVIORS:
                line.append(round(arm.choices[behavior].p_matching, 2))
                moved = None if arm is base else arm.moved(base, behavior)
                line.append("" if moved is None else f"{moved.mean:+.2f}\u00a0±\u00a0{1.96 * moved.stderr:.2f}")
                line.append(round(arm.answers[behavior].positive, 2))
            line.append(round(min(one.on_topic for one in arm.answers.values()), 2))
            lines.append(line)
        return lines

    def as_dict(self) -> dict[str, Any]:
        """The table and the verification, as plain values."""
        table = self.table()
        return {"columns": list(table.columns), "rows": self.rows(), "verified": json.loads(self.verified.to_json())}

    def table(self) -> Table:
        """What is shown of it."""
        what = (": choices", ", less base", ": answers")
        columns = ["weights", *(f"{name}{one}" for name in BEHAVIORS for one in what), "on topic"]
        title = "Held-out topics; share of choices and of sampled open answers that match each behavior"
        return Table(columns, self.rows(), title)


def imprint(
    model: Any, vector: SteeringVector, *, layer: int, coef: float, known: Sequence[Arm], say: Callable[[str], None]
) -> Imprint:
    """Distil the vector with `-coef`, align the model by preferences, and measure each on held-out topics.

    Args:
        model: The embedded model.
        vector: That of sycophancy.
        layer: Where it is added.
        coef: Its strength.
        known: The base and the hook with `-coef`, as they were measured before.
        say: Told what is being done.
    """
    say("distilling the sycophancy vector into LoRA weights")
    pairs = load_pairs(f"demo:{BEHAVIOR}", split="train")[:SIDES]
    questions = load_questions(f"demo:{BEHAVIOR}", split="train")[:QUESTIONS]
    tuned = distill(model, vector, prompts=[*pairs, *questions], layer=layer, coef=-coef, progress=False)
    held_out = load_pairs(f"demo:{BEHAVIOR}", split="test")
    verified = tuned.verify(prompts=load_questions(f"demo:{BEHAVIOR}", split="test")[:16], pairs=held_out)
    arms = [*known, _measure(model, LORA, tuned.adapter)]
    for mode, name in MODES.items():
        say(f"aligning by preferences: {name}")
        arms.append(_measure(model, name, _align(model, mode).adapter))
    return Imprint(tuned, verified, tuple(arms))


def _align(model: Any, mode: Literal["none", "scit", "dual"]) -> Rahf:
    preferences = load_preferences("demo", split="train")
    told = None if mode == "dual" else Instructions(GOOD, BAD)
    first, _, _ = preferences.split()
    taught = teach(model, first, mode=mode, instructions=told, smoothing=SMOOTHING[mode],
                   held_out=None, fit=TEACH, progress=False)  # fmt: skip
    return rahf(model, preferences, mode=mode, alpha=ALPHA[mode], layers=LAYERS[mode], taught=taught,
                fit=DISTIL, progress=False)  # fmt: skip


def _measure(model: Any, name: str, adapter: Adapter) -> Arm:
    """With the adapter merged, which answers as the adapter does, and faster."""
    merged, _ = merged_weights(model, adapter)
    with merged.on(model):
        choices = {one: score_choices(model, load_pairs(f"demo:{one}", split="test")) for one in BEHAVIORS}
        answers = {one: score_open(model, one) for one in BEHAVIORS}
    return Arm(name, choices, answers)
