"""A linear probe for each of many heads, with its null: all of them at once."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def probe_heads(
    positive: Float[Tensor, "pair head size"],
    negative: Float[Tensor, "pair head size"],
    *,
    swaps: Float[Tensor, "permutation pair"],
    folds: int = 5,
    seed: int = 0,
) -> tuple[Float[Tensor, " head"], Float[Tensor, "permutation head"], Float[Tensor, "side head pair"]]:
    r"""Cross-validated accuracy of a linear probe on each head, and the same with the sides of pairs swapped.

    The probe is Fisher's discriminant, $w = S^{-1} (\bar h^+ - \bar h^-)$, with its threshold at the mean of both
    sides. $S$ is the Ledoit-Wolf covariance of both sides together. The covariance within the sides differs from it
    by a multiple of $(\bar h^+ - \bar h^-)(\bar h^+ - \bar h^-)^T$, which turns no direction, so the probe is the
    same but for how far $S$ is shrunk. And $S$ and the threshold do not change when sides are swapped: the probes of
    all permutations come from one factorization.

    Args:
        positive: The activations of each head.
        negative: Likewise.
        swaps: 1 where a permutation swaps the two sides of a pair, 0 where it does not.
        folds: How many parts; both sides of a pair go to the same one, so no pair helps to judge itself.
        seed: Of the dealing of pairs to folds.

    Returns:
        The accuracy, that of each permutation, and the probe's margins of the held-out activations.
    """
    n, heads = positive.shape[:2]
    sides = torch.stack([positive, negative]).double()
    signs = torch.cat([torch.ones(1, n), 1 - 2 * swaps]).double()
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    right = torch.zeros(heads, len(signs), dtype=torch.float64)
    margins = torch.zeros(2, heads, n, dtype=torch.float64)
    for held in order.tensor_split(min(folds, n)):
        kept = torch.ones(n, dtype=torch.bool)
        kept[held] = False
        known = sides[:, kept]
        center = known.mean((0, 1))
        rows = (known - center).flatten(0, 1).transpose(0, 1)
        by_pair = torch.linalg.solve(_covariances(rows), (known[0] - known[1]).permute(1, 2, 0)) / int(kept.sum())
        for side, label in ((0, 1.0), (1, -1.0)):
            each = (sides[side, held] - center).transpose(0, 1) @ by_pair @ signs[:, kept].T
            margins[side][:, held] = each[..., 0]
            signed = label * each * signs[:, held].T
            right += ((signed > 0).double() + 0.5 * (signed == 0)).sum(1)
    accuracy = right / (2 * n)
    return accuracy[:, 0], accuracy[:, 1:].T, margins


def _covariances(rows: Float[Tensor, "head row size"]) -> Float[Tensor, "head size size"]:
    """Of each head, shrunk toward a multiple of the identity by the rule of Ledoit and Wolf 2004."""
    _, n, p = rows.shape
    squares = rows.mT @ rows / n
    mu = squares.diagonal(dim1=-2, dim2=-1).mean(-1)
    fourth = rows.square().sum(-1).square().mean(-1)
    squared = squares.square().sum((-2, -1))
    spread = (squared - p * mu.square()) / p
    noise = torch.minimum((fourth - squared) / (n * p), spread).clamp(min=0)
    share = torch.where(spread > 0, noise / spread.clamp(min=1e-300), 0.0)
    floor = torch.where(mu > 0, torch.maximum(share * mu, 1e-10 * mu), 1.0)
    return (1 - share)[:, None, None] * squares + floor[:, None, None] * torch.eye(p, dtype=rows.dtype)
