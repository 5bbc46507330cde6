"""Reading the states of the tokens in scope, at some layers, in one pass that stops after the last of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.errors import ModelError
from steerkit.points import Point, Site
from steerkit.positions import Pass
from steerkit.training.distilling.samples import SampleBatch


@torch.no_grad()
def read_states(
    model: HuggingFaceModel, batch: SampleBatch, *, layers: Sequence[int], site: Site
) -> Float[Tensor, "layer token hidden"]:
    """The states of the tokens in scope, in the row-major order of the scope's mask, as float32.

    The model stops after the last layer; what the layers hold by then is what a whole pass gives, bit for bit.

    Args:
        model: As it is at this moment, with whatever acts on it.
        batch: The tokens.
        layers: Ascending.
        site: Where in each block.

    Raises:
        ModelError: A state is NaN or infinite.
    """
    kept: dict[int, Tensor] = {}
    with ExitStack() as stack:
        for layer in layers:

            def keep(hidden: Tensor, _: Pass, layer: int = layer) -> None:
                kept[layer] = hidden[batch.scope.to(hidden.device)].float()

            stack.enter_context(model.hook(Point(layer, site), keep))
        model.run(batch.batch, until=max(layers))
    device = kept[layers[0]].device
    states = torch.stack([kept[layer].to(device) for layer in layers])
    if not bool(torch.isfinite(states).all()):
        layer = next(one for one, rows in zip(layers, states, strict=True) if not bool(torch.isfinite(rows).all()))
        raise ModelError(f"the states at layer {layer} are NaN or infinite; load the model in 'bfloat16' or 'float32', "
                         "or leave that layer out")  # fmt: skip
    return states
