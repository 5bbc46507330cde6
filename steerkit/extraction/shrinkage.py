"""A covariance that can be inverted although there are fewer rows than dimensions."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.errors import VectorError


def shrinkage(residuals: Float[Tensor, "row hidden"]) -> float:
    r"""How far to shrink the covariance toward a multiple of the identity, in [0, 1].

    The $a$ that minimizes the expected squared error of $(1 - a) S + a \mu I$, with $S = R^T R / n$ and
    $\mu = \mathrm{tr} S / p$.

    Args:
        residuals: Rows with mean zero.

    Source: Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices"; the same
    number as scikit-learn's `ledoit_wolf_shrinkage`, from whichever of the two Gram matrices is smaller.

    Example:
        >>> round(shrinkage(torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])), 3)
        0.944
    """
    return _shrinkage(residuals.double(), _gram(residuals.double()))


def solve_shrunk(residuals: Float[Tensor, "row hidden"], target: Float[Tensor, " hidden"]) -> Float[Tensor, " hidden"]:
    r"""Solve $((1 - a) S + a \mu I)\, x = b$ with the shrunk covariance of the residuals.

    With fewer rows than dimensions the small system of the Woodbury identity is solved instead.

    Args:
        residuals: Rows with mean zero.
        target: The right-hand side $b$.

    Raises:
        VectorError: All residuals are zero, so there is no covariance.

    Example:
        >>> rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> solve_shrunk(rows, torch.tensor([1.0, 2.0]))
        tensor([2., 4.])
    """
    rows, right = residuals.double(), target.double()
    n, p = rows.shape
    gram = _gram(rows)
    mu = float(gram.diagonal().sum()) / (n * p)
    if mu == 0:
        raise VectorError("the activations do not vary within the sides, so they have no covariance; give more pairs")
    share = _shrinkage(rows, gram)
    ridge, weight = share * mu, (1 - share) / n
    floor = max(ridge, 1e-10 * mu)
    if n >= p:
        return _solve(weight * gram + floor * torch.eye(p, dtype=torch.float64), right).to(target.dtype)
    inner = _solve(floor * torch.eye(n, dtype=torch.float64) + weight * gram, rows @ right)
    return ((right - weight * (rows.T @ inner)) / floor).to(target.dtype)


def _gram(rows: Tensor) -> Tensor:
    return rows @ rows.T if rows.shape[0] < rows.shape[1] else rows.T @ rows


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    return torch.cholesky_solve(right.unsqueeze(-1), torch.linalg.cholesky(matrix)).squeeze(-1)


def _shrinkage(rows: Tensor, gram: Tensor) -> float:
    n, p = rows.shape
    mu = float(gram.diagonal().sum()) / (n * p)
    squared = float((gram**2).sum()) / n**2
    fourth = float((rows**2).sum(1).square().sum()) / n
    spread = (squared - p * mu**2) / p
    noise = min((fourth - squared) / (n * p), spread)
    return 0.0 if noise <= 0 else noise / spread
