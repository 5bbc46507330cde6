"""What answers in the place of a model while it acts: other weights, switched on and off."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from types import TracebackType
from typing import Any

from jaxtyping import Float
from torch import Tensor

from steerkit.backends.base import Batch, Prefix
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.data.chat import PromptLike
from steerkit.errors import SteeringError


class Acting(ABC):
    """Weights that act inside `with`, and inside their own `generate` and `forward`; idle, they change nothing.

    Args:
        model: The base; it stays the baseline.
    """

    def __init__(self, model: HuggingFaceModel) -> None:
        self.model = model
        self._stack: ExitStack | None = None

    @abstractmethod
    def _open(self, stack: ExitStack) -> None:
        """Switch the weights on; closing the stack switches them off."""

    @property
    def active(self) -> bool:
        """The weights act at this moment."""
        return self._stack is not None

    def __enter__(self) -> Any:
        if self._stack is not None:
            raise SteeringError("this adapter acts already; leave it before entering it again")
        with ExitStack() as stack:
            self._open(stack)
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
        """The answers with these weights; see `Model.generate`."""
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
        """The logits with these weights; see `Model.forward`."""
        with nullcontext() if self.active else self:
            return self.model.forward(prompts, columns=columns, until=until, prefix=prefix)
