"""Preferred-SFT, HIR and DPO by TRL: the loss is the one that is written, pieces change nothing, the base stays."""

from __future__ import annotations

import builtins
import math
from typing import Any

import pytest
import torch
from baseline_cases import Itself, preferences
from tiny import tiny
from torch.nn import functional as F

from steerkit.adapters import Adapter, Lora
from steerkit.data.chat import Prompt
from steerkit.data.preference_items import Preference
from steerkit.errors import DataError, InputError, SteerkitError
from steerkit.training.baselines import train_dpo, train_hir, train_preferred_sft
from steerkit.training.fitting.fit import Fit
from steerkit.training.teaching.answers import end_token, read_answered
from steerkit.training.teaching.instructions import Instructions
from steerkit.training.teaching.scoring import token_log_probabilities

LORA = Lora(r=2, dropout=0.0, targets="all-linear")
TRAINERS = {"sft": train_preferred_sft, "hir": train_hir, "dpo": train_dpo}
TOLD = Instructions("Be good.", "Be evil.")


def _logs(model: Any, run: Any, items: Any, side: str, tone: Any = None) -> torch.Tensor:
    """Sums of log-probabilities of the answers, and how many tokens they have: steerkit's own count."""
    end = end_token(model.tokenizer)
    prompts = [one.prompt for one in items]
    if tone:
        prompts = TOLD.before(prompts, tone, tokenizer=model.tokenizer)
    rows = [
        read_answered(p, getattr(one, side), model.tokenizer, end=end) for p, one in zip(prompts, items, strict=True)
    ]
    values, mask = token_log_probabilities(run, rows)
    return torch.stack([values.sum(-1), mask.sum(-1).float()])


@pytest.mark.parametrize("name", TRAINERS)
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_base_is_itself_afterwards_and_the_adapter_fits_it(name: str, architecture: str) -> None:
    model = tiny(architecture)
    before = Itself(model)
    adapter = TRAINERS[name](model, preferences(), lora=LORA, fit=Fit(steps=2, batch=4, lr=1e-2))
    before.check()
    assert isinstance(adapter, Adapter)
    assert len(adapter.meta["losses"]) == 2
    assert not torch.equal(adapter.on(model).forward("Is it so?"), before.logits)
    before.check()


