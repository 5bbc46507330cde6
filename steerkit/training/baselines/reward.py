"""A reward model: one number for an answer, trained so that chosen answers get more than rejected ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from steerkit.adapters import Adapter, Lora
from steerkit.backends.base import pad
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.data.chat import PromptLike, as_prompt
from steerkit.data.preferences import Preference
from steerkit.errors import DataError
from steerkit.tables import Table, Tabular
from steerkit.training.baselines.reward_quality import RewardQuality, measure_rewards
from steerkit.training.baselines.rows import Row, scored_rows
from steerkit.training.baselines.trainers import import_trl, run_trainer
from steerkit.training.fitting.fit import Fit


@dataclass(frozen=True, repr=False, eq=False)
class RewardModel(Tabular):
    r"""One number for an answer: $r(x, y) = w \cdot h_T$, of the last token's state under a LoRA adapter of the base.

    It is a judge too: `model(prompt, a, b)` is the probability that the first answer is the better one,
    $\sigma(r(x, a) - r(x, b))$.

    Args:
        model: The base, which it shares.
        adapter: The trained adapter.
        head: The weights $w$.
        quality: What it is worth on preferences that it was not trained on.
        name: What win rates by it are called.
    """

    model: HuggingFaceModel
    adapter: Adapter
    head: Float[Tensor, " hidden"]
    quality: RewardQuality | None = None
    name: str = "reward model"

    def score(
        self, prompts: Sequence[PromptLike], answers: Sequence[str], *, batch_size: int = 32
    ) -> Float[Tensor, " item"]:
        """The reward of each answer, in no unit; only differences at one prompt mean something.

        An empty answer is scored by its end alone.

        Raises:
            DataError: Not one answer a prompt, or one is too long.
        """
        rows = scored_rows(self.model, [as_prompt(one) for one in prompts], answers)
        order = sorted(range(len(rows)), key=lambda i: sum(map(len, rows[i])))
        found = torch.zeros(len(rows))
        with self.adapter.on(self.model):
            for start in range(0, len(rows), batch_size):
                chosen = order[start : start + batch_size]
                found[chosen] = self._score([rows[i] for i in chosen])
        return found

    def __call__(self, prompts: Sequence[PromptLike], a: Sequence[str], b: Sequence[str]) -> Float[Tensor, " item"]:
        """How probable it is that each first answer is the better one, in [0, 1]."""
        return torch.sigmoid(self.score(prompts, a) - self.score(prompts, b))

    def _score(self, rows: Sequence[Row]) -> Tensor:
        batch = pad([[*a, *b] for a, b in rows], [len(a) for a, _ in rows], pad_id=self.model.pad_id)
        states: list[Tensor] = []

        def keep(_module: nn.Module, _arguments: Any, out: Any) -> None:
            states.append(out.last_hidden_state[:, -1])

        handle = self.model.parts.decoder.register_forward_hook(keep)
        try:
            self.model.forward(batch, columns=[batch.input_ids.shape[1] - 1])
        finally:
            handle.remove()
        return states[0].float().cpu() @ self.head

    def table(self) -> Table:
        """What is shown of it."""
        if self.quality is None:
            return Table(["reward model"], [[repr(self.adapter)]])
        return self.quality.table()


def train_reward_model(
    model: HuggingFaceModel,
    preferences: Sequence[Preference],
    *,
    held_out: Sequence[Preference] | None = None,
    center: float = 0.01,
    lora: Lora | None = None,
    fit: Fit | None = None,
    progress: bool = False,
    name: str = "reward model",
) -> RewardModel:
    r"""Train a reward model on preferences: $-\log \sigma(r(x, y^+) - r(x, y^-)) + c\,(r(x, y^+) + r(x, y^-))^2$.

    It shares the base: only a LoRA adapter and one row of weights are trained.

    Args:
        model: The base; afterwards it is itself.
        preferences: Prompts with a chosen and a rejected answer. A judge must not have seen what it judges: train it on
            a part that no compared method is trained on.
        held_out: Preferences to measure it on; without them it carries no quality.
        center: The factor $c$, which keeps rewards around 0.
        lora: The form of the adapter.
        fit: The settings of the training.
        progress: Show a progress bar.
        name: What win rates by it are called.

    Raises:
        SteerkitError: TRL is not installed.
        DataError: An answer is empty or too long, or a held-out preference is among the others.

    Source: Bradley and Terry 1952; Ouyang et al. 2022, equation 1; TRL's `RewardTrainer`, with the base's own decoder
    in the place of a second model.
    """
    trl = import_trl()
    held = list(held_out or ())
    _check_disjoint(preferences, held)
    prompts = [one.prompt for one in preferences]
    sides = {
        f"{side}_ids": [[*a, *b] for a, b in scored_rows(model, prompts, [getattr(p, side) for p in preferences])]
        for side in ("chosen", "rejected")
    }
    fit = fit or Fit(lr=1e-3, steps=200)
    config = (lora or Lora()).config(model)
    config.task_type = "SEQ_CLS"

    def build(hf: Any, tokenizer: Any, arguments: dict[str, Any]) -> Any:
        from datasets import Dataset

        return trl.RewardTrainer(
            model=_with_head(model, hf),
            args=trl.RewardConfig(**arguments, center_rewards_coefficient=center, max_length=None),
            train_dataset=Dataset.from_dict(sides),
            processing_class=tokenizer,
            peft_config=config,
        )

    trained = run_trainer(model, build, fit=fit, progress=progress)
    trained.config.task_type, trained.config.modules_to_save = "CAUSAL_LM", None
    adapter = trained.adapter(model, "reward-model", fit, center=center)
    found = RewardModel(model, adapter, _head(trained.others), name=name)
    if not held:
        return found
    return RewardModel(model, adapter, found.head, measure_rewards(found, held), name)


def _with_head(model: HuggingFaceModel, hf: Any) -> Any:
    """The base's decoder under a head with one output; the head alone has weights of its own."""
    from transformers import AutoModelForSequenceClassification

    config = deepcopy(hf.config)
    config.num_labels, config.pad_token_id = 1, model.pad_id
    with torch.device("meta"):
        hollow = AutoModelForSequenceClassification.from_config(config)
    setattr(hollow, hollow.base_model_prefix, model.parts.decoder)
    hollow.score = nn.Linear(model.info.hidden_size, 1, bias=False, device=model.device, dtype=torch.float32)
    nn.init.normal_(hollow.score.weight, std=model.info.hidden_size**-0.5)
    return hollow.eval()


def _head(others: Mapping[str, Tensor]) -> Tensor:
    (weight,) = (one for name, one in others.items() if name.endswith("score.weight"))
    return weight[0].float()


def _check_disjoint(preferences: Sequence[Preference], held: Sequence[Preference]) -> None:
    if not preferences:
        raise DataError("no preferences to train a reward model on; give at least one")
    seen = {(repr(one.prompt), one.chosen, one.rejected) for one in preferences}
    twice = [one.id for one in held if (repr(one.prompt), one.chosen, one.rejected) in seen]
    if twice:
        raise DataError(f"{len(twice)} held-out preferences are among those to train on, such as {twice[0]!r}; a "
                        "reward model is measured on preferences that it has not seen")  # fmt: skip
