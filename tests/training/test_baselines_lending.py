"""A model that was lent comes back as it was, whatever was done to it."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from baseline_cases import Itself
from tiny import tiny
from torch import nn

from steerkit.adapters import Lora, attach
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.errors import InputError, ModelError, SteeringError
from steerkit.training.baselines.lending import lent


def _meddle(hf: nn.Module) -> None:
    """What trainers do: wrap layers, patch forward, add hooks, set flags and configurations, draw numbers."""
    from peft import LoraConfig, get_peft_model

    get_peft_model(hf, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM",
                                  fan_in_fan_out=hf.config.model_type == "gpt2"))  # fmt: skip
    hf.forward = lambda *a, **k: None  # type: ignore[method-assign]
    hf.extra = nn.Linear(2, 2)  # type: ignore[assignment]
    hf.train()
    for module in hf.modules():
        module.register_forward_hook(lambda *_: None)
        module.marked = True  # type: ignore[assignment]
    hf.config.use_cache = False
    hf.generation_config.pad_token_id = 7
    torch.manual_seed(99), random.seed(99), np.random.seed(99)


def _meddle_and_fail(model: HuggingFaceModel) -> None:
    with lent(model) as hf:
        _meddle(hf)
        _ = 1 / 0


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("fails", [False, True])
def test_a_model_comes_back_as_it_was(architecture: str, fails: bool) -> None:
    model = tiny(architecture)
    before = Itself(model)
    draws = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    if fails:
        with pytest.raises(ZeroDivisionError):
            _meddle_and_fail(model)
    else:
        with lent(model) as hf:
            _meddle(hf)
    assert torch.equal(torch.get_rng_state(), draws[0])
    assert random.getstate() == draws[1]
    assert (np.random.get_state()[1] == draws[2]).all()
    before.check()


def test_hooks_of_ones_own_still_act_and_can_be_taken_away() -> None:
    model, seen = tiny(), []
    handle = model.hf.register_forward_hook(lambda *_: seen.append(1))
    with lent(model) as hf:
        hf._forward_hooks.clear()
    model.forward("a")
    handle.remove()
    model.forward("a")
    assert len(seen) == 1


def test_the_base_does_not_drop_out_meanwhile() -> None:
    model = tiny("gpt2", attn_pdrop=0.3, resid_pdrop=0.3, embd_pdrop=0.3)
    with lent(model) as hf:
        assert {module.p for module in hf.modules() if isinstance(module, nn.Dropout)} == {0.0}
    assert 0.3 in {module.p for module in model.hf.modules() if isinstance(module, nn.Dropout)}


def test_a_trainer_that_writes_into_the_base_is_found_out() -> None:
    model = tiny()
    with pytest.raises(ModelError, match="wrote into the weights"), lent(model) as hf:
        next(hf.parameters()).add_(1)


@pytest.mark.usefixtures("as_user")
def test_what_cannot_be_lent_is_refused() -> None:
    model = tiny()
    with pytest.raises(InputError, match=r"sk\.load"), lent(model.hf):  # type: ignore[arg-type]
        pass
    with attach(model, {"mine": Lora().config(model)}), pytest.raises(SteeringError, match="adapters already"):
        lent(model).__enter__()
