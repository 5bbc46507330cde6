"""How far a share of items can be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from jaxtyping import Float
from torch import Tensor

from steerkit.errors import DataError


def wilson_interval(share: float, count: int, *, level: float = 0.95) -> tuple[float, float]:
    r"""Wilson's interval of a share $\hat p$ of $n$ items, which is right for few items and near 0 and 1.

    $$\frac{1}{1 + z^2/n} \left(\hat p + \frac{z^2}{2n} \pm z \sqrt{\frac{\hat p (1 - \hat p)}{n} + \frac{z^2}{4n^2}}
    \right)$$

    Args:
        share: In [0, 1]; ties may count half, which makes the interval a little too wide.
        count: Independent items, at least 1.
        level: Coverage, between 0 and 1.

    Raises:
        DataError: A number is out of range.

    Source: Wilson 1927.

    Example:
        >>> [round(end, 4) for end in wilson_interval(1.0, 10)]
        [0.7225, 1.0]
    """
    if count < 1 or not 0 <= share <= 1 or not 0 < level < 1:
        raise DataError(f"a share of {share!r} of {count} items at level={level!r} has no interval")
    z = NormalDist().inv_cdf((1 + level) / 2)
    scale = 1 + z * z / count
    middle = (share + z * z / (2 * count)) / scale
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / scale
    return min(max(middle - half, 0.0), share), max(min(middle + half, 1.0), share)


@dataclass(frozen=True)
class Rate:
    """A share of items with its 95 % interval.

    Args:
        share: In [0, 1].
        low: Where the interval begins.
        high: Where it ends.
        count: Items.
    """

    share: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, hits: Float[Tensor, " item"]) -> Rate:
        """The mean of what each item counts, from 0 to 1; NaN without any."""
        count = len(hits)
        if not count:
            return cls(math.nan, math.nan, math.nan, 0)
        share = min(float(hits.double().mean()), 1.0)
        return cls(share, *wilson_interval(share, count), count)
