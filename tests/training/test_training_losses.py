"""Losses against naive code, and where they must be exactly nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from steerkit.errors import InputError
from steerkit.training.distilling.losses import (
    Objective,
    cosines,
    divergence,
    retain_loss,
    root_mean_squares,
    state_loss,
)

KINDS = ("l2", "mse", "rel_mse", "cosine")


def _shapes() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, 5, 8, dtype=torch.float64), torch.randn(2, 5, 8, dtype=torch.float64)


def test_each_loss_is_what_its_name_says() -> None:
    moved, shift = _shapes()
    scale = shift.square().sum(-1).mean(-1)
    for layer in range(2):
        for token in range(5):
            s, v = moved[layer, token], shift[layer, token]
            at = (layer, token)
            assert float(state_loss("l2", moved, shift)[at]) == pytest.approx(float((s - v).norm()))
            assert float(state_loss("mse", moved, shift)[at]) == pytest.approx(float((s - v).pow(2).sum()))
            relative = float((s - v).pow(2).sum() / scale[layer])
            assert float(state_loss("rel_mse", moved, shift, scale=scale)[at]) == pytest.approx(relative)
            cosine = float(functional.cosine_similarity(s, v, dim=0))
            assert float(cosines(moved, shift)[at]) == pytest.approx(cosine)
            assert float(state_loss("cosine", moved, shift)[at]) == pytest.approx(1 - cosine, abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_wanted_and_nothing_moved_is_zero_with_zero_gradient(kind: Any) -> None:
    moved, shift = torch.zeros(1, 3, 4, requires_grad=True), torch.zeros(1, 3, 4)
    loss = state_loss(kind, moved, shift, scale=torch.zeros(1)).sum() + retain_loss(kind, moved).sum()
    loss.backward()
    assert float(loss.detach()) == 0
    assert moved.grad is not None
    assert torch.equal(moved.grad, torch.zeros_like(moved))


@pytest.mark.parametrize("kind", KINDS)
def test_before_training_every_loss_has_a_slope_towards_the_shift(kind: Any) -> None:
    moved, shift = torch.zeros(1, 3, 4, requires_grad=True), torch.randn(1, 3, 4)
    state_loss(kind, moved, shift, scale=torch.ones(1)).sum().backward()
    assert moved.grad is not None
    assert bool(moved.grad.isfinite().all())
    torch.testing.assert_close(cosines(-moved.grad, shift), torch.ones(1, 3))


def test_the_divergence_is_that_of_torch() -> None:
    p, q = torch.randn(4, 9).log_softmax(-1), torch.randn(4, 9).log_softmax(-1)
    expected = functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(divergence(p, q), expected)


def test_root_mean_squares_see_what_a_mean_hides() -> None:
    scope = torch.tensor([[True, True, True, True], [False, True, True, False], [False] * 4])
    values = torch.tensor([0.0, 0.0, 0.0, 4.0, 1.0, 1.0], requires_grad=True)
    found = root_mean_squares(values, scope)
    assert found.tolist() == pytest.approx([2.0, 1.0, 0.0])
    root_mean_squares(values * 0, scope).sum().backward()
    assert values.grad is not None
    assert bool(values.grad.isfinite().all())


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"loss": "l1"}, "loss='l1' is not known"),
        ({"retain": -1}, "retain=-1"),
        ({"output": float("inf")}, "output=inf"),
        ({"guard": float("nan")}, "guard=nan"),
        ({"guard": None}, "guard=None"),
    ],
)
def test_objectives_out_of_range_are_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        Objective(**change)
