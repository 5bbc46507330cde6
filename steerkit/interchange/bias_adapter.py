"""A constant vector as a peft adapter: the hook's change on any architecture, switched and scaled by peft."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from steerkit.adapters import Adapter
from steerkit.adapters.provenance import check_base
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.interchange.constant import constants
from steerkit.interchange.down_projection import down_projection, out_and_in
from steerkit.steering.edits import LayerChoice, Unit
from steerkit.vectors import SteeringVector


def bias_adapter(
    model: HuggingFaceModel,
    vector: SteeringVector | Tensor,
    *,
    layer: LayerChoice,
    coef: float = 1.0,
    unit: Unit = "raw",
    override: bool = False,
) -> Adapter:
    r"""A vector at every position as a peft adapter: its `lora_bias`, with $A = B = 0$ and bias $\text{coef} \cdot v$.

    It adds to the output of the block's down projection, so to `resid_post` of the block, what
    `Steer.add(..., positions="all")` adds. Its scale multiplies the vector: `adapter.on(model, scale=0.5)`, or peft's
    `rescale_adapter_scale`. Where the base's layer has no bias, peft warns at loading that it cannot be merged;
    `bake_bias` puts the vector into the weights of the architectures that have room for it.

    Args:
        model: What `load` returns.
        vector: A concept at several layers, or one `[hidden]` tensor; of site `resid_post` or `mlp_out`.
        layer: Decoder blocks, counted from 0: one, several, or `"all"` that the vector has.
        coef: How strongly, in the unit.
        unit: As in `Steer.add`.
        override: Accept a vector that was made with another model.

    Raises:
        InputError: The vector or the layer cannot be used.
        ModelError: The architecture's down projection is not known.

    Example:
        >>> import steerkit as sk
        >>> model = sk.load("demo")
        >>> adapter = bias_adapter(model, torch.ones(model.info.hidden_size), layer=3, coef=0.1)
        >>> sorted(adapter.config.target_modules)
        ['model.layers.3.mlp.down_proj']
    """
    from peft import LoraConfig

    check_base({}, model, override=True)
    added = constants(model, vector, layer=layer, coef=coef, unit=unit, override=override)
    weights: dict[str, Tensor] = {}
    names = []
    transposed = False
    for at, one in sorted(added.items()):
        name, module = down_projection(model, at)
        outputs, inputs = out_and_in(module)
        transposed = not isinstance(module, torch.nn.Linear)
        names.append(name)
        weights[f"base_model.model.{name}.lora_A.weight"] = torch.zeros(1, inputs)
        weights[f"base_model.model.{name}.lora_B.weight"] = torch.zeros(outputs, 1)
        weights[f"base_model.model.{name}.lora_B.bias"] = one
    config = LoraConfig(task_type="CAUSAL_LM", r=1, lora_alpha=1, lora_dropout=0.0, target_modules=names,
                        lora_bias=True, fan_in_fan_out=transposed,
                        base_model_name_or_path=model.hf.name_or_path or None)  # fmt: skip
    made: dict[str, Any] = {key: value for key, value in getattr(vector, "meta", {}).items() if key != "model"}
    meta = {"model": model.info.as_dict(), "method": "constant vector as a bias",
            "layers": sorted(added), "coef": float(coef), "unit": unit, "vector": made}  # fmt: skip
    return Adapter(config, weights, meta)
