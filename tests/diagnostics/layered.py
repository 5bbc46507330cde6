"""Stores in which the two sides part from a known layer on."""

from __future__ import annotations

import torch

from steerkit.store import ActivationStore, Paired


def layered(
    *, onset: int | None, layers: int = 8, pairs: int = 80, hidden: int = 12, gap: float = 4.0, seed: int = 0
) -> ActivationStore:
    rng = torch.Generator().manual_seed(seed)
    direction = torch.randn(hidden, generator=rng)
    direction /= direction.norm()
    found = {}
    for layer in range(layers):
        sides = torch.randn(2, pairs, hidden, generator=rng)
        shift = gap / 2 * direction if onset is not None and layer >= onset else torch.zeros(hidden)
        found[layer] = Paired(sides[0] + shift, sides[1] - shift)
    letters = ["A" if i % 2 else "B" for i in range(pairs)]
    return ActivationStore.from_layers(found, ids=[f"pair-{i}" for i in range(pairs)], letters=letters)


def swapped(store: ActivationStore) -> ActivationStore:
    sides = {layer: Paired(store[layer].negative, store[layer].positive) for layer in store.layers}
    return ActivationStore.from_layers(sides, ids=store.ids)
