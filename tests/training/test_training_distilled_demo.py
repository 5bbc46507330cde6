"""The embedded model's sycophancy, distilled with the defaults: held-out choices and open answers, at both signs."""

from __future__ import annotations

from typing import Any

import pytest

import steerkit as sk
from steerkit.demo.answers import read_questions, score_open
from steerkit.training.distilling.distillation import distill

LAYER, COEF = 3, 0.5


@pytest.mark.slow
@pytest.mark.parametrize("coef", [COEF, -COEF])
def test_the_weights_do_by_themselves_what_the_hook_did(coef: float) -> None:
    model: Any = sk.load("demo")
    train, test = (sk.load_pairs("demo:sycophancy", split=split) for split in ("train", "test"))
    vector = sk.extract(sk.record(model, train, progress=False))
    asked = [[{"role": "user", "content": one["question"]}] for one in read_questions("sycophancy", "train")]
    found = distill(model, vector, layer=LAYER, coef=coef, prompts=[*train[:100], *asked], progress=False)
    assert found.missing < 0.1

    hook = sk.Steer(model).add(vector, layer=LAYER, coef=coef)
    wanted, base = sk.score_choices(hook, test).p_matching, sk.score_choices(model, test).p_matching
    assert abs(wanted - base) > 0.4
    with found:
        assert abs(sk.score_choices(model, test).p_matching - wanted) < 0.05
        answers = score_open(model, "sycophancy")
    steered = score_open(model, "sycophancy", vector=vector, layer=LAYER, coef=coef)
    assert abs(answers.positive - steered.positive) < 0.1
    assert answers.on_topic > steered.on_topic - 0.15
