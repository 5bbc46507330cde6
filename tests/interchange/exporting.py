"""What the tests of exports share: adapters with known changes, and models read back by other libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from steerkit.adapters import Adapter, Lora, attach
from steerkit.backends.huggingface import HuggingFaceModel

PROMPTS = ["Is the sea dry?", "no", [{"role": "user", "content": "Tell me (A) or (B)."}]]


def lora(model: HuggingFaceModel, *, seed: int = 0, size: float = 0.1, **form: Any) -> Adapter:
    """A LoRA adapter with random weights in A and B."""
    config = Lora(**{"targets": "all-linear", "r": 4, **form}).config(model)
    with attach(model, {"new": config}) as attached:
        empty = attached.adapter("new", meta={"model": model.info.as_dict()})
    draw = torch.Generator().manual_seed(seed)
    weights = {name: size * torch.randn(one.shape, generator=draw) for name, one in empty.weights.items()}
    return Adapter(empty.config, weights, empty.meta)


def reload(folder: Path, *, like: HuggingFaceModel, dtype: torch.dtype | None = None) -> HuggingFaceModel:
    """The folder read by plain transformers; wrapped so that the same prompts can be run."""
    hf = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype or "auto").eval()
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == like.tokenizer.get_vocab()
    return HuggingFaceModel(hf, like.tokenizer)


def logits(model: HuggingFaceModel, acting: Any = None, *, prompts: Any = PROMPTS) -> Tensor:
    """Of every token that is no padding: the model's, or those of something that acts on it."""
    batch = model.encode(prompts)
    found: Tensor = (acting or model).forward(batch)[batch.real]
    return found


def distance(a: Tensor, b: Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    return float((a - b).abs().max() / b.abs().max())


def snapshot(model: HuggingFaceModel) -> tuple[dict[str, Tensor], list[str], dict[str, Any]]:
    """Everything an export must leave as it is: tensors, modules, configuration."""
    tensors = {name: one.detach().clone() for name, one in model.hf.state_dict().items()}
    kinds = [f"{name} {type(module).__name__}" for name, module in model.hf.named_modules()]
    return tensors, kinds, model.hf.config.to_dict()


def assert_untouched(model: HuggingFaceModel, before: tuple[dict[str, Tensor], list[str], dict[str, Any]]) -> None:
    tensors, kinds, config = snapshot(model)
    assert tensors.keys() == before[0].keys()
    assert all(torch.equal(one, before[0][name]) for name, one in tensors.items())
    assert kinds == before[1]
    assert config == before[2]
    assert all(not module._forward_pre_hooks for module in model.hf.modules() if isinstance(module, torch.nn.Linear))
