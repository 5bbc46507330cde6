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
    rows = residuals.double()
    return _shrinkage(_gram(rows), _fourth(rows), n=rows.shape[0], p=rows.shape[1])


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
    gram, fourth = _gram(rows), _fourth(rows)
    if n >= p:
        return solve_summed(gram, fourth, right, rows=n).to(target.dtype)
    floor, weight = _weights(gram, fourth, n=n, p=p)
    inner = _solve(floor * torch.eye(n, dtype=torch.float64) + weight * gram, rows @ right)
    return ((right - weight * (rows.T @ inner)) / floor).to(target.dtype)


def solve_summed(
    squares: Float[Tensor, "hidden hidden"], fourth: float, target: Float[Tensor, " hidden"], *, rows: int
) -> Float[Tensor, " hidden"]:
    r"""The same from sums over the residuals.

    Args:
        squares: $R^T R$.
        fourth: $\sum_i |r_i|^4$.
        target: The right-hand side $b$.
        rows: How many residuals.

    Raises:
        VectorError: All residuals are zero, so there is no covariance.
    """
    p = squares.shape[0]
    floor, weight = _weights(squares, fourth, n=rows, p=p)
    return _solve(weight * squares + floor * torch.eye(p, dtype=torch.float64), target.double())


def _weights(gram: Tensor, fourth: float, *, n: int, p: int) -> tuple[float, float]:
    """What the identity and the sum of squares count in the shrunk covariance."""
    mu = float(gram.diagonal().sum()) / (n * p)
    if mu == 0:
        raise VectorError("the activations do not vary within the sides, so they have no covariance; give more pairs")
    share = _shrinkage(gram, fourth, n=n, p=p)
    return max(share * mu, 1e-10 * mu), (1 - share) / n


def _gram(rows: Tensor) -> Tensor:
    return rows @ rows.T if rows.shape[0] < rows.shape[1] else rows.T @ rows


def _fourth(rows: Tensor) -> float:
    return float((rows**2).sum(1).square().sum())


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    return torch.cholesky_solve(right.unsqueeze(-1), torch.linalg.cholesky(matrix)).squeeze(-1)


def _shrinkage(gram: Tensor, fourth: float, *, n: int, p: int) -> float:
    mu = float(gram.diagonal().sum()) / (n * p)
    squared = float((gram**2).sum()) / n**2
    spread = (squared - p * mu**2) / p
    noise = min((fourth / n - squared) / (n * p), spread)
    return 0.0 if noise <= 0 else noise / spread
