"""The CAA run on a bridge of TransformerLens: python examples/caa_transformer_lens.py."""

from __future__ import annotations

from typing import Any

from caa_by_backend import main
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer

import steerkit as sk


def load(folder: str) -> Any:
    bridge = TransformerBridge.boot_transformers(folder, device="cpu")
    return sk.load(bridge, tokenizer=AutoTokenizer.from_pretrained(folder))


def own_call(model: Any, steer: sk.Steer, ids: Tensor) -> Tensor:
    """The bridge's own `generate`, which feeds one token after another itself."""
    with steer:
        return model.bridge.generate(ids, max_new_tokens=12, do_sample=False, verbose=False)


if __name__ == "__main__":
    main(load, own_call)
