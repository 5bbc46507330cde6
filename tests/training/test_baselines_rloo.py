"""RLOO on a reward model that shares the base."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from baseline_cases import Itself, preferences
from tiny import tiny

from steerkit.adapters import Lora
from steerkit.data.chat import as_prompt
from steerkit.errors import DataError, InputError, MismatchError
from steerkit.training.baselines import train_reward_model, train_rloo
from steerkit.training.baselines.lending import lent
from steerkit.training.baselines.rloo import _Rewards
from steerkit.training.baselines.rows import prompt_rows, scored_rows
from steerkit.training.fitting.fit import Fit

LORA = Lora(r=2, dropout=0.0, targets="all-linear")


@pytest.fixture(scope="module")
def reward() -> Any:
    return train_reward_model(tiny(), preferences(), lora=LORA, fit=Fit(steps=2, batch=4, lr=1e-2))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_beside_the_policy_the_reward_is_the_same(reward: Any) -> None:
    """The reward adapter acts alone while it reads, and the policy alone (and trainable) before and after."""
    from peft import get_peft_model

    model = reward.model
    prompts, answers = ["Is it so?", "Or not?"], ["Yes.", "It is not so, no."]
    rows = scored_rows(model, [as_prompt(one) for one in prompts], answers)
    judge = _Rewards(model, reward, [before for before, _ in rows])
    with lent(model) as hf:
        policy = get_peft_model(hf, LORA.config(model))
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
        policy.train()
        judge.join(policy)
        trained = {name for name, one in policy.named_parameters() if one.requires_grad}
        found = judge(["0", "1"], [after for _, after in rows])
        assert {name for name, one in policy.named_parameters() if one.requires_grad} == trained
        assert all(".default." in name for name in trained)
        assert policy.active_adapter == "default"
    torch.testing.assert_close(torch.tensor(found), reward.score(prompts, answers), rtol=1e-4, atol=1e-5)


def test_the_base_is_itself_afterwards_and_the_policy_is_another(reward: Any) -> None:
    model = reward.model
    before = Itself(model)
    prompts = [one.prompt for one in preferences(4)]
    adapter = train_rloo(model, prompts, reward=reward, answers=2, max_new_tokens=6, lora=LORA,
                         fit=Fit(steps=2, batch=4, lr=1e-2))  # fmt: skip
    before.check()
    assert len(adapter.meta["rewards"]) == 2
    assert all(".reward." not in name for name in adapter.weights)
    assert not torch.equal(adapter.on(model).forward("Is it so?"), before.logits)


@pytest.mark.usefixtures("as_user")
def test_bad_input_is_refused_before_anything_is_computed(reward: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import Trainer

    monkeypatch.setattr(Trainer, "train", lambda *_, **__: pytest.fail("it was computed"))
    model = reward.model
    for answers, batch in ((1, 4), (3, 4), (True, 4), (2.0, 4)):
        with pytest.raises(InputError, match="answers="):
            train_rloo(model, ["a"], reward=reward, answers=answers, fit=Fit(batch=batch))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="beta=-1"):
        train_rloo(model, ["a"], reward=reward, beta=-1, fit=Fit(batch=4))
    with pytest.raises(DataError, match="no prompts"):
        train_rloo(model, [], reward=reward, fit=Fit(batch=4))
    with pytest.raises(DataError, match="context is 512"):
        train_rloo(model, ["a"], reward=reward, max_new_tokens=600, fit=Fit(batch=4))
    with pytest.raises(MismatchError, match="train one on this model"):
        train_rloo(tiny("llama", seed=3), ["a"], reward=reward, fit=Fit(batch=4))


def test_prompts_keep_room_for_the_answer() -> None:
    model = tiny()
    assert len(prompt_rows(model, [as_prompt("a" * 12)], room=500)[0]) == 12
    with pytest.raises(DataError):
        prompt_rows(model, [as_prompt("a" * 13)], room=500)
