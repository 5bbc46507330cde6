"""Plain Hugging Face models, read and written through PyTorch forward hooks."""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress
from typing import Any, ClassVar, cast

from torch import Tensor

from steerkit.backends.base import Joining
from steerkit.backends.causal import CausalModel
from steerkit.backends.joining import let_join
from steerkit.backends.module_taps import ModuleTaps
from steerkit.errors import InputError


class _Stop(Exception):  # noqa: N818 - a signal, not an error
    """Raised inside a forward pass to end it after the last block that is needed."""


class HuggingFaceModel(CausalModel):
    """A transformers causal language model and its tokenizer.

    It stays what it is, and edits also act when its own `generate` or `forward` is called.
    """

    backend: ClassVar[str] = "huggingface"
    joins: ClassVar[bool] = True

    @classmethod
    def wrap(cls, hf: Any, tokenizer: Any, *, name: str = "", revision: str = "") -> HuggingFaceModel:
        """The model itself."""
        return cls(hf, tokenizer, name=name, revision=revision)

    @staticmethod
    def claims(_source: Any) -> bool:
        """A live `PreTrainedModel` is nobody's own: any backend can run it."""
        return False

    def _make_taps(self) -> ModuleTaps:
        return ModuleTaps(self.parts, self._passes)

    def _join(self, joining: Joining) -> AbstractContextManager[None]:
        return let_join(self.parts.blocks, joining, self._passes)

    def _run(self, arguments: dict[str, Any]) -> Tensor:
        return cast(Tensor, self.hf(**arguments).logits)

    def _run_until(self, arguments: dict[str, Any], layer: int) -> None:
        def stop(*_: Any) -> None:
            raise _Stop

        handle = self.parts.blocks[layer].register_forward_hook(stop)
        try:
            with suppress(_Stop):
                self.hf(**arguments)
        finally:
            handle.remove()

    def _sequences(self, arguments: dict[str, Any]) -> Tensor:
        out = self.hf.generate(**arguments)
        return out if isinstance(out, Tensor) else cast(Tensor, out.sequences)


def check_plain(model: object, what: str) -> HuggingFaceModel:
    """The model, if its weights are where transformers keeps them.

    Args:
        model: What was given.
        what: What is to be done with it, such as `"adapters work"`.

    Raises:
        InputError: Another backend runs it, or it is no model of steerkit.
    """
    if isinstance(model, HuggingFaceModel):
        return model
    raise InputError(f"{what} on a plain Hugging Face model, not on a {type(model).__name__}; load it with "
                     "sk.load(..., backend='huggingface')")  # fmt: skip
