"""Directions of linear classifiers that tell the two sides apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.errors import InputError, VectorError
from steerkit.extraction.length import scale_to_gap, scale_to_mean
from steerkit.extraction.shrinkage import solve_shrunk, solve_summed
from steerkit.store import Paired
from steerkit.store.statistics import Moments


@dataclass(frozen=True)
class LogisticProbe:
    r"""The weights of a logistic regression that tells the two sides apart, as a direction.

    Minimizes $\tfrac12 |w|^2 + C \sum_i \log(1 + e^{-y_i (w \cdot x_i + b)})$ over both sides of every pair, where
    $x$ are the activations centered and divided by *one* number, their root mean square per dimension. So turning or
    scaling the activations turns or scales the vector alike, and separable sides do not blow it up. The length is the
    mean gap of the pairs along the direction, so a coefficient means what it means for the mean difference.

    Args:
        strength: The $C$ above, above 0; smaller is smoother, and closer to the mean difference.
        iterations: The most steps of the solver (L-BFGS).

    Raises:
        InputError: `strength` is not above 0.
        VectorError: The two sides do not differ along the direction.

    Source: linear probes (Alain and Bengio 2016, arXiv 1610.01644); scikit-learn's `LogisticRegression`.

    Example:
        >>> acts = Paired(torch.tensor([[1.0, 0.5], [1.0, -0.5]]), torch.tensor([[-1.0, 0.5], [-1.0, -0.5]]))
        >>> LogisticProbe()(acts).round(decimals=3)
        tensor([2., 0.])
    """

    strength: float = 1.0
    iterations: int = 5000

    def __post_init__(self) -> None:
        if not self.strength > 0:
            raise InputError(f"strength={self.strength!r} is not valid; give a number above 0")

    def __call__(self, acts: Paired) -> Float[Tensor, " hidden"]:
        from sklearn.linear_model import LogisticRegression

        rows = torch.cat([acts.positive, acts.negative]).double()
        rows = rows - rows.mean(0)
        size = rows.square().mean().sqrt()
        if size == 0:
            raise VectorError("the two sides have the same activations; there is nothing to tell apart")
        compact, back = _row_space(rows / size)
        sides = torch.cat([torch.ones(len(acts)), torch.zeros(len(acts))]).numpy()
        fitted = LogisticRegression(C=self.strength, max_iter=self.iterations, tol=1e-6)
        fitted.fit(compact.numpy(), sides)
        direction = torch.from_numpy(fitted.coef_[0]).double() @ back
        return scale_to_gap(direction, acts.positive.double() - acts.negative.double())


@dataclass(frozen=True)
class LinearDiscriminant:
    r"""Fisher's linear discriminant: $S^{-1} (\bar h^+ - \bar h^-)$ with a shrunk covariance $S$ within the sides.

    Dimensions that vary much within a side count less. $S$ is pooled over both sides and shrunk toward a multiple of
    the identity by the rule of Ledoit and Wolf. The length is the mean gap of the pairs along the direction, so a
    coefficient means what it means for the mean difference.

    Raises:
        VectorError: The activations do not vary within the sides (one pair alone), or the sides do not differ.

    Source: Fisher 1936; Ledoit and Wolf 2004. We differ from scikit-learn's `LinearDiscriminantAnalysis` in that the
    dimensions are not standardized before shrinking.

    Example:
        >>> acts = Paired(torch.tensor([[1.0, 0.5], [1.0, -0.5]]), torch.tensor([[-1.0, 0.5], [-1.0, -0.5]]))
        >>> LinearDiscriminant()(acts)
        tensor([2., 0.])
    """

    def __call__(self, acts: Paired) -> Float[Tensor, " hidden"]:
        positive, negative = acts.positive.double(), acts.negative.double()
        residuals = torch.cat([positive - positive.mean(0), negative - negative.mean(0)])
        direction = solve_shrunk(residuals, (positive - negative).mean(0))
        return scale_to_gap(direction, positive - negative)

    def from_moments(self, moments: Moments, *, sure: bool = True) -> Float[Tensor, " hidden"] | None:  # noqa: ARG002
        """The same from running statistics; `None` where they hold no covariances."""
        if moments.scatter is None:
            return None
        within, fourth = moments.scatter.within.sum(0), float(moments.scatter.fourth.sum())
        direction = solve_summed(within, fourth, moments.difference, rows=2 * moments.pairs)
        return scale_to_mean(direction, moments.difference)


def _row_space(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The rows in coordinates of their own span, and the way back: the penalty keeps the weights in there."""
    if rows.shape[0] >= rows.shape[1]:
        return rows, torch.eye(rows.shape[1], dtype=rows.dtype)
    left, sizes, right = torch.linalg.svd(rows, full_matrices=False)
    return left * sizes, right
