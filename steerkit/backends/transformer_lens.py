"""TransformerLens: a `TransformerBridge`, read and written through its own hook points."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from typing import Any, ClassVar, cast

from torch import Tensor

from steerkit.backends.causal import CausalModel
from steerkit.backends.passes import PassCounter
from steerkit.backends.provenance import fingerprint_weights
from steerkit.backends.taps import MidTap, Release, Tap, Taps
from steerkit.errors import ModelError
from steerkit.points import Point, Site

NAMES: dict[Site, str] = {
    "resid_pre": "hook_in",
    "z": "attn.hook_z",
    "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out",
    "resid_post": "hook_out",
}
"""The bridge's names of our sites, under `blocks.{layer}`. Its `hook_resid_mid` is what the next norm reads, which is
not the residual stream: writing there would leave the stream as it was. So `resid_mid` goes through `hook_attn_out`."""


class TransformerLensModel(CausalModel):
    """A `TransformerBridge` of TransformerLens 4.

    The bridge stays what it is; edits also act when its own `forward`, `run_with_cache` or `hf_generate` is called.
    TransformerLens runs attention in its eager implementation.

    Args:
        bridge: The bridge, with its weights as Hugging Face has them.
        tokenizer: Its tokenizer; without it the bridge's own.
        name: Where it came from.
        revision: Of the hub.

    Raises:
        ModelError: The bridge's weights were folded and centered (`enable_compatibility_mode()`).
    """

    backend: ClassVar[str] = "transformer_lens"

    def __init__(self, bridge: Any, tokenizer: Any = None, *, name: str = "", revision: str = "") -> None:
        if getattr(bridge, "_weights_processed", False):
            raise ModelError(
                "this bridge's weights are folded and centered as HookedTransformer's were: its residual stream is in "
                "other coordinates than the model's, and vectors do not carry over. Boot it anew, and leave out "
                "enable_compatibility_mode() or call it with no_processing=True"
            )
        self.bridge = bridge
        hf = bridge.original_model
        super().__init__(
            hf,
            tokenizer or bridge.tokenizer,
            name=name or str(bridge.cfg.model_name),
            revision=revision,
            fingerprint=fingerprint_weights(_plain_weights(hf)),
        )

    @classmethod
    def wrap(cls, hf: Any, tokenizer: Any, *, name: str = "", revision: str = "") -> TransformerLensModel:
        """A bridge around a transformers model, whose modules it takes over."""
        from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

        bridge = build_bridge_from_module(
            hf, type(hf).__name__, hf_config=deepcopy(hf.config), model_name=name or "model"
        )
        bridge.tokenizer = tokenizer
        return cls(bridge, tokenizer, name=name, revision=revision)

    @staticmethod
    def claims(source: Any) -> bool:
        """Whether an object is a bridge."""
        return type(source).__module__.startswith("transformer_lens.")

    def _make_taps(self) -> Taps:
        return HookPointTaps(self.bridge, self._passes)

    def _run(self, arguments: dict[str, Any]) -> Tensor:
        return cast(Tensor, self.bridge.forward(arguments.pop("input_ids"), return_type="logits", **arguments))

    def _run_until(self, arguments: dict[str, Any], layer: int) -> None:
        self.bridge.forward(arguments.pop("input_ids"), return_type=None, stop_at_layer=layer + 1, **arguments)

    def _sequences(self, arguments: dict[str, Any]) -> Tensor:
        out = self.hf.generate(**arguments)
        return out if isinstance(out, Tensor) else cast(Tensor, out.sequences)


def _plain_weights(hf: Any) -> Iterator[tuple[str, Tensor]]:
    """The weights under the names they had before the bridge, which wraps every module and splits fused ones."""
    seen: set[int] = set()
    for name, weight in hf.named_parameters(remove_duplicate=False):
        at, plain, ours = hf, [], True
        for part in name.split("."):
            wrapped = "_original_component" in getattr(at, "_modules", {})
            ours = ours and (part == "_original_component" or not wrapped)
            at = getattr(at, part)
            if part != "_original_component":
                plain.append(part)
        if ours and id(weight) not in seen:
            seen.add(id(weight))
            yield ".".join(plain), weight


class HookPointTaps(Taps):
    """Points read and written at a bridge's hook points."""

    def __init__(self, bridge: Any, passes: PassCounter) -> None:
        super().__init__(passes)
        self._bridge = bridge

    def register(self, point: Point, tap: Tap, /) -> Iterator[Release]:
        """See `Taps.register`."""
        if isinstance(tap, MidTap):
            yield self._add(point.layer, "resid_pre", partial(_remember, tap), prepend=False)
            yield self._add(point.layer, "attn_out", partial(_run, tap), prepend=False)
        else:
            yield self._add(point.layer, point.site, partial(_run, tap), prepend=True)

    def _add(self, layer: int, site: Site, fn: Callable[..., Any], *, prepend: bool) -> Release:
        at: Any = self._bridge.blocks[layer]
        for part in NAMES[site].split("."):
            at = getattr(at, part)
        handle = at.add_hook(fn, prepend=prepend)

        def release() -> None:
            handle.hook.remove()
            at.fwd_hooks[:] = [one for one in at.fwd_hooks if one is not handle]

        return release


def _remember(tap: MidTap, hidden: Tensor, **_: Any) -> None:
    tap.entering = hidden


def _run(tap: Tap, hidden: Tensor, **_: Any) -> Tensor | None:
    """The bridge gives heads an axis of their own."""
    flat = hidden.flatten(2) if hidden.ndim == 4 else hidden
    changed = tap.run(flat)
    return None if changed is flat else changed.reshape(hidden.shape)
