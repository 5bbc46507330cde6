"""Win rates: against closed forms, scikit-learn and simulated judges with known weaknesses."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steerkit.errors import DataError
from steerkit.evaluation.judging import RuleJudge
from steerkit.evaluation.length_control import length_controlled
from steerkit.evaluation.proportions import wilson_interval
from steerkit.evaluation.win_rates import win_rate

BY_COUNT = RuleJudge(lambda _, text: text.count("a"))


class Given:
    """Verdicts known beforehand, by the number that is the answer's first word."""

    name = "given"

    def __init__(self, preference: Sequence[float]) -> None:
        self.preference = preference

    def __call__(self, prompts: object, a: Sequence[str], b: Sequence[str]) -> Tensor:
        found = [self.preference[int(one.split()[1])] for one in a]
        return torch.tensor([p if one[0] == "x" else 1 - p for p, one in zip(found, a, strict=True)])


def _judged(preference: Sequence[float], longer: Sequence[int]) -> tuple[list[str], list[str]]:
    """Answers whose verdicts and lengths are as given; `longer` from -20 to 20."""
    a = [f"x {i} " + "w" * (30 + gap) for i, gap in enumerate(longer)]
    b = [f"y {i} " + "w" * 30 for i in range(len(longer))]
    return a, b


def test_ties_count_half_and_the_interval_is_wilsons() -> None:
    found = win_rate(BY_COUNT, ["q"] * 4, ["aa", "a", "a", ""], ["a", "a", "b", "a"])
    assert (found.wins, found.ties, found.losses, found.rate) == (2, 1, 1, 0.625)
    assert found.interval == wilson_interval(0.625, 4)


@pytest.mark.parametrize(("hits", "count", "low", "high"), [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0),
                                                            (15, 148, 0.0624, 0.1605)])  # fmt: skip
def test_wilson_as_published(hits: int, count: int, low: float, high: float) -> None:
    """Newcombe 1998, table I, method 3, for 15 of 148."""
    found = wilson_interval(hits / count, count)
    assert found == pytest.approx((low, high), abs=6e-5)


def test_wilson_covers_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    for chance in (0.05, 0.5, 0.9):
        draws = torch.binomial(torch.full((2000,), 40.0), torch.full((2000,), chance), generator=generator)
        inside = [low <= chance <= high for low, high in (wilson_interval(float(d) / 40, 40) for d in draws)]
        assert 0.92 <= sum(inside) / 2000 <= 0.985


@given(st.lists(st.tuples(st.text("ab", max_size=6), st.text("ab", max_size=6)), min_size=1, max_size=12))
@settings(max_examples=25, deadline=None)
def test_the_other_side_has_the_rest(both: list[tuple[str, str]]) -> None:
    a, b = ([one[i] for one in both] for i in range(2))
    prompts = ["q"] * len(a)
    here, there = (win_rate(BY_COUNT, prompts, x, y, resamples=50) for x, y in ((a, b), (b, a)))
    assert here.rate == pytest.approx(1 - there.rate, abs=1e-12)
    assert here.controlled == pytest.approx(1 - there.controlled, abs=1e-9)
    assert here.interval == pytest.approx((1 - there.interval[1], 1 - there.interval[0]), abs=1e-9)
    assert here.overlap == pytest.approx(there.overlap, abs=1e-12)


def test_a_judge_of_probabilities_gets_a_bootstrap_interval() -> None:
    preference = [0.2, 0.9, 0.7, 0.6, 0.8, 0.4, 0.55, 0.95]
    a, b = _judged(preference, [0] * 8)
    found = win_rate(Given(preference), ["q"] * 8, a, b)
    assert found.rate == pytest.approx(np.mean(preference), abs=1e-6)
    half = 1.96 * np.std(preference, ddof=1) / math.sqrt(8)
    assert found.interval[0] == pytest.approx(found.rate - half, abs=0.04)
    assert found.interval[1] == pytest.approx(found.rate + half, abs=0.04)


