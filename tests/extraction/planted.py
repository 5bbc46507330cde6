"""Stores with a direction put into them on purpose."""

from __future__ import annotations

import torch
from torch import Tensor

from steerkit.store import ActivationStore, Paired


def planted(
    *, pairs: int = 60, hidden: int = 16, gap: float = 3.0, noise: float = 0.5, seed: int = 0
) -> tuple[Paired, Tensor]:
    """Pairs with a common part, noise of their own on each side, and `gap` along the direction returned."""
    rng = torch.Generator().manual_seed(seed)
    direction = torch.randn(hidden, generator=rng)
    direction /= direction.norm()
    common = torch.randn(pairs, hidden, generator=rng)
    common -= (common @ direction).outer(direction)
    sides = [common + noise * torch.randn(pairs, hidden, generator=rng) for _ in range(2)]
    return Paired(sides[0] + gap / 2 * direction, sides[1] - gap / 2 * direction), direction


def store_of(acts: Paired, *, layer: int = 3) -> ActivationStore:
    return ActivationStore.from_layers({layer: acts}, ids=[f"pair-{i}" for i in range(len(acts))])


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.cosine_similarity(a.double(), b.double(), dim=0))
