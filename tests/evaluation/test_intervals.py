from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerkit.errors import DataError
from steerkit.evaluation.intervals import bootstrap_interval, paired_difference, resampled_means, standard_error

VALUES = st.lists(st.floats(0, 1, width=32), min_size=2, max_size=30)


@settings(max_examples=25, deadline=None)
@given(VALUES, st.randoms(use_true_random=False))
def test_the_paired_error_is_the_closed_form(after: list[float], random: object) -> None:
    before = [random.random() for _ in after]
    change = [a - b for a, b in zip(after, before, strict=True)]
    mean = sum(change) / len(change)
    variance = sum((one - mean) ** 2 for one in change) / (len(change) - 1)
    found = paired_difference(torch.tensor(after, dtype=torch.float64), torch.tensor(before, dtype=torch.float64))
    assert found.mean == pytest.approx(mean, abs=1e-9)
    assert found.stderr == pytest.approx((variance / len(change)) ** 0.5, abs=1e-9)
    low, high = found.interval
    assert min(change) - 1e-9 <= low <= high <= max(change) + 1e-9


def test_the_wrong_way_is_against_the_mean() -> None:
    before = torch.zeros(4)
    assert paired_difference(torch.tensor([1.0, 1.0, -0.5, 1.0]), before).wrong == 0.25
    assert paired_difference(torch.tensor([-1.0, -1.0, 0.5, -1.0]), before).wrong == 0.25


def test_the_bootstrap_covers_about_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(1)
    draws = torch.rand(400, 40, generator=generator, dtype=torch.float64) ** 2
    held = 0
    for one in draws:
        low, high = bootstrap_interval(one, resamples=400)
        held += low <= 1 / 3 <= high
    assert 0.90 <= held / 400 <= 0.975


def test_the_bootstrap_is_seeded_and_agrees_with_the_standard_error() -> None:
    values = torch.randn(200, dtype=torch.float64)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)
    low, high = bootstrap_interval(values)
    assert (high - low) / 2 == pytest.approx(1.96 * float(standard_error(values)), rel=0.1)


def test_one_item_has_no_error_and_none_is_refused() -> None:
    assert standard_error(torch.tensor([0.3])).isnan()
    with pytest.raises(DataError, match="no items"):
        resampled_means(torch.empty(0))
    with pytest.raises(DataError, match="same items twice"):
        paired_difference(torch.zeros(2), torch.zeros(3))
    with pytest.raises(DataError, match="level=1"):
        bootstrap_interval(torch.zeros(3), level=1)
