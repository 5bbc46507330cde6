from __future__ import annotations

import json
import math

import pytest
import torch
from tiny import tiny

from steerkit.errors import DataError
from steerkit.evaluation.generations import compare
from steerkit.steering import Steer

PROMPTS = ["Is the sea dry?", "Why?", "Tell me <b>all</b>"]


def count_a(_prompt: str, answer: str) -> float | None:
    return float(answer.count("a")) if len(answer) > 2 else None


def test_answers_stand_side_by_side_unsteered_first() -> None:
    model, shift = tiny(), 20 * torch.randn(32)
    steer = Steer(model).add(shift, layer=3)
    found = compare(model, PROMPTS, {"up": steer, "same": None}, max_new_tokens=6, batch_size=2)
    assert list(found.answers) == ["unsteered", "up", "same"]
    for i, prompt in enumerate(PROMPTS):
        assert found.answers["unsteered"][i] == model.generate(prompt, max_new_tokens=6, do_sample=False)[0]
        assert found.answers["up"][i] == steer.generate(prompt, max_new_tokens=6, do_sample=False)[0]
    assert found.answers["same"] == found.answers["unsteered"] != found.answers["up"]
    assert "&lt;b&gt;" in found._repr_html_()
    assert "unsteered" in repr(found)


def test_scores_have_a_mean_an_error_and_the_share_that_was_scored() -> None:
    model, shift = tiny(), 20 * torch.randn(32)
    steer = Steer(model).add(shift, layer=3)
    answers = {"Is the sea dry?": 1.0, "Why?": None, "Tell me <b>all</b>": 4.0}
    found = compare(model, PROMPTS, {"up": steer}, max_new_tokens=4, score=lambda prompt, _: answers[prompt])
    scored = found.scores["up"]
    assert (scored.mean, scored.parsed) == (2.5, pytest.approx(2 / 3))
    assert scored.stderr == pytest.approx(1.5)
    assert found.minus("up").mean == 0
    assert found.minus("up").count == 2
    assert json.loads(found.to_json())["scores"]["up"]["values"] == [1.0, None, 4.0]
    assert list(found.to_frame().columns) == ["prompt", "unsteered", "up", "unsteered score", "up score"]
    assert len(found.plot().data) == 1
    assert "scored" in repr(found)


def test_what_cannot_be_scored_at_all_says_so() -> None:
    found = compare(tiny(), PROMPTS, {}, max_new_tokens=2, score=lambda *_: None)
    assert math.isnan(found.scores["unsteered"].mean)
    assert found.scores["unsteered"].parsed == 0
    assert "NaN" not in found.to_json()
    with pytest.raises(DataError, match="no prompt has a score"):
        found.minus("unsteered")


def test_bad_input_is_refused() -> None:
    with pytest.raises(DataError, match="batch_size=0"):
        compare(tiny(), PROMPTS, {}, batch_size=0)
    with pytest.raises(DataError, match="no prompts"):
        compare(tiny(), [], {})
    with pytest.raises(DataError, match="no scores"):
        compare(tiny(), "Why?", {}, max_new_tokens=1).minus("unsteered")
    with pytest.raises(DataError, match="nothing to plot"):
        compare(tiny(), "Why?", {}, max_new_tokens=1).plot()
