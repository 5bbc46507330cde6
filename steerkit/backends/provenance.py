"""What a model is: the fingerprints that vectors and stores carry."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from steerkit.backends.base import ModelInfo
from steerkit.backends.layouts import Parts
from steerkit.errors import ModelError
from steerkit.points import SITES

SAMPLE = 64
"""Values of each weight that enter the fingerprint, evenly spread."""


def describe(
    hf: Any, tokenizer: Any, parts: Parts, *, name: str, revision: str, device: str, fingerprint: str = ""
) -> ModelInfo:
    """Everything steerkit must know about a transformers model.

    Args:
        hf: The model.
        tokenizer: Its tokenizer.
        parts: Where its blocks lie.
        name: Where it came from.
        revision: Of the hub.
        device: Where tokens are fed.
        fingerprint: Of its weights, where they were hashed before; without it they are hashed now.
    """
    config = hf.config.get_text_config()
    context = getattr(config, "max_position_embeddings", None)
    window = _window(config) if _slides(config) else None
    heads, head_size = _heads(config, parts)
    return ModelInfo(
        name=name or str(getattr(hf.config, "_name_or_path", "")) or type(hf).__name__,
        architecture=str(hf.config.model_type),
        num_layers=len(parts.blocks),
        hidden_size=int(config.hidden_size),
        dtype=str(hf.dtype).removeprefix("torch."),
        device=device,
        heads=heads,
        head_size=head_size,
        context=None if context is None else int(context),
        window=None if window is None else int(window),
        packs=parts.layout.packs and takes_masks(hf.config),
        lacks=_lacks(parts),
        quantization=_quantization(hf.config),
        revision=revision,
        fingerprint=fingerprint or fingerprint_weights(weights_of(hf)),
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


def _lacks(parts: Parts) -> dict[str, list[int]]:
    """The sites that some blocks do not have, with these blocks."""
    layers = range(len(parts.blocks))
    found = {site: [layer for layer in layers if not parts.has(layer, site)] for site in SITES}
    return {site: without for site, without in found.items() if without}


def input_device(hf: Any) -> torch.device:
    """Where tokens are fed; weights that accelerate keeps elsewhere are brought there when they are used."""
    embeddings = hf.get_input_embeddings()
    if embeddings.weight.device.type != "meta":
        return torch.device(embeddings.weight.device)
    if not hasattr(embeddings, "_hf_hook"):
        raise ModelError(
            "the model has no weights: it is on the meta device; load them, or dispatch it with accelerate"
        )
    return torch.device(embeddings._hf_hook.execution_device)


def takes_masks(config: Any) -> bool:
    """Whether attention, as it is implemented now, takes a mask of another form than which columns are padding.

    Flash attention does not; flex attention looks it up score by score, and its kernel for CPUs reads behind its end.
    """
    implementation = config.get_text_config()._attn_implementation or ""
    return "flash" not in implementation and "flex" not in implementation


def weights_of(hf: Any) -> Iterator[tuple[str, Tensor]]:
    """The weights by name; those that accelerate keeps elsewhere (CPU, disk) are read from there, one at a time."""
    tied = getattr(hf, "all_tied_weights_keys", None) or {}
    for name, weight in hf.named_parameters():
        module, _, own = name.rpartition(".")
        hook = getattr(hf.get_submodule(module), "_hf_hook", None)
        kept = [one.weights_map for one in getattr(hook, "hooks", [hook]) if getattr(one, "weights_map", None)]
        if weight.device.type != "meta":
            yield name.replace("_orig_mod.", ""), weight
        elif name not in tied:  # what is tied is one weight in memory, and two on the meta device
            yield name.replace("_orig_mod.", ""), kept[0][own] if kept else weight


def _quantization(config: Any) -> str:
    """Who quantized the weights, and to what."""
    given = getattr(config, "quantization_config", None)
    if given is None:
        return ""
    of = given if isinstance(given, dict) else given.to_dict()
    method = getattr(of.get("quant_method", ""), "value", of.get("quant_method", ""))
    kinds = {"load_in_8bit": "8bit", "load_in_4bit": "4bit"}
    kind = next((name for flag, name in kinds.items() if of.get(flag)), of.get("weights", of.get("bits", "")))
    return f"{method} {kind}".strip()


def _window(config: Any) -> int | None:
    """The least number of tokens that some layer sees: of a sliding window, or of a chunk."""
    lengths = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return min((length for length in lengths if length is not None), default=None)


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
    return fingerprint_samples((name, tuple(weight.shape), _sample(weight)) for name, weight in weights)


def fingerprint_samples(samples: Iterable[tuple[str, tuple[int, ...], Tensor | None]]) -> str:
    """The same hash from what was sampled before.

    Args:
        samples: Name, shape and up to `SAMPLE` values of each weight, evenly spread, float32 on the CPU; no values
            where they are not known.
    """
    digest = hashlib.sha256()
    for name, shape, values in sorted(samples, key=itemgetter(0)):
        digest.update(f"{name}{shape}".encode())
        if values is not None:
            digest.update(values.numpy().tobytes())
    return digest.hexdigest()[:16]


def _sample(weight: Tensor) -> Tensor | None:
    if weight.device.type == "meta" or weight.numel() == 0:
        return None
    flat = _flat(weight.detach())
    return flat[:: max(flat.numel() // SAMPLE, 1)][:SAMPLE].to(device="cpu", dtype=torch.float32)


def _flat(weight: Tensor) -> Tensor:
    try:
        return weight.reshape(-1)
    except NotImplementedError:  # a quantized weight that is no plain tensor
        return weight.dequantize().reshape(-1)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
