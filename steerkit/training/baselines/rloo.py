"""RLOO: reinforcement learning on a trained reward model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from steerkit.adapters import Adapter, Lora
from steerkit.backends.base import Batch, pad
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.data.chat import PromptLike, as_prompt
from steerkit.errors import InputError, MismatchError
from steerkit.training.baselines.reward import RewardModel
from steerkit.training.baselines.rows import prompt_rows
from steerkit.training.baselines.trainers import import_trl, run_trainer
from steerkit.training.fitting.fit import Fit

JUDGE = "reward"


def train_rloo(
    model: HuggingFaceModel,
    prompts: Sequence[PromptLike],
    *,
    reward: RewardModel,
    answers: int = 4,
    max_new_tokens: int = 64,
    beta: float = 0.05,
    lora: Lora | None = None,
    fit: Fit | None = None,
) -> Adapter:
    r"""Reinforcement learning from a reward model by REINFORCE, each answer against the others to its prompt.

    The advantage of answer $i$ of $k$ is $r_i - \frac{1}{k-1} \sum_{j \ne i} r_j$, with
    $r = r_\phi(x, y) - \beta \log \frac{\pi(y|x)}{\pi_0(y|x)}$. Base, policy and reward model are one model with two
    adapters: no second copy is loaded.

    Args:
        model: The base; afterwards it is itself.
        prompts: What is asked; the answers are sampled.
        reward: Trained on this base, best on preferences with other prompts.
        answers: Sampled to each prompt ($k$), at least 2; it must divide `fit.batch`.
        max_new_tokens: The most tokens of an answer.
        beta: How closely the policy is held to the base, at least 0.
        lora: The form of the adapter.
        fit: The settings of the training; its `batch` counts answers.

    Raises:
        SteerkitError: TRL is not installed.
        InputError: A number is out of range, or `answers` does not divide the batch.
        MismatchError: The reward model belongs to another model.
        DataError: A prompt leaves no room for an answer.

    Source: Ahmadian et al. 2024; TRL's `RLOOTrainer`. It stands where RAHF compares with "RLHF-PPO": TRL no longer has
    PPO, and this is not it.
    """
    fit = fit or Fit(lr=1e-4)
    _check(model, reward, answers, beta, fit)
    trl = import_trl()
    ids = prompt_rows(model, [as_prompt(one) for one in prompts], room=max_new_tokens)
    judge = _Rewards(model, reward, ids)
    lora = lora or Lora()

    class Trainer(trl.RLOOTrainer):  # type: ignore[name-defined, misc]
        """Takes tokens as they are: a prompt is the number of its row."""

        def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
            return [list(ids[int(one)]) for one in prompts], None, {}

    def build(hf: Any, tokenizer: Any, arguments: dict[str, Any]) -> Any:
        from datasets import Dataset

        trainer = Trainer(
            model=hf,
            reward_funcs=judge,
            args=trl.RLOOConfig(
                **arguments, num_generations=answers, max_completion_length=max_new_tokens, beta=beta,
                pad_to_multiple_of=None,
            ),
            train_dataset=Dataset.from_dict({"prompt": [str(number) for number in range(len(ids))]}),
            processing_class=tokenizer,
            peft_config=lora.config(model),
        )  # fmt: skip
        judge.join(trainer.model)
        return trainer

    trained = run_trainer(model, build, fit=fit)
    return trained.adapter(model, "rloo", fit, beta=beta, answers=answers, rewards=judge.means)


class _Rewards:
    """The reward model as a second adapter beside the policy's."""

    __name__ = JUDGE

    def __init__(self, model: HuggingFaceModel, reward: RewardModel, prompts: Sequence[Sequence[int]]) -> None:
        self._model = model
        self._reward = reward
        self._prompts = prompts
        self._policy: Any = None
        self.means: list[float] = []

    def join(self, policy: Any) -> None:
        """Put the reward adapter beside the policy's, which goes on acting."""
        from peft import set_peft_model_state_dict

        config = deepcopy(self._reward.adapter.config)
        config.inference_mode, config.lora_dropout = True, 0.0
        policy.add_adapter(JUDGE, config)
        set_peft_model_state_dict(policy, dict(self._reward.adapter.weights), adapter_name=JUDGE)
        policy.set_adapter("default")
        self._policy = policy

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
        """Rewards of sampled answers, given as tokens."""
        asked = [self._prompts[int(one)] for one in prompts]
        rows = [[*before, *self._ended(after)] for before, after in zip(asked, completion_ids, strict=True)]
        batch = pad(rows, [len(one) for one in asked], pad_id=self._model.pad_id)
        self._policy.set_adapter(JUDGE, inference_mode=True)
        try:
            states = self._last_states(batch)
        finally:
            self._policy.set_adapter("default")
        found = states.float().cpu() @ self._reward.head
        self.means.append(float(found.mean()))
        return [float(one) for one in found]

    def _ended(self, answer: Sequence[int]) -> list[int]:
        """An answer without padding after its end."""
        kept = list(answer)
        while kept and kept[-1] == self._model.pad_id:
            kept.pop()
        return kept

    def _last_states(self, batch: Batch) -> Tensor:
        device = self._model.device
        out = self._model.parts.decoder(
            input_ids=batch.input_ids.to(device),
            attention_mask=batch.real.long().to(device),
            position_ids=batch.position.clamp(min=0).to(device),
            use_cache=False,
        )
        states: Tensor = out.last_hidden_state
        return states[:, -1]


def _check(model: HuggingFaceModel, reward: RewardModel, answers: int, beta: float, fit: Fit) -> None:
    if isinstance(answers, bool) or not isinstance(answers, int) or answers < 2 or fit.batch % answers:
        raise InputError(f"answers={answers!r} to a prompt in a batch of {fit.batch}; give an integer of at least 2 "
                         "that divides the batch")  # fmt: skip
    if isinstance(beta, bool) or not isinstance(beta, int | float) or not 0 <= beta < math.inf:
        raise InputError(f"beta={beta!r} is not valid; give a number of at least 0, such as 0.05")
    here, there = model.info.fingerprint, reward.model.info.fingerprint
    if here != there:
        raise MismatchError(f"the reward model was trained on {reward.model.info.name} ({there}), not on "
                            f"{model.info.name} ({here}); train one on this model")  # fmt: skip
