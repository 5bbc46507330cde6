"""The CAA run on a plain Hugging Face model: python examples/caa_huggingface.py."""

from __future__ import annotations

from typing import Any

from caa_by_backend import main
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

import steerkit as sk


def load(folder: str) -> Any:
    hf = AutoModelForCausalLM.from_pretrained(folder, dtype="float32", attn_implementation="eager").eval()
    return sk.load(hf, tokenizer=AutoTokenizer.from_pretrained(folder))


def own_call(model: Any, steer: sk.Steer, ids: Tensor) -> Tensor:
    """transformers' own `generate` on transformers' own model."""
    with steer:
        return model.hf.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=model.pad_id)


if __name__ == "__main__":
    main(load, own_call)
