"""HIR: imitate chosen answers under a good instruction and rejected ones under a bad one."""

from __future__ import annotations

from collections.abc import Sequence

from steerkit.adapters import Adapter, Lora
from steerkit.adapters.provenance import check_base
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.data.preferences import Preference
from steerkit.training.baselines.preferred_sft import imitate
from steerkit.training.baselines.rows import answer_rows
from steerkit.training.fitting.fit import Fit
from steerkit.training.teaching.instructions import Instructions


def train_hir(
    model: HuggingFaceModel,
    preferences: Sequence[Preference],
    *,
    instructions: Instructions | None = None,
    lora: Lora | None = None,
    fit: Fit | None = None,
    progress: bool = False,
) -> Adapter:
    r"""Hindsight instruction relabeling: $-\log \pi(y^+ \mid p^+, x) - \log \pi(y^- \mid p^-, x)$.

    Every preference gives two answers to imitate. At inference the good instruction must stand before the prompt.

    Args:
        model: The base; afterwards it is itself.
        preferences: Prompts with a chosen and a rejected answer.
        instructions: The good and the bad one; without them steerkit's own.
        lora: The form of the adapter.
        fit: The settings of the training.
        progress: Show a progress bar.

    Raises:
        SteerkitError: TRL is not installed.
        DataError: An answer is empty or too long.

    Source: Zhang et al. 2023 (HIR), as the baseline of Liu et al. 2024 (RAHF); TRL's `SFTTrainer`. We differ: the
    instructions come from the preferences, not from scores of sampled answers, and there is neither a contrastive nor
    an entropy term.
    """
    check_base({}, model, override=True)
    pair = instructions or Instructions()
    prompts = [one.prompt for one in preferences]
    rows = [
        *answer_rows(model, pair.before(prompts, "good", tokenizer=model.tokenizer), [p.chosen for p in preferences]),
        *answer_rows(model, pair.before(prompts, "bad", tokenizer=model.tokenizer), [p.rejected for p in preferences]),
    ]
    fit = fit or Fit()
    trained = imitate(model, rows, lora=lora or Lora(), fit=fit, progress=progress)
    return trained.adapter(model, "hir", fit, instructions={"good": pair.good, "bad": pair.bad})
