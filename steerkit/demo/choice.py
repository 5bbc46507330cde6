"""Choosing one layer for all behaviors and a strength for each, on training topics only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from steerkit.data.pairs import Pairs
from steerkit.demo.answers import score_open
from steerkit.evaluation import Sweep, sweep
from steerkit.vectors import SteeringVector

STRENGTHS = (0.25, 0.375, 0.5, 0.625, 0.75, 1.0)
LAYERS_TRIED = 2
QUESTIONS = 64


@dataclass(frozen=True)
class Choice:
    """The layer and the strengths, and the sweeps on training topics they were taken from."""

    layer: int
    coefs: Mapping[str, float]
    grids: Mapping[str, Sweep]


def choose(model: Any, vectors: Mapping[str, SteeringVector], pairs: Mapping[str, Pairs]) -> Choice:
    """The layer and strengths with the best worst case.

    A strength is as good as its weakest side: how far p(matching) and the open answers move either way from one half,
    and how many answers still parse and stay on topic. A layer is as good as its weakest behavior. Open answers are
    sampled only at the layers where the choices move most.

    Args:
        model: The embedded model.
        vectors: By behavior.
        pairs: By behavior, training pairs that the vector was not extracted from.
    """
    coefs = (*(-s for s in reversed(STRENGTHS)), *STRENGTHS)
    grids = {name: sweep(model, v, pairs[name], coefs=coefs, progress=False) for name, v in vectors.items()}
    letters = {
        layer: {name: {s: _margin_of_letters(grid, layer, s) for s in STRENGTHS} for name, grid in grids.items()}
        for layer in next(iter(grids.values())).layers
    }
    order = sorted(letters, key=lambda layer: min(max(by.values()) for by in letters[layer].values()), reverse=True)
    best: tuple[float, int, dict[str, float]] = (-2.0, order[0], {})
    for layer in order[:LAYERS_TRIED]:
        chosen = {name: _best_strength(model, name, vectors[name], layer, letters[layer][name]) for name in vectors}
        worst = min(margin for margin, _ in chosen.values())
        if worst > best[0]:
            best = (worst, layer, {name: strength for name, (_, strength) in chosen.items()})
    return Choice(best[1], best[2], grids)


def _margin(low: float, high: float) -> float:
    """How far the weaker of two sides is from one half, from 0 to 1."""
    return min(high - 0.5, 0.5 - low) * 2


def _margin_of_letters(grid: Sweep, layer: int, strength: float) -> float:
    low, high = (grid.at(layer=layer, coef=c).p_matching for c in (-strength, strength))
    return _margin(low, high)


def _best_strength(
    model: Any, name: str, vector: SteeringVector, layer: int, letters: Mapping[float, float]
) -> tuple[float, float]:
    best = (-2.0, STRENGTHS[0])
    for strength, margin in letters.items():
        if margin <= best[0]:
            continue
        low, high = (
            score_open(model, name, vector=vector, layer=layer, coef=c, split="train", count=QUESTIONS)
            for c in (-strength, strength)
        )
        worst = min(margin, _margin(low.positive, high.positive), low.on_topic, high.on_topic)
        best = max(best, (worst, strength))
    return best
