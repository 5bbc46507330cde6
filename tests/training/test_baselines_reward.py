"""The reward model: what it reads, what it is worth, and that it judges as it was trained."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from baseline_cases import Itself, preferences
from tiny import tiny
from torch.nn import functional as F

import steerkit as sk
from steerkit.adapters import Lora
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.data.chat import Prompt
from steerkit.data.preference_loading import load_preferences
from steerkit.errors import DataError
from steerkit.evaluation.judging import Judge, judge_pairs
from steerkit.training.baselines import train_reward_model
from steerkit.training.baselines.reward import RewardModel
from steerkit.training.baselines.reward_quality import quality_of
from steerkit.training.baselines.rows import scored_rows
from steerkit.training.fitting.fit import Fit

LORA = Lora(r=2, dropout=0.0, targets="all-linear")


def _train(model: HuggingFaceModel, steps: int = 2, **options: Any) -> RewardModel:
    return train_reward_model(model, preferences(), lora=LORA, fit=Fit(steps=steps, batch=4, lr=1e-2), **options)


def _own(reward: RewardModel, prompt: Prompt, answer: str) -> float:
    """One answer alone, from transformers' own hidden states."""
    ((before, after),) = scored_rows(reward.model, [prompt], [answer])
    with reward.adapter.on(reward.model), torch.no_grad():
        out = reward.model.hf(input_ids=torch.tensor([[*before, *after]]), output_hidden_states=True)
    return float(out.hidden_states[-1][0, -1] @ reward.head)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
def test_a_reward_is_the_heads_reading_of_the_last_state(architecture: str) -> None:
    model = tiny(architecture)
    before = Itself(model)
    reward = _train(model)
    before.check()
    items = preferences()
    found = reward.score([one.prompt for one in items], [one.chosen for one in items], batch_size=3)
    before.check()
    expected = [_own(reward, one.prompt, one.chosen) for one in items]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padding", ["apart", "the end"])
def test_the_trainer_reads_the_token_that_is_scored_later(padding: str) -> None:
    """The second loss is that of the rewards after one step; also where padding is the end-of-text token."""
    model = tiny()
    if padding == "the end":
        from copy import deepcopy

        tokenizer = deepcopy(model.tokenizer)
        tokenizer.pad_token = tokenizer.eos_token
        model = HuggingFaceModel(model.hf, tokenizer)
    fit = [Fit(steps=steps, batch=8, lr=1e-3) for steps in (1, 2)]
    one, two = (train_reward_model(model, preferences(), lora=LORA, fit=each, center=0.0) for each in fit)
    prompts = [each.prompt for each in preferences()]
    margin = one.score(prompts, [p.chosen for p in preferences()]) - one.score(
        prompts, [p.rejected for p in preferences()]
    )
    assert two.adapter.meta["losses"][1] == pytest.approx(float(-F.logsigmoid(margin).mean()), rel=1e-4)


def test_a_reward_model_is_a_judge_without_a_weakness_for_order() -> None:
    reward = _train(tiny())
    assert isinstance(reward, Judge)
    found = judge_pairs(reward, ["Is it?", "Is it?"], ["yes", "no"], ["no", "no"])
    assert found.preference[1] == pytest.approx(0.5, abs=1e-6)
    assert found.order_effect == pytest.approx(0, abs=1e-6)
    assert reward.score(["Is it?"], [""]).isfinite().all()


def test_pieces_of_a_batch_give_the_same_reward_model() -> None:
    fits = [Fit(steps=3, batch=4, lr=1e-2, accumulate=count) for count in (1, 4)]
    whole, pieces = (train_reward_model(tiny(), preferences(), lora=LORA, fit=fit) for fit in fits)
    torch.testing.assert_close(pieces.head, whole.head, rtol=0, atol=2e-5)


def test_quality_by_hand() -> None:
    margins, longer = torch.tensor([3.0, 0.1, -0.1, 2.0, -4.0]), torch.tensor([1.0, 2.0, 3.0, 0.0, -2.0])
    found = quality_of(margins, longer)
    assert found.accuracy == pytest.approx(0.6)
    assert sum(one.count for one in found.bins) == 5
    sure = torch.sigmoid(margins.double().abs())
    low, high = sure < 0.6, sure >= 0.8
    error = (
        abs(float(sure[low].sum()) - 1) / 5
        + sum(
            abs(float(sure[rows].sum()) - right)
            for rows, right in (((sure >= 0.8) & (sure < 0.9), 1), (sure >= 0.9, 1))
        )
        / 5
    )
    assert int(low.sum()) == 2
    assert int(high.sum()) == 3
    assert found.calibration_error == pytest.approx(error, abs=1e-9)
    assert found.length_correlation == pytest.approx(float(torch.corrcoef(torch.stack([margins, longer]))[0, 1]))
    assert found.chosen_longer == pytest.approx(0.7)
    assert json.loads(found.to_json())["count"] == 5
    assert "calibration" in repr(found)


@pytest.mark.usefixtures("as_user")
def test_bad_input_is_refused() -> None:
    model, items = tiny(), preferences()
    with pytest.raises(DataError, match="has not seen"):
        train_reward_model(model, items, held_out=items[:2])
    with pytest.raises(DataError, match="no preferences"):
        train_reward_model(model, [])
    with pytest.raises(DataError, match="one answer for each prompt"):
        _train(model).score(["a", "b"], ["c"])


@pytest.mark.slow
def test_it_learns_the_demos_preferences() -> None:
    train, test = (load_preferences("demo", split=split) for split in ("train", "test"))
    reward = train_reward_model(
        sk.load("demo"), train[:200], held_out=test, lora=Lora(targets="all-linear"), fit=Fit(steps=40, lr=1e-3)
    )
    assert reward.quality is not None
    assert reward.quality.interval[0] >= 0.9
    assert abs(reward.quality.length_correlation) <= 0.4
    assert "accuracy" in repr(reward)
