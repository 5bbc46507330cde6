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
QUESTIONS = 48
NEARLY = 0.1
"""A weaker push that is worse by no more than this is taken instead: it disturbs less of what else is said."""


@dataclass(frozen=True)
class Choice:
    """The layer and the strengths, and the sweeps on training topics they were taken from."""

    layer: int
    coefs: Mapping[str, float]
    grids: Mapping[str, Sweep]


def choose(model: Any, vectors: Mapping[str, SteeringVector], pairs: Mapping[str, Pairs]) -> Choice:
    """The layer and strengths with the best worst case.

    A layer is as good as its weakest behavior: how far p(matching) moves from one half on both sides, at the best
    strength. A strength is as good as its weakest side, over choices and sampled open answers, the share that still
    parses and stays on topic included; the smallest strength that is nearly the best is taken.

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
    layer = max(letters, key=lambda layer: min(max(by.values()) for by in letters[layer].values()))
    strengths = {name: _best_strength(model, name, vectors[name], layer, letters[layer][name]) for name in vectors}
    return Choice(layer, strengths, grids)


def _margin(low: float, high: float) -> float:
    """How far the weaker of two sides is from one half, from 0 to 1."""
    return min(high - 0.5, 0.5 - low) * 2


def _margin_of_letters(grid: Sweep, layer: int, strength: float) -> float:
    low, high = (grid.at(layer=layer, coef=c).p_matching for c in (-strength, strength))
    return _margin(low, high)


def _best_strength(model: Any, name: str, vector: SteeringVector, layer: int, letters: Mapping[float, float]) -> float:
    """Strengths whose choices alone fall short of the best are not tried on open answers.

    What choices give is the most that a strength can be worth, so some are settled without being heard.
    """
    worth = {strength: margin for strength, margin in letters.items() if margin >= max(letters.values()) - 2 * NEARLY}
    heard: set[float] = set()

    def hear(strength: float) -> None:
        low, high = (
            score_open(model, name, vector=vector, layer=layer, coef=c, split="train", count=QUESTIONS)
            for c in (-strength, strength)
        )
        worth[strength] = min(worth[strength], _margin(low.positive, high.positive), low.on_topic, high.on_topic)
        heard.add(strength)

    def is_nearly_best(strength: float) -> bool:
        if strength not in heard:
            hear(strength)
        while max(worth[one] for one in heard) - NEARLY <= worth[strength] < max(worth.values()) - NEARLY:
            hear(max(worth.keys() - heard, key=worth.__getitem__))
        return worth[strength] >= max(worth.values()) - NEARLY

    return next(strength for strength in sorted(worth) if is_nearly_best(strength))
