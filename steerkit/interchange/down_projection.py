"""The weight through which a block's MLP writes to the residual stream."""

from __future__ import annotations

from typing import Any

from torch import nn

from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.errors import ModelError

DOWN_PROJECTIONS: dict[str, str] = {
    "gpt2": "c_proj",
    "gpt_neox": "dense_4h_to_h",
    "llama": "down_proj",
    "mistral": "down_proj",
    "qwen2": "down_proj",
    "qwen3": "down_proj",
}
"""By transformers' `model_type`: the last linear layer of the MLP, whose output is the MLP's output as it is."""


def down_projection(model: HuggingFaceModel, layer: int) -> tuple[str, nn.Module]:
    """A block's down projection, with its full name in the transformers model.

    What it writes is added to the residual stream, so its bias is a constant vector at `resid_post` of the block.

    Raises:
        ModelError: The architecture has no row in the table.
    """
    name = DOWN_PROJECTIONS.get(model.info.architecture)
    if name is None:
        raise ModelError(
            f"the down projection of {model.info.architecture!r} is not known; known are "
            f"{', '.join(DOWN_PROJECTIONS)}. Add a row: steerkit.interchange.down_projection.DOWN_PROJECTIONS"
            f"[{model.info.architecture!r}] = the name of the MLP's last linear layer"
        )
    layout = model.parts.layout
    path = f"{layout.decoder}.{layout.blocks}.{layer}.{layout.mlp}.{name}"
    return path, model.hf.get_submodule(path)


def out_and_in(module: Any) -> tuple[int, int]:
    """Widths of a linear layer's output and input; GPT-2 stores the weight the other way round."""
    rows, columns = module.weight.shape
    return (rows, columns) if isinstance(module, nn.Linear) else (columns, rows)
