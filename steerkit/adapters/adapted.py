"""A model with other weights, beside the model itself."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import TYPE_CHECKING

from steerkit.adapters.acting import Acting
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.errors import InputError

if TYPE_CHECKING:
    from steerkit.adapters.adapter import Adapter
    from steerkit.adapters.full import FullWeights


class Adapted(Acting):
    """A model with an adapter.

    Idle, it changes nothing. The adapter acts inside `with`, and inside its own `generate` and `forward`; afterwards
    the model is itself, bit for bit and module for module, also after an exception.

    Args:
        model: The base; it stays the baseline.
        weights: What acts.
        scale: Multiplies the adapter's change.

    Raises:
        InputError: `scale` is not finite, or not 1 for full weights.
    """

    def __init__(self, model: HuggingFaceModel, weights: Adapter | FullWeights, *, scale: float = 1.0) -> None:
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale):
            raise InputError(f"scale={scale!r} is not valid; give a finite number")
        super().__init__(model)
        self.weights = weights
        self.scale = float(scale)

    def __repr__(self) -> str:
        state = "acting" if self.active else "idle"
        return f"Adapted({self.model.info.name!r}, {self.weights!r}, scale={self.scale:g}, {state})"

    def _open(self, stack: ExitStack) -> None:
        from steerkit.adapters.attached import attach

        attached = stack.enter_context(attach(self.model, {"adapter": self.weights}))
        if self.scale != 0:
            attached.rescale("adapter", self.scale)
            stack.enter_context(attached.only("adapter"))
