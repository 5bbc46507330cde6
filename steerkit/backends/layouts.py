"""Where each architecture keeps its blocks: a table, no branches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from steerkit.errors import ModelError
from steerkit.points import SITES, Site


@dataclass(frozen=True)
class Layout:
    """The names of an architecture's parts.

    Paths of attention, MLP and heads start at a block. Where blocks differ (a hybrid of attention and state space), a
    path may be several, of which each block has one.

    Args:
        decoder: Path from the causal model to the module that owns the blocks.
        blocks: Its list of blocks.
        attn: Whose output attention (or another mixer of tokens) adds to the residual stream: the attention itself, or
            the norm after it.
        mlp: Likewise of the MLP; without it a block has none.
        heads: Attention's output projection; what it is given are the heads' outputs side by side.
        has_mid: The MLP reads the stream after attention has been added to it (not in parallel with it).
        packs: Attention takes a mask of its own, so that several continuations fit one row.
    """

    decoder: str
    blocks: str
    attn: str | tuple[str, ...]
    mlp: str | tuple[str, ...] | None
    heads: str | tuple[str, ...] | None = None
    has_mid: bool = True
    packs: bool = True


_LLAMA = Layout("model", "layers", "self_attn", "mlp", "self_attn.o_proj")

LAYOUTS: dict[str, Layout] = {
    "gpt2": Layout("transformer", "h", "attn", "mlp", "attn.c_proj"),
    "gpt_neox": Layout("gpt_neox", "layers", "attention", "mlp", "attention.dense", has_mid=False),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}
"""By transformers' `model_type`. A new architecture is one row here and one tiny configuration in the tests."""


@dataclass(frozen=True)
class Parts:
    """The modules of one model that its layout names."""

    layout: Layout
    decoder: nn.Module
    blocks: Sequence[nn.Module]

    def attn(self, layer: int) -> nn.Module:
        """What adds to the stream of a block after tokens were mixed."""
        return self._part(layer, self.layout.attn)

    def mlp(self, layer: int) -> nn.Module:
        """What adds to the stream of a block after its MLP."""
        return self._part(layer, self.layout.mlp)

    def heads(self, layer: int) -> nn.Module:
        """The projection that the heads' outputs go through."""
        return self._part(layer, self.layout.heads)

    def has(self, layer: int, site: Site) -> bool:
        """Whether a block has a site."""
        if site in ("resid_pre", "resid_post"):
            return True
        if site == "resid_mid":
            return self.layout.has_mid and self.layout.mlp is not None
        return path_in(self.blocks[layer], {"attn_out": self.layout.attn, "mlp_out": self.layout.mlp,
                                            "z": self.layout.heads}[site]) is not None  # fmt: skip

    def sites(self, layer: int) -> tuple[Site, ...]:
        """The sites of a block, in the order in which they are computed."""
        return tuple(site for site in SITES if self.has(layer, site))

    def _part(self, layer: int, paths: str | tuple[str, ...] | None) -> nn.Module:
        path = path_in(self.blocks[layer], paths)
        if path is None:
            raise AttributeError(f"block {layer} has no {paths!r}")
        return self.blocks[layer].get_submodule(path)


def path_in(block: nn.Module, paths: str | tuple[str, ...] | None) -> str | None:
    """The first of the paths that a block has."""
    for path in (paths,) if isinstance(paths, str) else paths or ():
        try:
            block.get_submodule(path)
        except AttributeError:
            continue
        return path
    return None


def find_parts(model: Any) -> Parts:
    """The parts of a transformers model, by its row in the table.

    Raises:
        ModelError: The architecture has no row, it is an encoder-decoder, or the row does not fit the model.
    """
    kind = str(getattr(model.config, "model_type", "unknown"))
    if getattr(model.config, "is_encoder_decoder", False):
        raise ModelError(f"{kind} is an encoder-decoder model; steerkit steers causal (decoder-only) language models")
    layout = LAYOUTS.get(kind)
    if layout is None:
        raise ModelError(
            f"the architecture {kind!r} has no layout; known are {', '.join(sorted(LAYOUTS))}. Add a row: "
            f"steerkit.backends.layouts.LAYOUTS[{kind!r}] = Layout(decoder=..., blocks=..., attn=..., mlp=...)"
        )
    try:
        decoder = model.get_submodule(layout.decoder)
        parts = Parts(layout, decoder, list(decoder.get_submodule(layout.blocks)))
        for layer in range(len(parts.blocks)):
            parts.attn(layer), layout.mlp and parts.mlp(layer)
    except AttributeError as error:
        raise ModelError(f"the layout of {kind!r} does not fit this model: {error}") from error
    return parts
