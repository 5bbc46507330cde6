"""Into the weights: the demo's vector distilled, and its preferences by RAHF, with what both do to every behavior."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from steerkit.data.loading import load_pairs, load_questions
from steerkit.demo import BEHAVIORS
from steerkit.demo.arms import Arm
from steerkit.tables import Cell, Table, Tabular
from steerkit.training.distilling.distillation import distill, edit_fit
from steerkit.training.distilling.distilled import Distilled
from steerkit.training.verifying.verification import Verification
from steerkit.vectors import SteeringVector

BEHAVIOR = "sycophancy"
SIDES = 64
QUESTIONS = 64
STEPS = 100
ASKED = 48
"""Held-out pairs that the weights are verified on, at every scale; the table of what they do has all."""
BASE, HOOK, LORA = "base", "hook", "distilled vector"


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


def distil(model: Any, vector: SteeringVector, *, layer: int, coef: float) -> tuple[Distilled, Verification]:
    """Distil the vector with `-coef` into LoRA weights, and verify them on held-out topics.

    Args:
        model: The embedded model.
        vector: That of sycophancy.
        layer: Where it is added.
        coef: Its strength.
    """
    pairs = load_pairs(f"demo:{BEHAVIOR}", split="train")[:SIDES]
    questions = load_questions(f"demo:{BEHAVIOR}", split="train")[:QUESTIONS]
    fit = replace(edit_fit(model.info.hidden_size), steps=STEPS)
    tuned = distill(model, vector, prompts=[*pairs, *questions], layer=layer, coef=-coef, fit=fit, progress=False)
    held_out = load_pairs(f"demo:{BEHAVIOR}", split="test")[:ASKED]
    return tuned, tuned.verify(prompts=load_questions(f"demo:{BEHAVIOR}", split="test")[:16], pairs=held_out)
