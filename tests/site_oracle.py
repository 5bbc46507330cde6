"""Every site read and written by hooks of plain PyTorch, with the modules named by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

Change = Callable[[Tensor], Tensor]

MODULES: dict[str, tuple[str, str, str, str]] = {
    "llama": ("model.layers", "self_attn", "mlp", "self_attn.o_proj"),
    "qwen3": ("model.layers", "self_attn", "mlp", "self_attn.o_proj"),
    "gpt2": ("transformer.h", "attn", "mlp", "attn.c_proj"),
    "gpt_neox": ("gpt_neox.layers", "attention", "mlp", "attention.dense"),
    "cohere": ("model.layers", "self_attn", "mlp", "self_attn.o_proj"),
    "gemma2": ("model.layers", "post_attention_layernorm", "post_feedforward_layernorm", "self_attn.o_proj"),
    "olmo2": ("model.layers", "post_attention_layernorm", "post_feedforward_layernorm", "self_attn.o_proj"),
    "deepseek_v3": ("model.layers", "self_attn", "mlp", "self_attn.o_proj"),
}
"""Blocks, and in a block: what attention adds, what the MLP adds, and the output projection of the heads."""

WIDER: dict[str, dict[str, Any]] = {"qwen3": {"head_dim": 16}, "gemma2": {"head_dim": 16},
                                    "deepseek_v3": {"v_head_dim": 16}}  # fmt: skip
"""Heads that together are wider than the residual stream."""

PARALLEL = ("gpt_neox", "cohere")
"""Attention and MLP read the same stream, so there is none between them."""


def first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def rest(output: Any, hidden: Tensor) -> Any:
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


@contextmanager
def changed(hf: Any, architecture: str, layer: int, site: str, change: Change) -> Iterator[None]:
    """The activations at a site are what `change` makes of them while the context is open."""
    blocks, attn, mlp, projection = MODULES[architecture]
    block = hf.get_submodule(blocks)[layer]
    entering: list[Tensor] = []

    def on_input(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (change(args[0]), *args[1:])

    def on_output(_: Any, __: Any, output: Any) -> Any:
        return rest(output, change(first(output)))

    def on_mid(_: Any, __: Any, output: Any) -> Any:
        return rest(output, change(entering[-1] + first(output)) - entering[-1])

    with ExitStack() as stack:
        if site in ("resid_pre", "z"):
            module = block if site == "resid_pre" else block.get_submodule(projection)
            stack.callback(module.register_forward_pre_hook(on_input).remove)
        elif site == "resid_mid":
            keep = block.register_forward_pre_hook(lambda _, args: entering.append(args[0]))
            stack.callback(keep.remove)
            stack.callback(block.get_submodule(attn).register_forward_hook(on_mid).remove)
        else:
            path = {"attn_out": attn, "mlp_out": mlp, "resid_post": ""}[site]
            stack.callback(block.get_submodule(path).register_forward_hook(on_output).remove)
        yield


def states(hf: Any, architecture: str, ids: Tensor, layer: int, site: str) -> Tensor:
    """The activations of some tokens at a site."""
    seen: list[Tensor] = []

    def keep(hidden: Tensor) -> Tensor:
        seen.append(hidden.clone())
        return hidden

    with torch.no_grad(), changed(hf, architecture, layer, site, keep):
        hf(ids)
    return seen[-1]


def logits(hf: Any, architecture: str, ids: Tensor, edits: list[tuple[int, Tensor]], site: str, where: Any) -> Tensor:
    """Logits where `where` (of the columns) is added to, layer by layer."""
    with torch.no_grad(), ExitStack() as stack:
        for layer, delta in edits:

            def add(hidden: Tensor, delta: Tensor = delta) -> Tensor:
                hidden = hidden.clone()
                hidden[:, where] += delta
                return hidden

            stack.enter_context(changed(hf, architecture, layer, site, add))
        return hf(ids).logits


def sites_of(architecture: str) -> list[str]:
    return [
        site
        for site in ("resid_pre", "z", "attn_out", "resid_mid", "mlp_out", "resid_post")
        if not (site == "resid_mid" and architecture in PARALLEL)
    ]


CASES = [(architecture, site) for architecture in MODULES for site in sites_of(architecture)]
