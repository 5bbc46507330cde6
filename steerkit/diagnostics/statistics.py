"""How far two groups of numbers, or of points, lie apart: each statistic by its formula."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.extraction.shrinkage import solve_shrunk


def cosines(rows: Float[Tensor, "row hidden"], direction: Float[Tensor, " hidden"]) -> Float[Tensor, " row"]:
    r"""The cosine of each row with a direction, $h \cdot v / (|h| |v|)$, in [-1, 1]; 0 for a row of zeros.

    Example:
        >>> cosines(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([2.0, 0.0]))
        tensor([0.6000, 0.0000])
    """
    along = rows.double() @ direction.double()
    sizes = rows.double().norm(dim=-1) * direction.double().norm()
    return torch.where(sizes > 0, along / sizes.clamp(min=1e-300), 0.0).clamp(-1, 1).float()


def ranks(values: Float[Tensor, " value"]) -> Float[Tensor, " value"]:
    """Ranks from 1; equal values share the mean of theirs.

    Example:
        >>> ranks(torch.tensor([5.0, 1.0, 5.0]))
        tensor([2.5000, 1.0000, 2.5000], dtype=torch.float64)
    """
    _, place, counts = torch.unique(values, return_inverse=True, return_counts=True)
    middle: Tensor = counts.cumsum(0).double() - (counts.double() - 1) / 2
    return middle[place]


def auroc(
    positive: Float[Tensor, " pair"],
    negative: Float[Tensor, " pair"],
    *,
    swaps: Float[Tensor, "permutation pair"] | None = None,
) -> tuple[float, Float[Tensor, " permutation"]]:
    r"""The chance that a positive value lies above a negative one, $P(p^+ > p^-) + \tfrac12 P(p^+ = p^-)$.

    Taken over all $n^2$ combinations, not pair by pair.

    Args:
        positive: One value per pair.
        negative: Likewise.
        swaps: 1 where a permutation swaps the two sides of a pair, 0 where it does not.

    Returns:
        The statistic, and the same for each permutation: swapping sides moves labels, not ranks, so each costs one
        scalar product.

    Example:
        >>> auroc(torch.tensor([2.0, 4.0]), torch.tensor([1.0, 3.0]))[0]
        0.75
    """
    n = len(positive)
    placed = ranks(torch.cat([positive, negative]))
    high, low = placed[:n], placed[n:]
    base = high.sum()
    observed = float((base - n * (n + 1) / 2) / n**2)
    if swaps is None:
        return observed, torch.zeros(0, dtype=torch.float64)
    return observed, (base + swaps.double() @ (low - high) - n * (n + 1) / 2) / n**2


def d_prime(positive: Float[Tensor, " pair"], negative: Float[Tensor, " pair"]) -> float:
    r"""The sensitivity index $d' = (\bar p^+ - \bar p^-) / \sqrt{(s_+^2 + s_-^2) / 2}$, without unit.

    The variances are the unbiased ones. NaN with fewer than two pairs, or where nothing varies.

    Example:
        >>> round(d_prime(torch.tensor([3.0, 5.0]), torch.tensor([0.0, 2.0])), 4)
        2.1213
    """
    if len(positive) < 2:
        return float("nan")
    high, low = positive.double(), negative.double()
    spread = ((high.var() + low.var()) / 2).sqrt()
    return float((high.mean() - low.mean()) / spread) if spread > 0 else float("nan")


def silhouette(positive: Float[Tensor, "pair hidden"], negative: Float[Tensor, "pair hidden"]) -> float:
    r"""How much closer points lie to their own side than to the other: mean of $(b - a) / \max(a, b)$, in [-1, 1].

    $a$ is a point's mean Euclidean distance to the rest of its side, $b$ that to the other side. NaN for one pair.

    Source: Rousseeuw 1987; the same number as scikit-learn's `silhouette_score` with two clusters.

    Example:
        >>> round(silhouette(torch.tensor([[9.0], [9.0]]), torch.tensor([[0.0], [0.0]])), 6)
        1.0
    """
    n = len(positive)
    if n < 2:
        return float("nan")
    rows = torch.cat([positive, negative]).double()
    rows = rows - rows.mean(0)
    squares = rows.square().sum(1)
    apart = (squares[:, None] + squares[None] - 2 * rows @ rows.T).clamp(min=0)
    apart = apart.fill_diagonal_(0).sqrt()
    first, second = apart[:, :n].sum(1), apart[:, n:].sum(1)
    own = torch.cat([first[:n], second[n:]]) / (n - 1)
    other = torch.cat([second[:n], first[n:]]) / n
    most = torch.maximum(own, other)
    return float(torch.where(most > 0, (other - own) / most.clamp(min=1e-300), 0.0).mean())


def probe_accuracy(
    positive: Float[Tensor, "pair hidden"], negative: Float[Tensor, "pair hidden"], *, folds: int = 5, seed: int = 0
) -> float:
    r"""Share of activations that a linear probe puts on the right side, cross-validated; 0.5 is chance.

    The probe is Fisher's discriminant with a Ledoit-Wolf covariance, with its threshold halfway between the sides. The
    pairs are dealt to the folds at random, both sides of a pair to the same one, so no pair helps to judge itself. NaN
    with fewer than four pairs.

    Args:
        positive: One row per pair.
        negative: Likewise.
        folds: How many parts; no more than there are pairs.
        seed: Of the dealing.
    """
    n = len(positive)
    if n < 4:
        return float("nan")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    high, low = positive.double(), negative.double()
    right = 0.0
    for held in order.tensor_split(min(folds, n)):
        kept = torch.ones(n, dtype=torch.bool)
        kept[held] = False
        up, down = high[kept].mean(0), low[kept].mean(0)
        residuals = torch.cat([high[kept] - up, low[kept] - down])
        if not residuals.any():
            return float("nan")
        weights = solve_shrunk(residuals, up - down)
        threshold = weights @ (up + down) / 2
        for rows, sign in ((high[held], 1.0), (low[held], -1.0)):
            margin = sign * (rows @ weights - threshold)
            right += float((margin > 0).sum() + 0.5 * (margin == 0).sum())
    return right / (2 * n)
