"""On the demo's preferences: taught on some topics, told apart on others."""

from __future__ import annotations

import pytest

from steerkit.backends.loading import load
from steerkit.data.preference_loading import load_preferences
from steerkit.demo.preferences import BAD, GOOD
from steerkit.training.fitting.fit import Fit
from steerkit.training.teaching.course import teach
from steerkit.training.teaching.instructions import Instructions

FIT = Fit(steps=60, batch=8, lr=3.2e-3, schedule="linear", warmup=0.1)


def test_the_instructions_of_the_demo_have_equally_many_tokens() -> None:
    good, bad = Instructions(GOOD, BAD).tokens(load("demo").tokenizer)
    assert good == bad


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["scit", "dual"])
def test_teaching_carries_over_to_topics_never_taught(mode: str) -> None:
    model, test = load("demo"), load_preferences("demo", split="test")
    told = {"instructions": Instructions(GOOD, BAD)} if mode == "scit" else {}
    train = load_preferences("demo", split="train")
    taught = teach(model, train, mode=mode, held_out=test, fit=FIT, progress=False, **told)
    found = taught.discrimination
    assert found is not None
    for matched in (False, True):
        for side in ("chosen", "rejected", "order"):
            assert found.accuracy(side, matched=matched).low > 0.9
    if mode == "scit":
        assert abs(found.accuracy("both", arm="base").share - 0.5) < 0.1
        assert found.gain("both").interval[0] > 0.25
