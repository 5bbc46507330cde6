"""The cells of a sweep: one addition at one layer each, and the unsteered model once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.positions import Pass
from steerkit.vectors import SteeringVector

EVERY = slice(None)


@dataclass(frozen=True, eq=False)
class Variant:
    """One way to run a question.

    Args:
        layer: Where the shift is added; `None` leaves the model as it is.
        coef: What the vector was multiplied by.
        shift: What is added, in the units of the stream.
    """

    layer: int | None
    coef: float
    shift: Float[Tensor, " hidden"] | None


UNSTEERED = Variant(None, 0.0, None)


def variants_of(vector: SteeringVector, layers: Sequence[int], coefs: Sequence[float]) -> list[Variant]:
    """The unsteered model, then every layer with every coefficient but 0, layer by layer."""
    steered = [Variant(layer, coef, coef * vector.at(layer)) for layer in layers for coef in coefs if coef != 0]
    return [UNSTEERED, *steered]


@dataclass(frozen=True, eq=False)
class Stretch:
    """Variants that follow each other and act at one layer."""

    layer: int
    first: int
    shifts: Float[Tensor, "variant hidden"]


def stretches(variants: Sequence[Variant]) -> Iterator[Stretch]:
    """The steered variants, gathered by layer; those of one layer follow each other."""
    by_layer: dict[int, list[int]] = {}
    for index, variant in enumerate(variants):
        if variant.layer is not None:
            by_layer.setdefault(variant.layer, []).append(index)
    for layer, found in by_layer.items():
        yield Stretch(layer, found[0], torch.stack([one for i in found if (one := variants[i].shift) is not None]))


@dataclass(frozen=True, eq=False)
class AddAt:
    """A hook that adds to some rows and columns, in float32 and out of place; all others stay as they are, bit for bit.

    Args:
        rows: Rows of the batch.
        columns: Columns of the pass.
        shift: Broadcast over `[row, column, hidden]`.
    """

    rows: slice
    columns: slice
    shift: Tensor

    @property
    def spec(self) -> dict[str, Any]:
        """The same as tensors and a name, for who carries it out elsewhere."""
        return {"operation": "add_at", "rows": self.rows, "columns": self.columns, "shift": self.shift}

    def __call__(self, hidden: Tensor, _: Pass) -> Tensor:
        """The changed activations."""
        changed = hidden.clone()
        there = hidden[self.rows, self.columns].float() + self.shift.to(hidden.device)
        changed[self.rows, self.columns] = there.to(hidden.dtype)
        return changed
