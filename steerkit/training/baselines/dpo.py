"""DPO: prefer the chosen answer to the rejected one, relative to the base."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from steerkit.adapters import Adapter, Lora
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.data.preferences import Preference
from steerkit.errors import InputError
from steerkit.training.baselines.rows import answer_rows
from steerkit.training.baselines.trainers import import_trl, run_trainer
from steerkit.training.fitting.fit import Fit


def train_dpo(
    model: HuggingFaceModel,
    preferences: Sequence[Preference],
    *,
    beta: float = 0.1,
    lora: Lora | None = None,
    fit: Fit | None = None,
    progress: bool = False,
) -> Adapter:
    r"""Direct preference optimization: $-\log \sigma(\beta [\log \frac{\pi(y^+|x)}{\pi_0(y^+|x)} - \log \frac{\pi(y^-|x)}{\pi_0(y^-|x)}])$.

    The reference $\pi_0$ is the base itself, with the adapter switched off: no second model. Dropout is off, as TRL
    has it for this loss.

    Args:
        model: The base; afterwards it is itself.
        preferences: Prompts with a chosen and a rejected answer.
        beta: How closely the policy is held to the base, above 0; less is looser.
        lora: The form of the adapter.
        fit: The settings of the training.
        progress: Show a progress bar.

    Raises:
        SteerkitError: TRL is not installed.
        InputError: `beta` is not above 0.
        DataError: An answer is empty or too long.

    Source: Rafailov et al. 2023, equation 7; TRL's `DPOTrainer`.
    """  # noqa: E501 - an equation cannot be broken
    if isinstance(beta, bool) or not isinstance(beta, int | float) or not 0 < beta < math.inf:
        raise InputError(f"beta={beta!r} is not valid; give a number above 0, such as 0.1")
    trl = import_trl()
    prompts = [one.prompt for one in preferences]
    chosen = answer_rows(model, prompts, [one.chosen for one in preferences])
    rejected = answer_rows(model, prompts, [one.rejected for one in preferences])
    columns = {
        "prompt_ids": [before for before, _ in chosen],
        "chosen_ids": [after for _, after in chosen],
        "rejected_ids": [after for _, after in rejected],
    }
    lora, fit = lora or Lora(), fit or Fit()

    class Trainer(trl.DPOTrainer):  # type: ignore[name-defined, misc]
        """Takes tokens as they are."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    def build(hf: Any, tokenizer: Any, arguments: dict[str, Any]) -> Any:
        from datasets import Dataset

        return Trainer(
            model=hf,
            args=trl.DPOConfig(**arguments, beta=beta, max_length=None),
            train_dataset=Dataset.from_dict(columns),
            processing_class=tokenizer,
            peft_config=lora.config(model),
        )

    trained = run_trainer(model, build, fit=fit, progress=progress)
    return trained.adapter(model, "dpo", fit, beta=beta)
