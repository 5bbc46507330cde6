"""TransformerLens: a `TransformerBridge`, read and written through its own hook points."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, cast

from torch import Tensor

from steerkit.backends.causal import CausalModel
from steerkit.backends.layouts import Parts
from steerkit.backends.passes import PassCounter
from steerkit.backends.provenance import fingerprint_weights
from steerkit.backends.taps import MidTap, Release, Tap, Taps
from steerkit.errors import ModelError
from steerkit.points import Point, Site

INWARD: tuple[Site, ...] = ("resid_pre", "z")
"""Sites that a component is given (its `hook_in`); the others are what one returns (its `hook_out`)."""


@dataclass(frozen=True)
class BridgeParts(Parts):
    """The components of a bridge that a layout names; only those with a hook point of their own can be read.

    A bridge gives its components names of its own, which may be the layout's name of something else. So a path is
    followed as transformers would, through the modules that the components stand for.
    """

    def has(self, layer: int, site: Site) -> bool:
        """Whether a block has a site, and TransformerLens a hook point there."""
        if site == "resid_mid":
            return super().has(layer, site) and self.has(layer, "attn_out")
        return self.hook_point(layer, site) is not None

    def hook_point(self, layer: int, site: Site) -> Any:
        """TransformerLens's own hook point at the very place where plain hooks read; `None` where it has none.

        Its aliases (`hook_attn_out`, `hook_mlp_out`, `hook_resid_mid`) are not used: in some architectures they are
        not what is added to the stream.
        """
        side = "hook_in" if site in INWARD else "hook_out"
        if site in ("resid_pre", "resid_post"):
            return getattr(self.blocks[layer], side)
        paths = {"attn_out": self.layout.attn, "mlp_out": self.layout.mlp, "z": self.layout.heads}[site]
        found = [one for path in _each(paths) if (one := _component(self.blocks[layer], path)) is not None]
        return getattr(found[0], side) if found else None

    def _part(self, layer: int, paths: Any) -> Any:
        found = [one for path in _each(paths) if (one := _follow(self.blocks[layer], path)) is not None]
        if not found:
            raise AttributeError(f"block {layer} has no {paths!r}")
        return found[0]


class TransformerLensModel(CausalModel):
    """A `TransformerBridge` of TransformerLens 4.

    The bridge stays what it is; edits also act when its own `forward`, `run_with_cache`, `generate` or `hf_generate` is
    called. TransformerLens runs attention in its eager implementation.

    Args:
        bridge: The bridge, with its weights as Hugging Face has them.
        tokenizer: Its tokenizer; without it the bridge's own.
        name: Where it came from.
        revision: Of the hub.

    Raises:
        ModelError: The object is no bridge around a model of transformers, it has no tokenizer, or its weights were
            folded and centered (`enable_compatibility_mode()`).
    """

    backend: ClassVar[str] = "transformer_lens"
    attention: ClassVar[str | None] = "eager"

    def __init__(self, bridge: Any, tokenizer: Any = None, *, name: str = "", revision: str = "") -> None:
        _check(bridge, tokenizer)
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
        """A bridge around a transformers model, whose modules it takes over.

        Raises:
            ModelError: TransformerLens has no adapter for the architecture.
        """
        from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

        try:
            bridge = build_bridge_from_module(
                hf, type(hf).__name__, hf_config=deepcopy(hf.config), model_name=name or "model"
            )
        except (ValueError, KeyError, AttributeError, RuntimeError, ImportError) as error:
            raise ModelError(f"TransformerLens cannot run {type(hf).__name__}: {error}. "
                             "Use backend='huggingface' or 'nnsight'") from error  # fmt: skip
        bridge.tokenizer = tokenizer
        return cls(bridge, tokenizer, name=name, revision=revision)

    @staticmethod
    def claims(source: Any) -> bool:
        """Whether an object is a bridge, or anything else of TransformerLens."""
        return type(source).__module__.startswith("transformer_lens.")

    def _find_parts(self) -> BridgeParts:
        plain = super()._find_parts()
        return BridgeParts(plain.layout, plain.decoder, plain.blocks)

    def _make_taps(self) -> Taps:
        return HookPointTaps(self.bridge, cast(BridgeParts, self.parts), self._passes)

    def _run(self, arguments: dict[str, Any]) -> Tensor:
        return cast(Tensor, self.bridge.forward(arguments.pop("input_ids"), return_type="logits", **arguments))

    def _run_until(self, arguments: dict[str, Any], layer: int) -> None:
        self.bridge.forward(arguments.pop("input_ids"), return_type=None, stop_at_layer=layer + 1, **arguments)

    def _sequences(self, arguments: dict[str, Any]) -> Tensor:
        out = self.hf.generate(**arguments)
        return out if isinstance(out, Tensor) else cast(Tensor, out.sequences)


def _check(bridge: Any, tokenizer: Any) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    if not isinstance(bridge, TransformerBridge):
        raise ModelError(f"{type(bridge).__name__} is no bridge around a model of transformers; boot one: "
                         "TransformerBridge.boot_transformers(name)")  # fmt: skip
    if getattr(bridge, "_weights_processed", False):
        raise ModelError(
            "this bridge's weights are folded and centered as HookedTransformer's were: its residual stream is in "
            "other coordinates than the model's, and vectors do not carry over. Boot it anew, and leave out "
            "enable_compatibility_mode() or call it with no_processing=True"
        )
    if tokenizer is None and bridge.tokenizer is None:
        raise ModelError("this bridge has no tokenizer; give one: sk.load(bridge, tokenizer=tok)")


def _each(paths: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (paths,) if isinstance(paths, str) else paths or ()


def _follow(block: Any, path: str) -> Any:
    """The module at a path of transformers' own names; `None` where there is none."""
    at = block
    for part in path.split("."):
        at = at._modules.get("_original_component", at)._modules.get(part)
        if at is None:
            return None
    return at


