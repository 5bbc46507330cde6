"""Preferred-SFT: imitate the preferred answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from steerkit.adapters import Adapter, Lora
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.data.preferences import Preference
from steerkit.training.baselines.rows import Row, answer_rows
from steerkit.training.baselines.trainers import Trained, import_trl, run_trainer
from steerkit.training.fitting.fit import Fit


def train_preferred_sft(
    model: HuggingFaceModel,
    preferences: Sequence[Preference],
    *,
    lora: Lora | None = None,
    fit: Fit | None = None,
    progress: bool = False,
) -> Adapter:
    r"""Fine-tune on the chosen answers alone: $-\frac{1}{T} \sum_t \log \pi(y^+_t \mid x, y^+_{<t})$.

    The mean is over the answers' tokens (with the end of the answer) of the whole batch; the prompt is not learned.

    Args:
        model: The base; afterwards it is itself.
        preferences: Prompts with a chosen answer; the rejected ones are not looked at.
        lora: The form of the adapter.
        fit: The settings of the training.
        progress: Show a progress bar.

    Raises:
        SteerkitError: TRL is not installed.
        DataError: An answer is empty or too long.

    Source: the baseline "Preferred-SFT" of Liu et al. 2024 (RAHF), section 4; TRL's `SFTTrainer`.
    """
    prompts, answers = [one.prompt for one in preferences], [one.chosen for one in preferences]
    rows = answer_rows(model, prompts, answers)
    fit = fit or Fit()
    trained = imitate(model, rows, lora=lora or Lora(), fit=fit, progress=progress)
    return trained.adapter(model, "preferred-sft", fit)


def imitate(model: HuggingFaceModel, rows: Sequence[Row], *, lora: Lora, fit: Fit, progress: bool) -> Trained:
    """Fine-tune on the answers of some rows by TRL's `SFTTrainer`."""
    trl = import_trl()
    columns = {
        "input_ids": [[*before, *after] for before, after in rows],
        "labels": [[-100] * len(before) + after for before, after in rows],
    }

    def build(hf: Any, tokenizer: Any, arguments: dict[str, Any]) -> Any:
        from datasets import Dataset

        return trl.SFTTrainer(
            model=hf,
            args=trl.SFTConfig(**arguments, max_length=None, dataset_kwargs={"skip_prepare_dataset": True}),
            train_dataset=Dataset.from_dict(columns),
            processing_class=tokenizer,
            peft_config=lora.config(model),
        )

    return run_trainer(model, build, fit=fit, progress=progress)
