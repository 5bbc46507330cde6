"""Where each architecture keeps its blocks: a table, no branches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from steerkit.errors import ModelError


@dataclass(frozen=True)
class Layout:
    """The names of an architecture's parts.

    Args:
        decoder: Path from the causal model to the module that owns the blocks.
        blocks: Its list of blocks.
        attn: A block's attention; what it returns is added to the residual stream.
        mlp: A block's MLP; likewise.
        has_mid: The MLP reads the stream after attention has been added to it (not in parallel with it).
    """

    decoder: str
    blocks: str
    attn: str
    mlp: str
    has_mid: bool = True


_LLAMA = Layout("model", "layers", "self_attn", "mlp")

LAYOUTS: dict[str, Layout] = {
    "gpt2": Layout("transformer", "h", "attn", "mlp"),
    "gpt_neox": Layout("gpt_neox", "layers", "attention", "mlp", has_mid=False),
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
        """The attention of a block."""
        return self.blocks[layer].get_submodule(self.layout.attn)

    def mlp(self, layer: int) -> nn.Module:
        """The MLP of a block."""
        return self.blocks[layer].get_submodule(self.layout.mlp)


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
            parts.attn(layer), parts.mlp(layer)
    except AttributeError as error:
        raise ModelError(f"the layout of {kind!r} does not fit this model: {error}") from error
    return parts
