"""What steering does at each layer, and how sure it is that one layer is better than another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.evaluation.conventions import letter_mask, signed
from steerkit.evaluation.intervals import resampled_means, standard_error
from steerkit.tables import Cell, Table, Tabular


@dataclass(frozen=True, repr=False, eq=False)
class Effect(Tabular):
    """How far p(matching) moves between two coefficients, by layer.

    Args:
        layers: The layers.
        ends: The lower and the higher coefficient.
        items: The move of every item.
        mean: Mean move; in [-1, 1].
        stderr: Its paired standard error.
        wrong: Share of items that move against the mean.
        a_items: Mean move over items whose matching letter is A; NaN without any.
        b_items: The same for B.
    """

    layers: tuple[int, ...]
    ends: tuple[float, float]
    items: Float[Tensor, "layer item"]
    mean: Float[Tensor, " layer"]
    stderr: Float[Tensor, " layer"]
    wrong: Float[Tensor, " layer"]
    a_items: Float[Tensor, " layer"]
    b_items: Float[Tensor, " layer"]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, without the items."""
        numbers = {name: getattr(self, name).tolist() for name in ("mean", "stderr", "wrong", "a_items", "b_items")}
        return {"layers": list(self.layers), "ends": list(self.ends), **numbers}

    def table(self) -> Table:
        """What is shown of it."""
        names = ("mean", "stderr", "wrong", "a_items", "b_items")
        numbers = [[round(one, 4) for one in getattr(self, name).tolist()] for name in names]
        rows: list[list[Cell]] = [list(row) for row in zip(self.layers, *numbers, strict=True)]
        title = f"p(matching) at {signed(self.ends[1])} less that at {signed(self.ends[0])}"
        return Table(["layer", "effect", "±", "wrong way", "A-items", "B-items"], rows, title)


def effect_of(
    layers: Sequence[int],
    high: Float[Tensor, "layer item"],
    low: Float[Tensor, "layer item"],
    *,
    letters: Sequence[str],
    ends: tuple[float, float],
) -> Effect:
    """The paired difference of two columns of a grid, layer by layer."""
    move = high - low
    mean = move.mean(-1)
    wrong = ((move * torch.where(mean < 0, -1.0, 1.0).unsqueeze(-1)) < 0).double().mean(-1)
    by_letter = [move[:, letter_mask(letters, name)].mean(-1) for name in ("A", "B")]
    return Effect(tuple(layers), ends, move, mean, standard_error(move), wrong, *by_letter)


@dataclass(frozen=True, repr=False)
class BestLayer:
    """The layer with the largest effect.

    Args:
        layer: Where p(matching) moves most in the direction of the coefficient.
        effect: How far, in [-1, 1]. As the largest of several it is flattered; measure it again on other pairs.
        stderr: Its paired standard error.
        share: Share of bootstrap resamples of the items in which this layer wins.
        rivals: Layers whose effect a paired test does not tell from it (difference below 1.96 standard errors).
    """

    layer: int
    effect: float
    stderr: float
    share: float
    rivals: tuple[int, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"layer": self.layer, "effect": self.effect, "stderr": self.stderr, "share": self.share,
                "rivals": list(self.rivals)}  # fmt: skip

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>"

    def __repr__(self) -> str:
        rivals = (
            f"not told apart from layers {', '.join(map(str, self.rivals))}" if self.rivals else "ahead of all others"
        )
        return (
            f"best layer {self.layer}: effect {self.effect:.3f} ± {self.stderr:.3f}, first in {self.share:.0%} of "
            f"resamples; {rivals}"
        )


def best_layer(effect: Effect, *, seed: int = 0) -> BestLayer:
    """The layer with the largest mean effect, with a paired test against every other and a bootstrap over items.

    Args:
        effect: Of a sweep.
        seed: Of the bootstrap.
    """
    best = int(effect.mean.argmax())
    gap = effect.items[best] - effect.items
    apart = gap.mean(-1) > 1.96 * standard_error(gap)
    rivals = [layer for row, layer in enumerate(effect.layers) if row != best and not bool(apart[row])]
    wins = resampled_means(effect.items, seed=seed).argmax(0) == best
    return BestLayer(
        effect.layers[best],
        float(effect.mean[best]),
        float(effect.stderr[best]),
        float(wins.double().mean()),
        tuple(rivals),
    )
