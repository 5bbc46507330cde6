from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerkit.diagnostics.divergence import Divergence, token_divergence


@given(st.floats(-8, 8), st.floats(-8, 8))
@settings(max_examples=50, deadline=None)
def test_two_outcomes_have_a_closed_form(a: float, b: float) -> None:
    """With p = sigmoid(a) and q = sigmoid(b): p log(p / q) + (1 - p) log((1 - p) / (1 - q))."""
    p, q = 1 / (1 + math.exp(-a)), 1 / (1 + math.exp(-b))
    student, other = torch.tensor([[[a, 0.0]]]), torch.tensor([[[b, 0.0]]])
    found = float(token_divergence(student, other, torch.ones(1, 1, dtype=torch.bool)))
    closed = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert found == pytest.approx(closed, abs=2e-5, rel=1e-4)
    assert found >= 0


def test_only_the_tokens_of_the_mask_count() -> None:
    student, other = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    mask = torch.tensor([[True, False, True], [False, False, True]])
    found = token_divergence(student, other, mask)
    whole = token_divergence(student, other, torch.ones(2, 3, dtype=torch.bool)).view(2, 3)
    torch.testing.assert_close(found, whole[mask])
    assert len(token_divergence(student, other, torch.zeros(2, 3, dtype=torch.bool))) == 0


def test_the_direction_is_that_of_the_weights() -> None:
    """KL(p || q) is large where p is sure of what q rules out, not the other way round."""
    sure, even = torch.tensor([[[0.0, -30.0]]]), torch.tensor([[[0.0, 0.0]]])
    mask = torch.ones(1, 1, dtype=torch.bool)
    assert float(token_divergence(sure, even, mask)) == pytest.approx(math.log(2), abs=1e-5)
    assert float(token_divergence(even, sure, mask)) == pytest.approx(15 - math.log(2), abs=1e-4)


def test_a_short_loop_shows_in_the_root_mean_square() -> None:
    """One token of a hundred that goes wrong by 10 nats: the mean says 0.1, the root mean square 1."""
    found = Divergence.of([torch.zeros(60), torch.zeros(39), torch.tensor([10.0])])
    assert found == Divergence(mean=0.1, rms=1.0, p95=0.0, tokens=100)
    assert Divergence.of([torch.arange(1.0, 101.0)]).p95 == 95


def test_without_tokens_there_is_no_number() -> None:
    empty = Divergence.of([])
    assert math.isnan(empty.mean)
    assert empty.tokens == 0
    assert empty.cells == [None, None, None, 0]
