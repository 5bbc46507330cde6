"""Each sign of failure in the shift is planted, and found by its rule."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from verification_cases import LAYER, PROMPTS, Stuck, constant, hook, random_adapter, tiny, vector, zero_adapter

from steerkit.adapters import Adapter
from steerkit.steering import Steer
from steerkit.training.distilling.distillation import distill
from steerkit.training.distilling.distilled import Distilled
from steerkit.training.distilling.shifts import WantedShifts
from steerkit.training.fitting.curves import Curve
from steerkit.training.fitting.fit import Fit
from steerkit.training.verifying.verification import Verification, verify


def check(distilled: Any, steered: Steer, **options: Any) -> Verification:
    return verify(distilled, steered=steered, prompts=PROMPTS, max_new_tokens=0, **options)


def told(adapter: Adapter, model: Any, *rows: dict[str, float]) -> Distilled:
    """An adapter with the record of a training."""
    one = torch.ones(1)
    whole = [{"step": float(i), "loss": row["error"], "cosine": 0.0, **row} for i, row in enumerate(rows)]
    return Distilled(model, adapter, Curve(whole), WantedShifts((LAYER,), one, one, one, one, 1))


def test_the_exact_adapter_passes() -> None:
    """The vector as a bias is the hook at all positions: nothing is found, and the words say so."""
    model = tiny()
    found = check(constant(model).on(model), hook(model))
    assert found.verdict.findings == ()
    assert found.passed
    assert found.verdict.headline == "The weights do what was wanted."
    assert "At scale 0 it is the base, bit for bit." in found.verdict.text


def test_nothing_wanted() -> None:
    model = tiny()
    for coef in (0.0, 1e-9):
        found = check(zero_adapter(model).on(model), hook(model, coef=coef))
        assert "nothing_wanted" in found.verdict.names
        assert "no_effect" not in found.verdict.names
        assert not found.passed
    assert "nothing_wanted" not in check(zero_adapter(model).on(model), hook(model, coef=1e-3)).verdict.names


def test_an_adapter_with_zero_weights() -> None:
    model = tiny()
    found = check(zero_adapter(model).on(model), hook(model))
    assert found.verdict.names == ("no_effect",)
    assert "zero" in found.verdict.findings[0].advice
    assert not found.passed


def test_the_wrong_sign() -> None:
    model = tiny()
    assert check(constant(model, coef=-1).on(model), hook(model)).verdict.names == ("wrong_sign",)
    assert not check(constant(model).on(model, scale=-1), hook(model)).passed


def test_a_shift_on_prompt_tokens_only() -> None:
    model = tiny()
    inverted = hook(model, positions=slice(0, -1))
    found = check(inverted, hook(model, positions="generation"))
    assert found.verdict.names == ("prompt_only",)
    assert not found.passed


def test_a_shift_of_another_direction() -> None:
    model = tiny()
    assert check(constant(model, seed=2).on(model), hook(model)).verdict.names[0] == "other_direction"


@pytest.mark.parametrize(("coef", "name", "grave"), [(0.3, "undershoot", True), (0.6, "undershoot", False),
                                                     (1.5, "overshoot", False), (2.0, "overshoot", True)])  # fmt: skip
def test_too_little_and_too_much(coef: float, name: str, grave: bool) -> None:
    model = tiny()
    (finding,) = [one for one in check(constant(model, coef=coef).on(model), hook(model)).verdict.findings
                  if one.name != "far_from_base"]  # fmt: skip
    assert (finding.name, finding.grave) == (name, grave)
    assert f"a scale of {1 / coef:.{1 if coef < 1 else 2}f}" in finding.advice


def test_leaks() -> None:
    """A constant shift at every token, where the edit acts on the answer."""
    model = tiny()
    found = check(constant(model).on(model), hook(model, positions="generation"), neutral=["Rain fell on it."])
    assert found.verdict.names == ("leaks",)
    assert found.passed
    assert "prompt tokens (100%" in found.verdict.text
    assert "neutral text" in found.verdict.text


def test_a_first_error_that_is_not_the_wanted_shift() -> None:
    model = tiny()
    right, wrong = ({"error": error, "shift": 5.0} for error in (5.0, 4.0))
    end = {"error": 0.01, "shift": 5.0}
    assert check(told(constant(model), model, right, *[end] * 10), hook(model)).passed
    found = check(told(constant(model), model, wrong, *[end] * 10), hook(model))
    assert found.verdict.names == ("first_loss",)


def test_a_training_that_goes_nowhere() -> None:
    """A real training with a learning rate that moves nothing."""
    model = tiny()
    weights = distill(model, vector(), layer=LAYER, prompts=PROMPTS, fit=Fit(steps=3, lr=1e-9, batch=1),
                      max_new_tokens=4, progress=False)  # fmt: skip
    found = check(weights, weights.steer)
    assert {"flat_loss", "no_effect"} <= set(found.verdict.names)
    assert "first_loss" not in found.verdict.names


def test_what_does_not_carry_over() -> None:
    model = tiny()
    start, end = {"error": 5.0, "shift": 5.0}, {"error": 0.2, "shift": 5.0}
    found = check(told(constant(model, coef=0.3), model, start, *[end] * 10), hook(model))
    assert "held_out" in found.verdict.names
    close = check(told(constant(model), model, start, *[end] * 10), hook(model))
    assert "held_out" not in close.verdict.names


def test_a_merge_that_loses_the_change() -> None:
    """bfloat16 rounds a small change away; float32 keeps it."""
    model = tiny()
    small = random_adapter(model, size=0.01)
    lossy = check(small.on(model), hook(model), merged_dtype=torch.bfloat16)
    assert "merge_loses" in lossy.verdict.names
    assert lossy.merging.dtype == "bfloat16"
    assert lossy.merging.error > 0.3
    whole = check(small.on(model), hook(model))
    assert "merge_loses" not in whole.verdict.names
    assert whole.merging.error < 0.01


def test_a_scale_of_zero_that_is_not_the_base() -> None:
    model = tiny()
    exact = constant(model)
    found = check(Stuck(exact.config, exact.weights).on(model), hook(model))
    assert found.verdict.names == ("scale_zero",)
    assert not found.dose.zero_is_base


def test_a_dose_that_bends() -> None:
    model = tiny()
    wild = random_adapter(model, size=0.1)
    found = check(wild.on(model), hook(model), scales=(-3, -1, 0, 1, 3))
    assert not found.dose.monotone
    assert "dose_bends" in found.verdict.names
