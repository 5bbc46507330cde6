"""Preferences into the weights: teach, read the differences, distil them; one call and one report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerkit.adapters import Adapted, Adapter, FullWeights, Lora
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.data.preference_sets import Preferences
from steerkit.errors import InputError
from steerkit.training.differences.aligned import Responses, Span
from steerkit.training.differences.collecting import collect_differences
from steerkit.training.differences.contrasts import Contrast, Reading, Start, check_start, find_contrast
from steerkit.training.differences.difference_teacher import DifferenceTeacher, check_alpha
from steerkit.training.differences.layers import TargetLayers
from steerkit.training.differences.online_differences import OnlineDifferences, Pool, check_pool, online_differences
from steerkit.training.differences.stored_differences import Differences
from steerkit.training.distilling.distillation import distill
from steerkit.training.distilling.losses import Objective
from steerkit.training.fitting.fit import Fit
from steerkit.training.preferring import Preferring, measure_preferring
from steerkit.training.rahf_report import Rahf
from steerkit.training.teaching.course import LORA as TEACHING_LORA
from steerkit.training.teaching.course import teach
from steerkit.training.teaching.instructions import Instructions
from steerkit.training.teaching.taught import Mode, Taught, check_mode

ALPHA: Mapping[str, float] = {"none": 5.0, "scit": 5.0, "dual": 1.0}
"""As in RAHF and LORRA; less for DUAL, whose student begins as the good model and would be driven beyond it."""
KEPT_BYTES = 2**30
"""Differences up to this size are kept in memory where each is needed more than once."""


def rahf(  # noqa: PLR0913 - each is a plain choice of the user
    model: HuggingFaceModel,
    preferences: Preferences,
    *,
    mode: Mode = "scit",
    alpha: float | None = None,
    layers: TargetLayers | None = None,
    instructions: Instructions | None = None,
    taught: Taught | None = None,
    start: Start = "taught",
    responses: Responses | None = None,
    positions: Span = "response",
    max_tokens: int | None = None,
    pool: Pool = "token",
    objective: Objective | None = None,
    lora: Lora | None = None,
    fit: Fit | None = None,
    teach_lora: Lora = TEACHING_LORA,
    teach_fit: Fit | None = None,
    seed: int = 0,
    path: str | Path | None = None,
    progress: bool = True,
) -> Rahf:
    r"""Align a model with preferences by its own states, and leave the result in its weights.

    The preferences are drawn into three parts without a prompt in common: on the first the model is taught to tell its
    better from its worse self (`teach`), on the second the difference of the two is read and distilled
    (`collect_differences`, `distill`), on the third both are measured. All modes use the same parts, so that they can
    be held against each other.

    Args:
        model: The base; it stays what it is.
        preferences: As `load_preferences` gives them.
        mode: `"scit"`, `"dual"`, or `"none"`, which teaches nothing and is LORRA.
        alpha: How far to go along the differences; left out, 5 as in the papers, and 1 for DUAL.
        layers: Blocks counted from 0, or RAHF's notation `"10,20,2"`; left out, up to five between 30 and 60 percent of
            the depth.
        instructions: The pair for `"scit"` and `"none"`; our own without it.
        taught: What `teach` gave before; the first part is then not used.
        start: The student begins as the taught model (as in RAHF), or as the plain one: `"base"`.
        responses: Which answers are read; left out, both for DUAL, else one of each preference by a coin.
        positions: Which tokens have a target: an answer's own (as in RAHF), or with `"generation"` the last token of
            the prompt as well, as in `Steer.add`. What an answer begins with is decided there.
        max_tokens: The most tokens of an answer that have a target; left out, 64 for DUAL, else all.
        pool: Each token's own difference, or the mean of its answer or of all.
        objective: What counts in the distillation.
        lora: The form of the distilled adapter.
        fit: The settings of the distillation.
        teach_lora: The form of what is taught.
        teach_fit: The settings of the teaching; see `teach`.
        seed: Of the parts and of the coin.
        path: A folder. All of it is kept there; the same call goes on where an earlier one stopped.
        progress: Show bars, where somebody is there to see them.

    Raises:
        InputError: An option is not valid; nothing was computed.
        DataError: There are too few preferences, one cannot be read, or the differences are nothing.
        MismatchError: The folder holds something else, or `taught` was made on another model.

    Source: Liu et al. 2024 (RAHF); Zou et al. 2023 (LORRA). We differ from RAHF's code in what `teach`,
    `collect_differences` and `distill` say of themselves.
    """
    check_mode(mode)
    if taught is not None and taught.mode != mode:
        raise InputError(f"what was taught has mode {taught.mode!r}, not {mode!r}; give mode={taught.mode!r}")
    chosen = ALPHA[mode] if alpha is None else alpha
    check_alpha(chosen)
    check_pool(pool)
    check_start(start)
    first, second, third = preferences.split(seed=seed)
    options: dict[str, Any] = {"layers": layers, "responses": responses, "positions": positions,
                               "max_tokens": max_tokens, "seed": seed}  # fmt: skip
    rehearsed = online_differences(model, second, _rehearsed(mode, instructions), **options)
    folder = None if path is None else Path(path)
    if taught is None:
        taught = teach(model, first, mode=mode, instructions=instructions, held_out=third, lora=teach_lora,
                       fit=teach_fit, path=None if folder is None else folder / "teaching",
                       progress=progress)  # fmt: skip
    kept = _Kept(model, second, taught, start, pool, options, fit or Fit())
    source = kept.find(None if folder is None else folder / "differences", like=rehearsed, progress=progress)
    distilled = distill(model, DifferenceTeacher(model, source, alpha=chosen), objective=objective, lora=lora, fit=fit,
                        path=None if folder is None else folder / "adapter", progress=progress)  # fmt: skip
    under = {name: taught.weights[name] for name in source.start}
    found = Rahf(taught, source if isinstance(source, Differences) else None, distilled, chosen,
                 _measure(model, third, under, distilled))  # fmt: skip
    if folder is not None:
        found.save(folder)
    return found


def _rehearsed(mode: Mode, instructions: Instructions | None) -> Contrast:
    """The prompts of a mode without its weights: what is read with them can be checked before anything is taught."""
    if mode == "dual":
        return Contrast(mode, Reading(), Reading())
    return find_contrast(instructions=instructions)


@dataclass(frozen=True)
class _Kept:
    """Differences, kept or computed anew, whichever is less work."""

    model: HuggingFaceModel
    preferences: Preferences
    taught: Taught
    start: Start
    pool: Pool
    options: Mapping[str, Any]
    fit: Fit

    def find(self, path: Path | None, *, like: OnlineDifferences, progress: bool) -> Differences | OnlineDifferences:
        """The differences; `like` are as many of the same size."""
        if path is None and self.pool != "global" and not self._pays(like):
            contrast = find_contrast(self.taught, start=self.start)
            return online_differences(self.model, self.preferences, contrast, pool=self.pool, **self.options)
        return collect_differences(self.model, self.preferences, taught=self.taught, start=self.start, pool=self.pool,
                                   path=path, progress=progress, **self.options)  # fmt: skip

    def _pays(self, online: OnlineDifferences) -> bool:
        size = 2 * 4 * online.samples.inside() * len(online.layers) * self.model.info.width(online.site)
        return size <= KEPT_BYTES and self.fit.steps * self.fit.batch > len(online.samples)


def _measure(
    model: HuggingFaceModel, held_out: Preferences, under: Mapping[str, Adapter | FullWeights], distilled: Any
) -> Preferring:
    begun: dict[str, Adapted] = {name: weights.on(model) for name, weights in under.items()}
    return measure_preferring(model, held_out, {**begun, "distilled": distilled})
