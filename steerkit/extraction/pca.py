"""The leading direction of the pairs' differences."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.errors import VectorError
from steerkit.extraction.length import scale_to_gap, scale_to_mean
from steerkit.store import Paired
from steerkit.store.statistics import Moments

NO_DIFFERENCE = "all differences are zero; the two sides of the pairs have the same activations here"


@dataclass(frozen=True)
class PCA:
    r"""The direction that carries most of the pairs' differences, $u = \arg\max_{|u|=1} \sum_i (d_i \cdot u)^2$.

    The differences are *not* centered: their mean is the concept, and centering removes it. The sign is the one that
    most pairs agree with ($d_i \cdot u > 0$; a tie goes to the mean). The length is the mean gap of the pairs along
    $u$, so a coefficient means what it means for the mean difference.

    In multiple-choice pairs the answer's letter can be the largest part of every difference. It cancels in the mean,
    but not here: compare with the mean difference, or read elsewhere.

    Source: RepE (Zou et al. 2023, arXiv 2310.01405), section 3.1, reads a direction from the differences' first
    component. We differ: no centering, and the sign comes from the pairs.

    Example:
        >>> PCA()(Paired(torch.tensor([[2.0, 1.0], [4.0, 2.0]]), torch.zeros(2, 2)))
        tensor([3.0000, 1.5000])
    """

    def __call__(self, acts: Paired) -> Float[Tensor, " hidden"]:
        differences = acts.positive.double() - acts.negative.double()
        direction, _ = leading_direction(differences)
        along = differences @ direction
        votes = along.sign().sum()
        sign = votes if votes != 0 else along.sum()
        return scale_to_gap(direction if sign >= 0 else -direction, differences)

    def from_moments(self, moments: Moments, *, sure: bool = True) -> Float[Tensor, " hidden"] | None:
        r"""The same from running statistics, which know the differences' scatter but not each pair's sign.

        A mean that is larger than the standard deviation has the majority on its side (at most half of the pairs lie
        more than one standard deviation away on one side, Cantelli 1928). Otherwise the sign is that of the mean.

        Args:
            moments: With covariances.
            sure: Give nothing where the majority cannot be known.

        Returns:
            The vector; `None` where the statistics are not enough.
        """
        if moments.scatter is None:
            return None
        squares = moments.scatter.differences
        direction, _ = leading_axis(squares)
        mean = float(moments.difference @ direction)
        variance = float(direction @ squares @ direction) / moments.pairs - mean**2
        if sure and mean**2 <= variance:
            return None
        return scale_to_mean(direction if mean >= 0 else -direction, moments.difference)


def leading_direction(rows: Float[Tensor, "row hidden"]) -> tuple[Float[Tensor, " hidden"], float]:
    r"""The first right singular vector of the rows as they are, and its share $\sigma_1^2 / \sum_k \sigma_k^2$.

    Args:
        rows: Not centered here.

    Raises:
        VectorError: All rows are zero.

    Example:
        >>> round(leading_direction(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))[1], 6)
        0.9
    """
    table = rows.double()
    if table.shape[0] >= table.shape[1]:
        scale = table.abs().max().clamp(min=1e-300)
        return leading_axis((table / scale).T @ (table / scale))
    scale = table.abs().max()
    if scale == 0:
        raise VectorError(NO_DIFFERENCE)
    table = table / scale
    squares, axes = torch.linalg.eigh(table @ table.T)
    top = table.T @ axes[:, -1]
    return top / top.norm(), float(squares[-1] / squares.sum())


def leading_axis(squares: Float[Tensor, "hidden hidden"]) -> tuple[Float[Tensor, " hidden"], float]:
    r"""The same from the sum of squares $R^T R$ of the rows.

    Raises:
        VectorError: All rows are zero.
    """
    scale = squares.abs().max()
    if scale == 0:
        raise VectorError(NO_DIFFERENCE)
    found, axes = torch.linalg.eigh(squares.double() / scale)
    return axes[:, -1], float(found[-1] / found.sum())
