"""An adapter added into the weights it belongs to, as merging does it, and what the rounding costs."""

from __future__ import annotations

import torch

from steerkit.adapters import Adapter, FullWeights, attach
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.errors import InputError


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
        InputError: The adapter has parts that weights alone cannot hold, such as a bias.
        MismatchError: It was trained on another model.
    """
    from peft.tuners.lora import LoraLayer

    adapter.on(model)
    alien = [key for key in adapter.weights if not key.endswith((".lora_A.weight", ".lora_B.weight"))]
    if alien:
        raise InputError(f"the adapter holds {alien[0]}, which no weight of the model can take in; use it unmerged")
    tensors: dict[str, torch.Tensor] = {}
    lost = whole = 0.0
    with attach(model, {"merged": adapter}):
        for path, module in model.hf.named_modules():
            if isinstance(module, LoraLayer) and "merged" in module.lora_A:
                before = module.get_base_layer().weight
                change = module.get_delta_weight("merged").float()
                precision = dtype or before.dtype
                after = (before.float() + change).to(precision)
                lost += float((after.float() - before.to(precision).float() - change).double().square().sum())
                whole += float(change.double().square().sum())
                tensors[f"{path}.weight"] = after.to(before.dtype)
    return FullWeights(tensors, adapter.meta), (lost / whole) ** 0.5 if whole else 0.0
