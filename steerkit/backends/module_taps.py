"""Taps of plain PyTorch: forward hooks on the modules that a layout names."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import Tensor, nn

from steerkit.backends.layouts import Parts
from steerkit.backends.passes import PassCounter
from steerkit.backends.taps import MidTap, Release, Tap, Taps
from steerkit.points import Point


class ModuleTaps(Taps):
    """Points read and written by forward hooks.

    Hooks are prepended, so that `output_hidden_states=True` sees the edit whichever came first.

    Args:
        parts: Where the points lie.
        passes: Knows, for each pass, what its tokens are.
    """

    def __init__(self, parts: Parts, passes: PassCounter) -> None:
        super().__init__(passes)
        self._parts = parts

    def register(self, point: Point, tap: Tap, /) -> Iterator[Release]:
        """See `Taps.register`."""
        block = self._parts.blocks[point.layer]
        if isinstance(tap, MidTap):
            yield block.register_forward_pre_hook(partial(_remember, tap), with_kwargs=True).remove
            attention = self._parts.attn(point.layer)
            yield attention.register_forward_hook(partial(_on_output, tap), prepend=False).remove
        elif point.site in ("resid_pre", "z"):
            module = block if point.site == "resid_pre" else self._parts.heads(point.layer)
            yield module.register_forward_pre_hook(partial(_on_input, tap), prepend=True, with_kwargs=True).remove
        else:
            find = {"resid_post": lambda _: block, "attn_out": self._parts.attn, "mlp_out": self._parts.mlp}
            module = find[point.site](point.layer)
            yield module.register_forward_hook(partial(_on_output, tap), prepend=True).remove


def _remember(tap: MidTap, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    tap.entering = args[0] if args else kwargs["hidden_states"]


def _on_output(tap: Tap, _module: nn.Module, _args: Any, output: Any) -> Any:
    """Blocks return a tensor in transformers 5 and a tuple before; attention always returns a tuple."""
    given: Tensor = output[0] if isinstance(output, tuple) else output
    hidden = tap.run(given)
    if hidden is given:
        return None
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def _on_input(tap: Tap, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if args:
        hidden = tap.run(args[0])
        return None if hidden is args[0] else ((hidden, *args[1:]), kwargs)
    hidden = tap.run(kwargs["hidden_states"])
    return None if hidden is kwargs["hidden_states"] else (args, {**kwargs, "hidden_states": hidden})
