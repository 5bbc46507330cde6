"""One torch hook at each place in use, with the functions it calls in the order of their coming."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from steerkit.backends.base import Hook
from steerkit.backends.layouts import Parts
from steerkit.backends.passes import PassCounter
from steerkit.errors import LayerError
from steerkit.points import Point


class _Tap:
    """The functions at one point of one model."""

    def __init__(self, passes: PassCounter) -> None:
        self.passes = passes
        self.functions: list[Hook] = []
        self.handles: list[Any] = []

    def run(self, hidden: Tensor) -> Tensor:
        pass_ = self.passes.current()
        for fn in self.functions:
            changed = fn(hidden, pass_)
            if changed is not None:
                hidden = changed
        return hidden

    def on_output(self, _module: nn.Module, _args: Any, output: Any) -> Any:
        """Blocks return a tensor in transformers 5 and a tuple before; attention always returns a tuple."""
        if not isinstance(output, tuple):
            hidden = self.run(output)
            return None if hidden is output else hidden
        hidden = self.run(output[0])
        return None if hidden is output[0] else (hidden, *output[1:])

    def on_input(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            hidden = self.run(args[0])
            return None if hidden is args[0] else ((hidden, *args[1:]), kwargs)
        hidden = self.run(kwargs["hidden_states"])
        return None if hidden is kwargs["hidden_states"] else (args, {**kwargs, "hidden_states": hidden})


class _MidTap(_Tap):
    """The stream between attention and MLP, which no module returns: block input plus attention output.

    Writing goes through the attention output, so that the residual stream itself changes and not only what the next
    norm reads.
    """

    entering: Tensor

    def remember(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.entering = args[0] if args else kwargs["hidden_states"]

    def on_attention(self, _module: nn.Module, _args: Any, output: Any) -> Any:
        added = output[0] if isinstance(output, tuple) else output
        mid = self.entering + added
        changed = self.run(mid)
        if changed is mid:
            return None
        added = added.where(changed == mid, changed - self.entering)
        return (added, *output[1:]) if isinstance(output, tuple) else added


class Taps:
    """All points in use of one model; without any, the model carries no hook."""

    def __init__(self, parts: Parts, passes: PassCounter) -> None:
        self._parts = parts
        self._passes = passes
        self._taps: dict[Point, _Tap] = {}

    @contextmanager
    def open(self, point: Point, fn: Hook) -> Iterator[None]:
        """Have `fn` called at a point while the context is open."""
        tap = self._taps.get(point) or self._install(point)
        tap.functions.append(fn)
        try:
            yield
        finally:
            tap.functions.remove(fn)
            if not tap.functions:
                self._remove(point)

    def _install(self, point: Point) -> _Tap:
        tap = _MidTap(self._passes) if point.site == "resid_mid" else _Tap(self._passes)
        tap.handles = list(self._register(point, tap))
        if not self._taps:
            self._passes.attach()
        self._taps[point] = tap
        return tap

    def _register(self, point: Point, tap: _Tap) -> Iterator[Any]:
        """Prepended, so that `output_hidden_states=True` sees the edit whichever came first."""
        block = self._parts.blocks[point.layer]
        if point.site == "resid_post":
            yield block.register_forward_hook(tap.on_output, prepend=True)
        elif point.site == "resid_pre":
            yield block.register_forward_pre_hook(tap.on_input, prepend=True, with_kwargs=True)
        elif point.site == "attn_out":
            yield self._parts.attn(point.layer).register_forward_hook(tap.on_output, prepend=True)
        elif point.site == "mlp_out":
            yield self._parts.mlp(point.layer).register_forward_hook(tap.on_output, prepend=True)
        elif isinstance(tap, _MidTap) and self._parts.layout.has_mid:
            yield block.register_forward_pre_hook(tap.remember, with_kwargs=True)
            yield self._parts.attn(point.layer).register_forward_hook(tap.on_attention, prepend=False)
        else:
            raise LayerError("this architecture runs attention and MLP side by side: it has no site 'resid_mid'")

    def _remove(self, point: Point) -> None:
        for handle in self._taps.pop(point).handles:
            handle.remove()
        if not self._taps:
            self._passes.detach()
