from __future__ import annotations

import pytest
import torch
from planted import cosine, planted
from sklearn.linear_model import LogisticRegression

from steerkit.errors import InputError, VectorError
from steerkit.extraction import LinearDiscriminant, LogisticProbe
from steerkit.store import Paired


def gaussians(pairs: int = 20000, hidden: int = 6) -> tuple[Paired, torch.Tensor, torch.Tensor]:
    shape = torch.randn(hidden, hidden)
    covariance = shape @ shape.T + 0.5 * torch.eye(hidden)
    root, shift = torch.linalg.cholesky(covariance), torch.randn(hidden)
    noise = torch.randn(2, pairs, hidden) @ root.T
    return Paired(noise[0] + shift, noise[1]), covariance, shift


def test_lda_is_the_closed_form_on_gaussians() -> None:
    acts, covariance, shift = gaussians()
    best = torch.linalg.solve(covariance, shift)
    assert cosine(best, shift) < 0.9
    assert cosine(LinearDiscriminant()(acts), best) > 0.999


def test_logistic_finds_the_same_on_gaussians() -> None:
    acts, covariance, shift = gaussians()
    assert cosine(LogisticProbe()(acts), torch.linalg.solve(covariance, shift)) > 0.99


def test_lda_needs_variation() -> None:
    with pytest.raises(VectorError, match="give more pairs"):
        LinearDiscriminant()(Paired(torch.ones(1, 3), torch.zeros(1, 3)))


@pytest.mark.parametrize("hidden", [4, 200])
def test_logistic_is_scikit_learns_with_one_scale(hidden: int) -> None:
    acts, _ = planted(pairs=30, hidden=hidden, gap=1.0)
    rows = torch.cat([acts.positive, acts.negative]).double()
    rows -= rows.mean(0)
    rows /= rows.square().mean().sqrt()
    sides = torch.tensor([1] * 30 + [0] * 30)
    weights = LogisticRegression(C=1.0, max_iter=5000, tol=1e-8).fit(rows.numpy(), sides.numpy()).coef_[0]
    assert cosine(LogisticProbe()(acts), torch.from_numpy(weights)) > 0.9999


def test_separable_sides_do_not_blow_up() -> None:
    acts, direction = planted(pairs=20, hidden=100, gap=50.0, noise=0.01)
    vector = LogisticProbe()(acts)
    assert cosine(vector, direction) > 0.99
    assert float(vector.norm()) == pytest.approx(50, rel=0.02)


def test_strength_is_checked() -> None:
    with pytest.raises(InputError, match="strength=0 is not valid"):
        LogisticProbe(strength=0)