def _component(block: Any, path: str) -> Any:
    """The component at a path, or the one that stands for the module there, or the only one inside it."""
    module = _follow(block, path)
    if module is None or hasattr(module, "hook_out"):
        return module
    stands = [one for one in block.modules() if one._modules.get("_original_component") is module]
    inside = [one for one in module._modules.values() if hasattr(one, "hook_out")]
    return stands[0] if stands else inside[0] if len(module._modules) == len(inside) == 1 else None


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

    def __init__(self, bridge: Any, parts: BridgeParts, passes: PassCounter) -> None:
        super().__init__(passes)
        self._bridge = bridge
        self._parts = parts

    def register(self, point: Point, tap: Tap, /) -> Iterator[Release]:
        """See `Taps.register`."""
        if isinstance(tap, MidTap):
            yield self._add(point.layer, "resid_pre", partial(_remember, tap), prepend=False)
            yield self._add(point.layer, "attn_out", partial(_run, tap), prepend=False)
        else:
            yield self._add(point.layer, point.site, partial(_run, tap), prepend=True)

    def watch(self) -> Release:
        """See `Taps.watch`; the bridge's own decoding is watched too, which may feed everything anew in each step."""
        detach, own = super().watch(), vars(self._bridge)
        outer = {name: own.get(name) for name in ("generate", "generate_stream")}
        own["generate"] = partial(_generate, self.passes, self._bridge.generate)
        own["generate_stream"] = partial(_stream, self.passes, self._bridge.generate_stream)

        def release() -> None:
            for name, before in outer.items():
                del own[name]
                if before is not None:
                    own[name] = before
            detach()

        return release

    def _add(self, layer: int, site: Site, fn: Callable[..., Any], *, prepend: bool) -> Release:
        at = self._parts.hook_point(layer, site)
        handle = at.add_hook(fn, prepend=prepend, is_permanent=True)  # the user may reset hooks meanwhile

        def release() -> None:
            handle.hook.remove()
            at.fwd_hooks[:] = [one for one in at.fwd_hooks if one is not handle]

        return release


def _generate(passes: PassCounter, generate: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with passes.hold():
        return generate(*args, **kwargs)


def _stream(passes: PassCounter, stream: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[Any]:
    """What is between two tokens is no part of the generation."""
    tokens, end, told = stream(*args, **kwargs), object(), None
    while True:
        with passes.hold(told):
            token = next(tokens, end)
            told = passes.prompt_length
        if token is end:
            return
        yield token


def _remember(tap: MidTap, hidden: Tensor, **_: Any) -> None:
    tap.entering = hidden


def _run(tap: Tap, hidden: Tensor, **_: Any) -> Tensor | None:
    """The bridge gives heads an axis of their own."""
    flat = hidden.flatten(2) if hidden.ndim == 4 else hidden
    changed = tap.run(flat)
    return None if changed is flat else changed.reshape(hidden.shape)
