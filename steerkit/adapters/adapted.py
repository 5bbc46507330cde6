"""A model with other weights, beside the model itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from steerkit.backends.base import Batch, Prefix
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.data.chat import PromptLike
from steerkit.errors import InputError, SteeringError

if TYPE_CHECKING:
    from steerkit.adapters.adapter import Adapter
    from steerkit.adapters.full import FullWeights


class Adapted:
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
        self.model = model
        self.weights = weights
        self.scale = float(scale)
        self._stack: ExitStack | None = None

    def __repr__(self) -> str:
        state = "acting" if self.active else "idle"
        return f"Adapted({self.model.info.name!r}, {self.weights!r}, scale={self.scale:g}, {state})"

    @property
    def active(self) -> bool:
        """The adapter acts at this moment."""
        return self._stack is not None

    def __enter__(self) -> Adapted:
        from steerkit.adapters.attached import attach

        if self._stack is not None:
            raise SteeringError("this adapter acts already; leave it before entering it again")
        with ExitStack() as stack:
            attached = stack.enter_context(attach(self.model, {"adapter": self.weights}))
            if self.scale != 0:
                attached.rescale("adapter", self.scale)
                stack.enter_context(attached.only("adapter"))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stack, self._stack = self._stack, None
        if stack is not None:
            stack.close()

    def generate(
        self, prompts: PromptLike | Sequence[PromptLike], *, max_new_tokens: int = 64, **decoding: Any
    ) -> list[str]:
        """The answers of the model with the adapter; see `Model.generate`."""
        with nullcontext() if self.active else self:
            return self.model.generate(prompts, max_new_tokens=max_new_tokens, **decoding)

    def forward(
        self,
        prompts: PromptLike | Sequence[PromptLike] | Batch,
        *,
        columns: Sequence[int] | None = None,
        until: int | None = None,
        prefix: Prefix | None = None,
    ) -> Float[Tensor, "batch pos vocab"]:
        """The logits of the model with the adapter; see `Model.forward`."""
        with nullcontext() if self.active else self:
            return self.model.forward(prompts, columns=columns, until=until, prefix=prefix)
