"""Running sums over tokens: how far states were to move, and how far they moved."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

NAMES = ("tokens", "base", "wanted", "realized", "missed", "cosine", "cosines", "prompt", "prompt_tokens", "later",
         "later_tokens", "neutral", "neutral_tokens")  # fmt: skip


class ShiftSums:
    """Sums by layer, in float64; nothing of a batch is kept.

    Args:
        layers: The layers that are measured.
    """

    def __init__(self, layers: Sequence[int]) -> None:
        self.layers = tuple(layers)
        self._sums = {name: torch.zeros(len(layers), dtype=torch.float64) for name in NAMES}

    def add_scope(
        self,
        layer: int,
        base: Float[Tensor, "token hidden"],
        wanted: Float[Tensor, "token hidden"],
        realized: Float[Tensor, "token hidden"],
    ) -> None:
        """Tokens in scope: their states, how these were to move, and how they moved."""
        w, s = wanted.double(), realized.double()
        length, moved = w.norm(dim=-1), s.norm(dim=-1)
        aimed = length > 0
        cosine = (w * s).sum(-1) / (length * moved)
        self._add(layer, tokens=len(w), base=base.double().norm(dim=-1).sum(), wanted=length.sum(),
                  realized=moved.sum(), missed=(s - w).norm(dim=-1).sum(), cosines=aimed.sum(),
                  cosine=torch.where(aimed & (moved > 0), cosine, 0.0).sum())  # fmt: skip

    def add_outside(self, layer: int, group: str, astray: Float[Tensor, "token hidden"]) -> None:
        """Tokens of another group (`"prompt"`, `"later"` or `"neutral"`): how far they moved that were not to."""
        sums = {group: astray.double().norm(dim=-1).sum(), f"{group}_tokens": len(astray)}
        self._add(layer, **sums)

    def mean(self, name: str, *, per: str = "tokens") -> Float[Tensor, " layer"]:
        """A sum over the tokens that it is of; NaN without any."""
        return (self._sums[name] / self._sums[per]).float()

    def ratio(self, name: str) -> Float[Tensor, " layer"]:
        """A sum over that of the wanted lengths; NaN where nothing was wanted."""
        wanted = self._sums["wanted"]
        return torch.where(wanted > 0, self._sums[name] / wanted, torch.nan).float()

    @property
    def tokens(self) -> int:
        """Tokens in scope."""
        return int(self._sums["tokens"][0])

    def _add(self, layer: int, **sums: Tensor | int) -> None:
        row = self.layers.index(layer)
        for name, value in sums.items():
            self._sums[name][row] += float(value)


def add_shifts(
    sums: ShiftSums,
    layer: int,
    states: tuple[Tensor, Tensor, Tensor],
    masks: tuple[Bool[Tensor, "batch pos"], Bool[Tensor, "batch pos"], Bool[Tensor, "batch pos"]],
) -> None:
    """Every token of a batch, each in its group.

    Args:
        sums: What it is added to.
        layer: Where.
        states: Base, wanted shift and realized shift, `[batch, pos, hidden]`.
        masks: Which tokens are in scope, of the prompt, and later.
    """
    base, wanted, realized = states
    scope, prompt, later = (mask.to(base.device) for mask in masks)
    sums.add_scope(layer, base[scope], wanted[scope], realized[scope])
    for name, mask in (("prompt", prompt), ("later", later)):
        sums.add_outside(layer, name, realized[mask] - wanted[mask])
