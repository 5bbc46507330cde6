"""What steering does: choices, sweeps over layers and coefficients, answers side by side."""

from __future__ import annotations

from steerkit.evaluation.choices import score_choices
from steerkit.evaluation.controls import RandomControl, random_control
from steerkit.evaluation.generations import Generations, compare
from steerkit.evaluation.grids import Sweep
from steerkit.evaluation.scores import ChoiceScores
from steerkit.evaluation.sweeps import sweep

__all__ = [
    "ChoiceScores",
    "Generations",
    "RandomControl",
    "Sweep",
    "compare",
    "random_control",
    "score_choices",
    "sweep",
]
