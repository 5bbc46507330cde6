from __future__ import annotations

import pytest
import torch
from teaching_cases import model, own_score, preferences, same

from steerkit.adapters import Adapter, FullWeights, Lora
from steerkit.data.preference_items import Preference
from steerkit.data.preference_sets import Preferences
from steerkit.errors import DataError
from steerkit.training.fitting.fit import Fit
from steerkit.training.teaching.course import teach
from steerkit.training.teaching.dual import answer_step, check_distinct
from steerkit.training.teaching.learning import Learner
from steerkit.training.teaching.lessons import read_lessons
from steerkit.training.teaching.taught import Taught

FIT = Fit(steps=2, lr=1e-2, batch=2)
LORA = Lora(r=2, dropout=0.1)


def weights(adapter: Adapter | FullWeights) -> dict[str, torch.Tensor]:
    assert isinstance(adapter, Adapter)
    return dict(adapter.weights)


def test_a_step_is_the_mean_of_the_answers_of_one_side() -> None:
    rows = [one.chosen_good for one in read_lessons(preferences(3), None, model())]
    loss, numbers = answer_step(model().run, rows)([2, 0], [2, 0, 1])
    wanted = -(own_score(model(), rows[2]) + own_score(model(), rows[0])) / 3
    assert float(loss.detach()) == pytest.approx(wanted, abs=1e-5)
    assert numbers["nll"] == pytest.approx(wanted, abs=1e-5)


def test_equal_data_give_equal_losses_and_the_same_weights_and_are_refused() -> None:
    rows = [one.chosen_good for one in read_lessons(preferences(4), None, model())]
    learner = Learner(model(), LORA, FIT, progress=False)
    made = {name: learner.learn(name, len(rows), answer_step(model().run, rows)) for name in ("good", "bad")}
    (good, first), (bad, second) = made["good"], made["bad"]
    assert first.loss == second.loss
    assert same(weights(good), weights(bad))
    with pytest.raises(DataError, match="the good and the bad weights are the same"):
        Taught("dual", None, {"good": good, "bad": bad})


def test_each_side_learns_its_own_answers_in_the_same_order() -> None:
    data = preferences(5)
    turned = Preferences([Preference(one.prompt, one.rejected, one.chosen, one.id) for one in data])
    options = {"mode": "dual", "held_out": None, "lora": LORA, "fit": FIT, "progress": False}
    straight, other = (teach(model(), one, **options) for one in (data, turned))
    assert same(weights(straight.weights["good"]), weights(other.weights["bad"]))
    assert same(weights(straight.weights["bad"]), weights(other.weights["good"]))
    assert straight.curves["good"].loss == other.curves["bad"].loss
    assert straight.distance is not None
    assert straight.distance > 1e-3
    assert straight.instructions is None


def test_weights_that_cannot_be_held_against_each_other_are_refused() -> None:
    a, b = (FullWeights({name: torch.ones(2)}) for name in "ab")
    with pytest.raises(DataError, match="not change the same parameters"):
        check_distinct({"good": a, "bad": b})
    with pytest.raises(DataError, match=r"not \['good'\]"):
        check_distinct({"good": a})
    assert check_distinct({"good": a, "bad": FullWeights({"a": torch.tensor([1.0, 3.0])})}) == pytest.approx(
        2 / 10**0.5
    )
    with pytest.raises(DataError, match="the same"):
        check_distinct({"good": a, "bad": FullWeights({"a": torch.ones(2) * (1 + 1e-7)})})
