"""What a win rate would be at equal lengths."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.errors import DataError

STRENGTH = 100.0
"""How much the data weigh against a coefficient of 0; scikit-learn calls it `C`."""
STEPS = 60
"""Of Newton's method. It moves by at most 1 a step, and log-odds stay well below 60."""


def length_controlled(
    preference: Float[Tensor, " item"], longer: Float[Tensor, " item"], *, resamples: int = 0, seed: int = 0
) -> Float[Tensor, " fit"]:
    r"""The win rate at equal lengths, by the minimal generalized linear model.

    $P(\text{win}_i) = \sigma(\theta + \phi \tanh(d_i / s))$, where $d_i$ is how much longer the answer is and $s$ its
    standard deviation; the result is $\sigma(\theta)$, the prediction at $d = 0$. Where nearly all answers are longer
    (or shorter) that is an extrapolation, and what is due to length is not all taken away.

    Args:
        preference: How probable it is that the answer wins, in [0, 1].
        longer: How much longer it is, in any unit.
        resamples: Also the same of so many bootstrap resamples of the items.
        seed: Of the resamples.

    Returns:
        The win rate, then that of each resample.

    Raises:
        DataError: No items, or not one length an item.

    Source: Dubois et al. 2024 (length-controlled AlpacaEval), equation 2. This is not "AlpacaEval 2 LC": that one also
    has the difficulty of each instruction, and is regularized on gamed baselines.

    Example:
        >>> win, gap = torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.tensor([5.0, 7.0, -7.0, -5.0])
        >>> round(float(length_controlled(win, gap)), 2)
        0.5
    """
    if preference.shape != longer.shape or not len(preference):
        raise DataError(f"{len(preference)} preferences and {len(longer)} lengths; give one of each an item")
    target, gap = preference.double(), longer.double()
    spread = float(gap.std(unbiased=False)) or 1.0
    features = torch.stack([torch.tanh(gap / spread), torch.ones_like(gap)], dim=-1)
    weights = torch.ones(1, len(target), dtype=torch.float64)
    if resamples:
        weights = torch.cat([weights, _draws(len(target), resamples, seed)])
    return torch.sigmoid(_fit(features, target, weights)[:, 1])


def _draws(count: int, resamples: int, seed: int) -> Float[Tensor, "resample item"]:
    """How often each item is drawn, with replacement."""
    drawn = torch.randint(count, (resamples, count), generator=torch.Generator().manual_seed(seed))
    times = torch.zeros(resamples, count, dtype=torch.float64)
    return times.scatter_add_(1, drawn, torch.ones(drawn.shape, dtype=torch.float64))


def _fit(features: Tensor, target: Tensor, weights: Tensor) -> Float[Tensor, "fit two"]:
    """Logistic regression with a small ridge, one for each row of weights, by Newton's method with bounded steps."""
    found = torch.zeros(len(weights), 2, dtype=torch.float64)
    for _ in range(STEPS):
        chance = torch.sigmoid(found @ features.T)
        slope = found + STRENGTH * ((weights * (chance - target)) @ features)
        curve = torch.eye(2, dtype=torch.float64) + STRENGTH * torch.einsum(
            "fi,ij,ik->fjk", weights * chance * (1 - chance), features, features
        )
        step = torch.linalg.solve(curve, slope.unsqueeze(-1)).squeeze(-1)
        size = torch.linalg.vector_norm(step, dim=-1, keepdim=True)
        found = found - step / size.clamp(min=1.0)
    return found
