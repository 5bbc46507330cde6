"""Measuring margins: how much likelier an answer is under the good instruction than under the bad one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.adapters import attach
from steerkit.adapters.provenance import check_base
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.errors import InputError
from steerkit.recording.batches import check_count
from steerkit.training.teaching.answers import Answered
from steerkit.training.teaching.discrimination import Discrimination, Margins
from steerkit.training.teaching.instructions import Instructions
from steerkit.training.teaching.lessons import Lesson, read_lessons
from steerkit.training.teaching.scoring import score_rows
from steerkit.training.teaching.taught import Taught

Score = Callable[[Sequence[Answered]], Float[Tensor, " row"]]


def discriminate(
    model: HuggingFaceModel,
    preferences: Sequence[Any],
    *,
    taught: Taught | None = None,
    instructions: Instructions | None = None,
    batch_size: int = 16,
    tolerance: float = 0.1,
) -> Discrimination:
    r"""How well a model tells chosen from rejected answers by the instruction it reads them under.

    For each answer $\Delta = P(r \mid p^+) - P(r \mid p^-)$, where $P$ is the mean log-probability of its tokens:
    above 0 is right for a chosen answer, below 0 for a rejected one. For dual weights $\Delta$ is between the two
    models, without an instruction. The plain model is measured beside what was taught.

    Args:
        model: The base.
        preferences: Preferences that nothing was taught on; on its own the result flatters.
        taught: What `teach` gave; without it the plain model alone is measured.
        instructions: The pair of instructions; without it that of `taught`, or the default one.
        batch_size: Rows a forward pass, at least 1.
        tolerance: Answers whose lengths differ by at most this share of the longer one also count as matched.

    Raises:
        DataError: A preference cannot be scored; see `read_lessons`.
        InputError: A number is out of range, or instructions are given with dual weights.
        MismatchError: It was taught on another model.

    Source: the conditional form of a reward-model accuracy, for SCIT and DUAL of Liu et al. 2024 (RAHF); the intervals
    and the length-matched part are ours.
    """
    check_count("batch_size", batch_size)
    if not 0 <= tolerance < 1:
        raise InputError(f"tolerance={tolerance!r} is not valid; give a share from 0 to below 1")
    dual = taught is not None and taught.mode == "dual"
    if dual and instructions is not None:
        raise InputError("dual weights are two models without an instruction; leave instructions out")
    told = None if dual else instructions or (taught and taught.instructions) or Instructions()
    lessons = read_lessons(preferences, told, model)
    return measure(model, lessons, taught, batch_size=batch_size, tolerance=tolerance)


def measure(
    model: HuggingFaceModel,
    lessons: Sequence[Lesson],
    taught: Taught | None = None,
    *,
    batch_size: int = 16,
    tolerance: float = 0.1,
) -> Discrimination:
    """The same for preferences in tokens.

    Raises:
        MismatchError: It was taught on another model.
    """
    weights = {} if taught is None else taught.weights
    for one in weights.values():
        check_base(one.meta, model, override=False)
    arms = {}
    with attach(model, weights) as attached:

        def under(*names: str) -> Score:
            def score(rows: Sequence[Answered]) -> Float[Tensor, " row"]:
                with attached.only(*names):
                    return score_rows(model.forward, rows, batch_size=batch_size, pad_id=model.pad_id)

            return score

        if "good" not in weights:
            arms["base"] = _margins(lessons, under(), under())
        if weights:
            good, bad = ("good", "bad") if "good" in weights else ("taught", "taught")
            arms["taught"] = _margins(lessons, under(good), under(bad))
    smoothing = 0.0 if taught is None else float(taught.settings.get("smoothing", 0.0))
    goal = math.log((1 - smoothing) / smoothing) if smoothing else None
    lengths = torch.tensor([one.lengths for one in lessons], dtype=torch.long)
    return Discrimination(arms, tuple(one.id for one in lessons), lengths, tolerance, goal)


def _margins(lessons: Sequence[Lesson], good: Score, bad: Score) -> Margins:
    positive = good([one.chosen_good for one in lessons] + [one.rejected_good for one in lessons])
    negative = bad([one.chosen_bad for one in lessons] + [one.rejected_bad for one in lessons])
    chosen, rejected = (positive - negative).chunk(2)
    return Margins(chosen, rejected)