@pytest.mark.parametrize("name", TRAINERS)
def test_an_exception_in_training_leaves_the_base_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import Trainer

    model = tiny()
    before = Itself(model)
    monkeypatch.setattr(Trainer, "training_step", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        TRAINERS[name](model, preferences(), lora=LORA, fit=Fit(steps=2, batch=4))
    monkeypatch.undo()
    before.check()


def test_the_first_loss_of_sft_is_the_mean_over_the_answers_tokens() -> None:
    model, items = tiny(), preferences(4)
    adapter = train_preferred_sft(model, items, lora=LORA, fit=Fit(steps=1, batch=4))
    sums, counts = _logs(model, model.forward, items, "chosen")
    assert adapter.meta["losses"][0] == pytest.approx(float(-sums.sum() / counts.sum()), rel=1e-5)


def test_the_first_loss_of_hir_is_over_both_answers_under_their_instructions() -> None:
    model, items = tiny(), preferences(4)
    adapter = train_hir(model, items, instructions=TOLD, lora=LORA, fit=Fit(steps=1, batch=8))
    both = [_logs(model, model.forward, items, side, tone) for side, tone in (("chosen", "good"), ("rejected", "bad"))]
    sums, counts = torch.cat(both, dim=1)
    assert adapter.meta["losses"][0] == pytest.approx(float(-sums.sum() / counts.sum()), rel=1e-5)
    assert adapter.meta["instructions"] == {"good": "Be good.", "bad": "Be evil."}


def test_the_loss_of_dpo_is_the_formula_before_and_after_a_step() -> None:
    model, items = tiny(), preferences(4)
    steps = {
        count: train_dpo(model, items, beta=0.3, lora=LORA, fit=Fit(steps=count, batch=4, lr=1e-3)) for count in (1, 2)
    }
    assert steps[2].meta["losses"][0] == pytest.approx(math.log(2), abs=1e-6)
    with steps[1].on(model):
        policy = [_logs(model, model.forward, items, side)[0] for side in ("chosen", "rejected")]
    base = [_logs(model, model.forward, items, side)[0] for side in ("chosen", "rejected")]
    margin = (policy[0] - base[0]) - (policy[1] - base[1])
    expected = float(-F.logsigmoid(0.3 * margin).mean())
    assert expected < math.log(2)
    assert steps[2].meta["losses"][1] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", TRAINERS)
def test_a_batch_in_pieces_gives_the_same_weights(name: str) -> None:
    """Answers of unequal lengths: a trainer that averages pieces, or does not divide at all, comes out elsewhere."""
    model, items = tiny(), preferences(8)
    whole, pieces = (
        TRAINERS[name](model, items, lora=LORA, fit=Fit(steps=3, batch=4, lr=1e-2, accumulate=count))
        for count in (1, 4)
    )
    assert pieces.meta["losses"] == pytest.approx(whole.meta["losses"], rel=1e-5)
    for key, one in whole.weights.items():
        torch.testing.assert_close(pieces.weights[key], one, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", TRAINERS)
def test_the_seed_decides_and_nothing_else(name: str) -> None:
    model, fit = tiny(), Fit(steps=2, batch=4, lr=1e-2)
    first = TRAINERS[name](model, preferences(), lora=LORA, fit=fit)
    torch.manual_seed(5)
    again = TRAINERS[name](model, preferences(), lora=LORA, fit=fit)
    other = TRAINERS[name](model, preferences(), lora=LORA, fit=Fit(steps=2, batch=4, lr=1e-2, seed=1))
    assert all(torch.equal(one, again.weights[key]) for key, one in first.weights.items())
    assert any(not torch.equal(one, other.weights[key]) for key, one in first.weights.items())


def test_nothing_is_printed_or_written(
    capfd: pytest.CaptureFixture[str], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train_preferred_sft(tiny(), preferences(4), lora=LORA, fit=Fit(steps=1, batch=4))
    assert capfd.readouterr().out == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize("name", TRAINERS)
def test_bad_input_is_refused_before_anything_is_computed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import Trainer

    monkeypatch.setattr(Trainer, "train", lambda *_, **__: pytest.fail("it was computed"))
    model, train = tiny(), TRAINERS[name]
    with pytest.raises(DataError, match="no preferences"):
        train(model, [])
    long = Preference(Prompt([{"role": "user", "content": "x" * 600}]), "a", "b")
    with pytest.raises(DataError, match="context is 512"):
        train(model, [long])
    with pytest.raises(InputError, match="accumulate=3"):
        train(model, preferences(4), fit=Fit(steps=1, batch=4, accumulate=3))
    with pytest.raises(InputError, match=r"sk\.load"):
        train(model.hf, preferences(4))  # type: ignore[arg-type]


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize("beta", [0, -1.0, float("nan"), float("inf"), True, "0.1"])
def test_dpo_needs_a_beta_above_0(beta: Any) -> None:
    with pytest.raises(InputError, match="beta="):
        train_dpo(tiny(), preferences(4), beta=beta)


def test_without_trl_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def refuse(name: str, *arguments: Any, **named: Any) -> Any:
        if name == "trl":
            raise ImportError("No module named 'trl'")
        return found(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(SteerkitError, match=r"pip install steerkit\[align\]"):
        train_dpo(tiny(), preferences(4))


def test_trl_is_imported_by_nobody_who_does_not_train() -> None:
    import subprocess
    import sys

    rooms = "steerkit, steerkit.training.comparing.comparison, steerkit.training.baselines"
    code = f"import sys, {rooms}; assert 'trl' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
