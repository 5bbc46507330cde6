"""How far a mean can be trusted: standard errors, bootstrap intervals, paired differences."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.errors import DataError
from steerkit.tables import Cell, Table, Tabular


def standard_error(values: Float[Tensor, "*rest item"]) -> Float[Tensor, "*rest"]:
    r"""The standard error of the mean over items: $s / \sqrt n$, with $n - 1$ in $s$; NaN for a single item.

    Example:
        >>> round(float(standard_error(torch.tensor([0.0, 1.0, 2.0, 3.0]))), 4)
        0.6455
    """
    count = values.shape[-1]
    if count < 2:
        return torch.full(values.shape[:-1], float("nan"), dtype=values.dtype)
    spread: Tensor = values.std(dim=-1)
    return spread / math.sqrt(count)


def resampled_means(
    values: Float[Tensor, "*rest item"], *, resamples: int = 2000, seed: int = 0
) -> Float[Tensor, "*rest resample"]:
    """Means over items drawn with replacement; the same seed draws the same items for every row.

    Args:
        values: One number an item.
        resamples: How many times the items are drawn, at least 1.
        seed: Of the draws.

    Raises:
        DataError: No items.
    """
    count = values.shape[-1]
    if count == 0:
        raise DataError("no items to draw from; give at least one")
    draws = torch.randint(count, (resamples, count), generator=torch.Generator().manual_seed(seed))
    weights = torch.zeros(resamples, count, dtype=values.dtype)
    weights.scatter_add_(1, draws, torch.ones(draws.shape, dtype=values.dtype))
    means: Tensor = values @ weights.T / count
    return means


def bootstrap_interval(
    values: Float[Tensor, " item"], *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The percentile bootstrap interval of a mean: items are drawn with replacement.

    Args:
        values: One number an item.
        level: Share of the resampled means inside, between 0 and 1.
        resamples: How many times the items are drawn.
        seed: The same seed gives the same interval.

    Raises:
        DataError: No items, or a level outside 0 to 1.

    Source: Efron and Tibshirani 1993, chapter 13.

    Example:
        >>> low, high = bootstrap_interval(torch.tensor([0.2, 0.4, 0.6, 0.8]))
        >>> 0.2 <= low < 0.5 < high <= 0.8
        True
    """
    if not 0 < level < 1:
        raise DataError(f"level={level!r} is not a share between 0 and 1")
    means = resampled_means(values.double(), resamples=resamples, seed=seed)
    ends = torch.quantile(means, torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=means.dtype))
    return float(ends[0]), float(ends[1])


@dataclass(frozen=True, repr=False)
class Difference(Tabular):
    """How much two conditions differ on the same items.

    Args:
        mean: Mean of the items' differences.
        stderr: Its paired standard error.
        interval: Its 95 % bootstrap interval.
        wrong: Share of items that move against the mean.
        count: Items.
    """

    mean: float
    stderr: float
    interval: tuple[float, float]
    wrong: float
    count: int

    def table(self) -> Table:
        """What is shown of it."""
        low, high = self.interval
        rows: list[list[Cell]] = [[self.mean, self.stderr, low, high, self.wrong, self.count]]
        return Table(["difference", "±", "95 % from", "to", "wrong way", "items"], rows)


def paired_difference(after: Float[Tensor, " item"], before: Float[Tensor, " same"], *, seed: int = 0) -> Difference:
    r"""The mean of $d_i = a_i - b_i$ with its paired standard error $s_d / \sqrt n$.

    Args:
        after: One number an item.
        before: The same items under the other condition.
        seed: Of the bootstrap.

    Raises:
        DataError: The two do not hold the same number of items, or none.

    Example:
        >>> d = paired_difference(torch.tensor([0.9, 0.8, 0.4]), torch.tensor([0.5, 0.5, 0.5]))
        >>> round(d.mean, 3), round(d.wrong, 3)
        (0.2, 0.333)
    """
    if after.shape != before.shape or after.numel() == 0:
        raise DataError(f"{after.numel()} and {before.numel()} items; a paired difference needs the same items twice")
    change = after.double() - before.double()
    mean = float(change.mean())
    wrong = float((change < 0 if mean >= 0 else change > 0).double().mean())
    return Difference(mean, float(standard_error(change)), bootstrap_interval(change, seed=seed), wrong, len(change))
