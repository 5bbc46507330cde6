"""Linear problems whose best answer is known, trained through the same loop and losses as any adapter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from steerkit.training.distilling.losses import state_loss
from steerkit.training.fitting.fit import Fit
from steerkit.training.fitting.loop import train

TOKENS, INPUTS, OUTPUTS = 48, 6, 5


def _inputs() -> Tensor:
    return torch.randn(TOKENS, INPUTS, dtype=torch.float64) + 0.5


def _trained(inputs: Tensor, targets: Tensor, *, rank: int, accumulate: int = 1) -> tuple[float, Tensor]:
    """The last loss and the change of the weight, of a LoRA of this rank."""
    down = nn.Parameter(torch.randn(rank, inputs.shape[1], dtype=torch.float64))
    up = nn.Parameter(torch.zeros(targets.shape[1], rank, dtype=torch.float64))

    def step(piece: list[int], batch: list[int]) -> tuple[Tensor, dict[str, float]]:
        moved = inputs[piece] @ (up @ down).T
        terms = state_loss("mse", moved.unsqueeze(0), targets[piece].unsqueeze(0))
        return terms.sum() / len(batch), {}

    fit = Fit(steps=1000, lr=0.1, batch=TOKENS, schedule="cosine", clip=None, accumulate=accumulate)
    curve = train([down, up], TOKENS, step, fit=fit, progress=False)
    return curve.loss[-1], (up @ down).detach()


@pytest.mark.parametrize("rank", [1, 4])
def test_a_constant_shift_reaches_its_floor_and_the_best_weights_are_of_rank_one(rank: int) -> None:
    inputs, shift, alpha = _inputs(), torch.randn(OUTPUTS, dtype=torch.float64), 5.0
    mean, second = inputs.mean(0), inputs.T @ inputs / TOKENS
    best = torch.linalg.solve(second, mean)
    floor = float(alpha**2 * shift.square().sum() * (1 - mean @ best))
    loss, change = _trained(inputs, alpha * shift.expand(TOKENS, -1), rank=rank)
    assert loss == pytest.approx(floor, rel=1e-8)
    torch.testing.assert_close(change, alpha * torch.outer(shift, best), rtol=1e-4, atol=1e-4)


def test_a_constant_feature_lets_a_constant_shift_be_reached_whole() -> None:
    inputs = torch.cat([_inputs(), torch.ones(TOKENS, 1, dtype=torch.float64)], dim=1)
    shift = torch.randn(OUTPUTS, dtype=torch.float64)
    loss, _ = _trained(inputs, shift.expand(TOKENS, -1), rank=2)
    assert loss < 1e-8 * float(shift.square().sum())


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_shifts_by_token_reach_the_floor_of_reduced_rank_regression(rank: int) -> None:
    inputs, targets = _inputs(), torch.randn(TOKENS, OUTPUTS, dtype=torch.float64)
    row_space = inputs @ torch.linalg.pinv(inputs)
    kept = torch.linalg.svdvals(row_space @ targets)[:rank].square().sum()
    floor = float((targets.square().sum() - kept) / TOKENS)
    loss, _ = _trained(inputs, targets, rank=rank)
    assert loss == pytest.approx(floor, rel=1e-8)
