"""Teaching a model the difference between its better and its worse self, from preferences."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from steerkit.adapters import Lora
from steerkit.adapters.provenance import check_base
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.data.pairs import prompt_text
from steerkit.data.preference_items import Preference
from steerkit.data.preference_sets import Preferences
from steerkit.errors import DataError, InputError
from steerkit.training.fitting.fit import Fit
from steerkit.training.teaching.dual import answer_step
from steerkit.training.teaching.instructions import Instructions
from steerkit.training.teaching.learning import Learner, check_trainable
from steerkit.training.teaching.lessons import Lesson, read_lessons
from steerkit.training.teaching.margins import measure
from steerkit.training.teaching.scit import scit_step
from steerkit.training.teaching.taught import Mode, Taught, check_mode

LORA = Lora(r=16, targets="all-linear", dropout=0.0)
"""Without dropout: it would draw other units for the two instructions that are held against each other."""
EPOCHS = 2
LR = {"lora": 1e-4, "full": 2e-5}
"""The default learning rates for a model of `WIDTH`; they go with the inverse of the width."""
WIDTH = 4096


def teach(  # noqa: PLR0913 - each is a plain choice of the user
    model: HuggingFaceModel,
    preferences: Sequence[Any],
    *,
    mode: Mode = "none",
    instructions: Instructions | None = None,
    held_out: float | Sequence[Any] | None = 0.1,
    contrastive_weight: float = 1.0,
    smoothing: float = 0.0,
    lora: Lora = LORA,
    full: bool = False,
    fit: Fit | None = None,
    path: str | Path | None = None,
    progress: bool = True,
) -> Taught:
    r"""Teach a model to give good and bad answers at will, so that the difference of the two can be distilled.

    - `"none"` trains nothing: two instructions alone make the difference (LORRA).
    - `"scit"` trains one set of weights to give the chosen answer under the good instruction and the rejected one
      under the bad, and to find each unlikely under the other: $-[P_+ + w \log \sigma(P_+ - P_-)]$, where $P_\pm$ is
      the mean log-probability of the answer's tokens; see `conditional_loss`.
    - `"dual"` trains two, one on the chosen and one on the rejected answers, without an instruction; from the same
      seed, in the same order.

    Only tokens of the answers (and the one that ends them) have a loss. Everything is checked before anything is
    computed, and the base stays what it is. What was held out tells how well it worked.

    Args:
        model: The base.
        preferences: With `prompt`, `chosen`, `rejected` and `id`, as `load_preferences` gives them.
        mode: What is trained.
        instructions: The pair for `"none"` and `"scit"`; our own without it. Dual takes none.
        held_out: A share of the prompts that nothing is taught on (drawn by the seed of `fit`; those with one prompt
            stay together), preferences to measure on, or `None` to measure nothing. With `"none"` a share is of no use:
            all are measured.
        contrastive_weight: $w$ of SCIT, at least 0; 0 is plain conditional fine-tuning.
        smoothing: Label smoothing of SCIT's second term, from 0 to below 1/2; see `conditional_loss`.
        lora: The form of the adapters.
        full: Train all of the model's own parameters in place of an adapter, on a copy.
        fit: How long and how fast; its `batch` counts preferences. Without it two epochs of 16 a step, at a learning
            rate that rises in the first tenth and falls to 0, from 1e-4 (2e-5 for `full`) for a hidden size of 4096;
            for others it goes with its inverse.
        path: A folder for checkpoints; the same call goes on where an earlier one stopped.
        progress: Show a bar, where somebody is there to see it.

    Raises:
        InputError: An option is not valid, or does not go with the mode.
        DataError: There are too few preferences, one cannot be read (see `read_lessons`), or the good and the bad
            weights came out the same.
        MismatchError: The folder holds another training.

    Source: Liu et al. 2024 (RAHF), sections 3.1 and 3.2; LORRA is Zou et al. 2023. We differ from RAHF's code: LoRA by
    default, the formula of the paper (see `conditional_loss`), no loss on prompts, and dual's two models are checked to
    differ (its launch script trains both on the chosen answers).
    """
    check_base({}, model, override=True)
    plan = _Plan(mode, instructions, contrastive_weight, smoothing, None if full else lora).checked(model)
    learned, measured = _parts(_set(preferences), held_out, plan, model, seed=0 if fit is None else fit.seed)
    fit = fit or default_fit(len(learned), model.info.hidden_size, full=full)
    settings = plan.describe(model, learned)
    learner = Learner(model, plan.lora, fit, None if path is None else Path(path), settings, progress)
    taught = _learn(learner, plan, learned)
    return replace(taught, discrimination=measure(model, measured, taught) if measured else None)


@dataclass(frozen=True)
class _Plan:
    """What is taught, apart from the data."""

    mode: Mode
    instructions: Instructions | None
    contrastive_weight: float
    smoothing: float
    lora: Lora | None

    def checked(self, model: HuggingFaceModel) -> _Plan:
        """The same with the instructions filled in.

        Raises:
            InputError: An option is out of range, or does not go with the mode.
        """
        check_mode(self.mode)
        _check_number("contrastive_weight", self.contrastive_weight, below=math.inf)
        _check_number("smoothing", self.smoothing, below=0.5)
        if self.mode != "scit" and (self.contrastive_weight, self.smoothing) != (1, 0):
            raise InputError(
                f"contrastive_weight and smoothing belong to mode 'scit'; leave them out for {self.mode!r}"
            )
        if self.mode == "dual" and self.instructions is not None:
            raise InputError("mode 'dual' teaches two models by their answers alone; leave instructions out, or choose "
                             "mode='scit'")  # fmt: skip
        if self.lora is None and self.mode == "none":
            raise InputError("mode 'none' trains nothing, so there is nothing to train in full; leave full out")
        if self.lora is None:
            check_trainable(model)
        elif self.mode != "none":
            self.lora.config(model)
        return self if self.mode == "dual" else replace(self, instructions=self.instructions or Instructions())

    def describe(self, model: HuggingFaceModel, lessons: Sequence[Lesson]) -> dict[str, Any]:
        """All that decides the weights but the fit, as plain values."""
        told = self.instructions
        about: dict[str, Any] = {
            "mode": self.mode,
            "model": model.info.fingerprint,
            "preferences": len(lessons),
            "data": _fingerprint(lessons),
            "form": "full" if self.lora is None else asdict(self.lora),
        }
        if told is not None:
            about |= {"instructions": [told.good, told.bad], "tokens": list(told.tokens(model.tokenizer))}
        if self.mode == "scit":
            about |= {"contrastive_weight": float(self.contrastive_weight), "smoothing": float(self.smoothing)}
        return about


def _check_number(name: str, value: object, *, below: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < below:
        raise InputError(f"{name}={value!r} is not valid; give a number from 0 to below {below:g}")


def _set(preferences: Sequence[Any]) -> Preferences:
    other = next((one for one in preferences if not isinstance(one, Preference)), None)
    if other is not None:
        raise InputError(f"{other!r:.60} is not a preference; give what load_preferences returns, or a list of "
                         "Preference(prompt, chosen, rejected)")  # fmt: skip
    return preferences if isinstance(preferences, Preferences) else Preferences(preferences)


def _parts(
    preferences: Preferences, held_out: float | Sequence[Any] | None, plan: _Plan, model: HuggingFaceModel, *, seed: int
) -> tuple[list[Lesson], list[Lesson]]:
    """What is taught and what is measured, all of it read and checked.

    Raises:
        DataError: See `teach`.
    """
    measured: Preferences | None = None
    if isinstance(held_out, int | float):
        _check_number("held_out", held_out, below=1)
        measured = preferences if plan.mode == "none" else None
        if plan.mode != "none" and held_out:
            parts = preferences.parts({"teach": 1 - held_out, "measure": held_out}, seed=seed)
            preferences, measured = parts["teach"], parts["measure"]
    elif held_out is not None:
        measured = _set(held_out)
    if plan.mode == "none":
        return [], [] if measured is None else read_lessons(measured, plan.instructions, model)
    if len(preferences) < 2:
        raise DataError(f"{len(preferences)} preference to teach; give at least 2, or more for anything to be learned")
    _check_apart(preferences, measured)
    learned = read_lessons(preferences, plan.instructions, model)
    return learned, [] if measured is None else read_lessons(measured, plan.instructions, model)


def _check_apart(preferences: Preferences, measured: Preferences | None) -> None:
    seen = {_key(one) for one in preferences}
    same = [one.id for one in measured or () if _key(one) in seen]
    if same:
        raise DataError(f"{len(same)} held-out preferences have a prompt that is taught as well, such as {same[0]!r}; "
                        "what is measured must not have been seen. Give others, or a share")  # fmt: skip


def _key(preference: Any) -> tuple[str, str]:
    return prompt_text(preference.prompt), preference.prompt.prefill


def default_fit(count: int, hidden_size: int, *, full: bool = False) -> Fit:
    """The settings of a teaching that names none: two epochs, with a learning rate that suits the model's width.

    Source: that a stable learning rate of Adam falls with the inverse of the width is shown by Yang et al. 2022 (all
    parameters) and Hayou et al. 2024 (one rate for both matrices of LoRA).

    Example:
        >>> default_fit(480, 4096).lr, default_fit(480, 4096).steps, default_fit(480, 128).lr
        (0.0001, 60, 0.0032)
    """
    lr = LR["full" if full else "lora"] * WIDTH / hidden_size
    return Fit(steps=max(math.ceil(EPOCHS * count / Fit.batch), 1), lr=lr, schedule="linear", warmup=0.1)


def _fingerprint(lessons: Sequence[Lesson]) -> str:
    digest = hashlib.sha256()
    for lesson in lessons:
        digest.update(json.dumps([[row.ids, row.start] for row in lesson.rows]).encode() + b"\n")
    return digest.hexdigest()[:16]


def _learn(learner: Learner, plan: _Plan, lessons: Sequence[Lesson]) -> Taught:
    """Train what the mode trains."""
    run, pad_id, count = learner.model.run, learner.model.pad_id, len(lessons)
    steps = {}
    if plan.mode == "scit":
        weight, smoothing = plan.contrastive_weight, plan.smoothing
        steps["taught"] = scit_step(run, lessons, contrastive_weight=weight, smoothing=smoothing, pad_id=pad_id)
    if plan.mode == "dual":
        steps["good"] = answer_step(run, [one.chosen_good for one in lessons], pad_id=pad_id)
        steps["bad"] = answer_step(run, [one.rejected_bad for one in lessons], pad_id=pad_id)
    made = {name: learner.learn(name, count, step) for name, step in steps.items()}
    weights = {name: both[0] for name, both in made.items()}
    curves = {name: both[1] for name, both in made.items()}
    settings = {**learner.identity, "fit": learner.fit.as_dict()}
    return Taught(plan.mode, plan.instructions, weights, None, curves, settings)
