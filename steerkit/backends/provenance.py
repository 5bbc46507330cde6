"""What a model is: the fingerprints that vectors and stores carry."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from steerkit.backends.base import ModelInfo
from steerkit.backends.layouts import Parts

SAMPLE = 64
"""Values of each weight that enter the fingerprint, evenly spread."""


def describe(hf: Any, tokenizer: Any, parts: Parts, *, name: str, revision: str, fingerprint: str = "") -> ModelInfo:
    """Everything steerkit must know about a transformers model.

    Args:
        hf: The model.
        tokenizer: Its tokenizer.
        parts: Where its blocks lie.
        name: Where it came from.
        revision: Of the hub.
        fingerprint: Of its weights, where they were hashed before; without it they are hashed now.
    """
    config = hf.config.get_text_config()
    context = getattr(config, "max_position_embeddings", None)
    window = getattr(config, "sliding_window", None) if _slides(config) else None
    heads, head_size = _heads(config, parts)
    return ModelInfo(
        name=name or str(getattr(hf.config, "_name_or_path", "")) or type(hf).__name__,
        architecture=str(hf.config.model_type),
        num_layers=len(parts.blocks),
        hidden_size=int(config.hidden_size),
        dtype=str(hf.dtype).removeprefix("torch."),
        device=str(hf.get_input_embeddings().weight.device),
        heads=heads,
        head_size=head_size,
        context=None if context is None else int(context),
        window=None if window is None else int(window),
        packs=parts.layout.packs,
        revision=revision,
        fingerprint=fingerprint or fingerprint_weights(hf.named_parameters()),
        tokenizer=_hash(json.dumps(sorted(tokenizer.get_vocab().items()))),
        template=_hash(str(tokenizer.chat_template)) if getattr(tokenizer, "chat_template", None) else "",
    )


def _heads(config: Any, parts: Parts) -> tuple[int, int]:
    """How many heads, and the width of one: the output projection is given them side by side."""
    layer = next((i for i in range(len(parts.blocks)) if parts.has(i, "z")), None)
    if layer is None:
        return 0, 0
    projection: Any = parts.heads(layer)
    width = getattr(projection, "in_features", None) or projection.nx
    heads = int(config.num_attention_heads)
    return heads, int(width) // heads


def _slides(config: Any) -> bool:
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return any("sliding" in kind or "chunked" in kind for kind in kinds)
    return bool(getattr(config, "use_sliding_window", True))


def fingerprint_weights(weights: Iterable[tuple[str, Tensor]]) -> str:
    """Hash over the name, the shape and an even sample of every weight; the dtype does not enter it.

    A model loaded in another precision has another fingerprint only where rounding changes the sampled values.

    Args:
        weights: Names and weights, such as a module's `named_parameters()`.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(weights, key=itemgetter(0)):
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
