"""What a model is: the fingerprints that vectors and stores carry."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import nn

from steerkit.backends.base import ModelInfo

SAMPLE = 64
"""Values of each weight that enter the fingerprint, evenly spread."""


def describe(hf: Any, tokenizer: Any, *, num_layers: int, name: str, revision: str) -> ModelInfo:
    """Everything steerkit must know about a transformers model."""
    config = hf.config.get_text_config()
    context = getattr(config, "max_position_embeddings", None)
    window = getattr(config, "sliding_window", None) if _slides(config) else None
    return ModelInfo(
        name=name or str(getattr(hf.config, "_name_or_path", "")) or type(hf).__name__,
        architecture=str(hf.config.model_type),
        num_layers=num_layers,
        hidden_size=int(config.hidden_size),
        dtype=str(hf.dtype).removeprefix("torch."),
        device=str(hf.get_input_embeddings().weight.device),
        context=None if context is None else int(context),
        window=None if window is None else int(window),
        revision=revision,
        fingerprint=fingerprint_weights(hf),
        tokenizer=_hash(json.dumps(sorted(tokenizer.get_vocab().items()))),
        template=_hash(str(tokenizer.chat_template)) if getattr(tokenizer, "chat_template", None) else "",
    )


def _slides(config: Any) -> bool:
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return any("sliding" in kind or "chunked" in kind for kind in kinds)
    return bool(getattr(config, "use_sliding_window", True))


def fingerprint_weights(model: nn.Module) -> str:
    """Hash over the name, the shape and an even sample of every weight; the dtype does not enter it.

    A model loaded in another precision has another fingerprint only where rounding changes the sampled values.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        if weight.device.type == "meta" or weight.numel() == 0:
            continue
        flat = weight.detach().reshape(-1)
        step = max(flat.numel() // SAMPLE, 1)
        values = flat[::step][:SAMPLE].to(device="cpu", dtype=torch.float32)
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()[:16]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
