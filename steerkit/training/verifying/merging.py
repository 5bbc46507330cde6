"""An adapter added into the weights it belongs to, as merging does it, and what the rounding costs."""

from __future__ import annotations

import torch

from steerkit.adapters import Adapter, FullWeights
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.interchange.changes import changes_of, rounded
from steerkit.interchange.rounding import Rounding, measure_rounding, together


@torch.no_grad()
def merged_weights(
    model: HuggingFaceModel, adapter: Adapter, *, dtype: torch.dtype | None = None
) -> tuple[FullWeights, float]:
    r"""The weights $W + \frac{\alpha}{r} B A$, summed in float32 and rounded, and the error of the change that is left.

    The error is $\|(\mathrm r(W + \Delta) - \mathrm r(W)) - \Delta\| / \|\Delta\|$ over all weights together, with
    $\mathrm r$ for rounding: in bfloat16, changes much smaller than the weights are lost.

    Args:
        model: The base; it stays as it is.
        adapter: What is merged.
        dtype: Of the merged weights; the model's own without it.

    Raises:
        InputError: The adapter cannot be merged, such as a variant of LoRA.
        ModelError: It adds a bias where there is none, or to a tied weight, or the sum overflows the precision.
        MismatchError: It was trained on another model.
    """
    adapter.on(model)
    tensors: dict[str, torch.Tensor] = {}
    lost: list[Rounding] = []
    with changes_of(model, adapter) as (changes, _):
        for change in changes:
            own = change.parameter.dtype
            merged = rounded(change.name, change.new(), dtype or own)
            lost.append(measure_rounding(change, merged.to("cpu")))
            tensors[change.name] = merged.to(own)
    return FullWeights(tensors, adapter.meta), together(lost).error