def _scikit(preference: Tensor, longer: Tensor, spread: float | None = None) -> float:
    from sklearn.linear_model import LogisticRegression

    z = np.tanh(longer.numpy() / (spread or longer.numpy().std() or 1))
    x, p = np.c_[z, np.ones_like(z)], preference.numpy()
    labels, weights = np.r_[np.ones(len(z)), np.zeros(len(z))], np.r_[p, 1 - p]
    model = LogisticRegression(C=100.0, fit_intercept=False, tol=1e-10, max_iter=1000)
    model.fit(np.r_[x, x], labels, sample_weight=weights)
    return float(model.predict_proba([[0.0, 1.0]])[0, 1])


@pytest.mark.parametrize("case", ["mixed", "hard", "all wins", "all longer", "separable", "one"])
def test_the_length_controlled_rate_is_that_of_scikit_learn(case: str) -> None:
    generator = torch.Generator().manual_seed(3)
    longer = torch.randn(60, generator=generator, dtype=torch.float64) * 20
    preference = torch.rand(60, generator=generator, dtype=torch.float64)
    if case == "hard":
        preference = preference.round()
    if case == "all wins":
        preference = torch.ones(60, dtype=torch.float64)
    if case == "all longer":
        longer = longer.abs() + 1
    if case == "separable":
        preference = (longer > 0).double()
    if case == "one":
        preference, longer = preference[:1], longer[:1]
    assert float(length_controlled(preference, longer)) == pytest.approx(_scikit(preference, longer), abs=1e-5)


def test_each_resample_is_a_fit_of_its_own() -> None:
    generator = torch.Generator().manual_seed(1)
    longer, preference = (draw(30, generator=generator, dtype=torch.float64) for draw in (torch.randn, torch.rand))
    fits = length_controlled(preference, longer, resamples=3, seed=5)
    drawn = torch.randint(30, (3, 30), generator=torch.Generator().manual_seed(5))
    spread = float(longer.double().std(unbiased=False))
    for row, rate in zip(drawn, fits[1:], strict=True):
        assert float(rate) == pytest.approx(_scikit(preference[row], longer[row], spread), abs=1e-5)


def test_a_judge_who_likes_length_is_seen_through() -> None:
    """Answers are equally good, but longer, and the judge takes the longer one more often: raw .66, controlled .5."""
    generator = torch.Generator().manual_seed(0)
    gap = torch.randn(4000, generator=generator) * 20 + 14
    chance = torch.sigmoid(2.0 * torch.tanh(gap / float(gap.std(unbiased=False))))
    wins = (torch.rand(4000, generator=generator) < chance).double()
    assert float(wins.mean()) > 0.64
    assert float(length_controlled(wins, gap)) == pytest.approx(0.5, abs=0.05)


def test_overlap_tells_an_extrapolation() -> None:
    for longer, overlap in (([5, 3, 2, 9], 0.0), ([5, -3, 2, -9], 1.0), ([0, 0, 0, 0], 1.0), ([5, 3, 2, -9], 0.5)):
        a, b = _judged([0.5] * 4, longer)
        assert win_rate(Given([0.5] * 4), ["q"] * 4, a, b, resamples=10).overlap == overlap


def test_figures_as_json_and_table() -> None:
    found = win_rate(BY_COUNT, ["q"], ["a"], ["b"], resamples=10)
    assert json.loads(found.to_json())["wins"] == 1
    assert "LC (minimal GLM)" in repr(found)


@pytest.mark.usefixtures("as_user")
def test_bad_input_is_refused() -> None:
    with pytest.raises(DataError, match="resamples=0"):
        win_rate(BY_COUNT, ["q"], ["a"], ["b"], resamples=0)
    with pytest.raises(DataError, match="one of each"):
        length_controlled(torch.ones(2), torch.ones(3))
    with pytest.raises(DataError, match="no interval"):
        wilson_interval(0.5, 0)
