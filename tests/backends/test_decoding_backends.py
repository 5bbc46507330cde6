"""Every way of decoding through the other backends: the answers and the receipts of plain Hugging Face."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import tiny, tiny_hf, tiny_tokenizer

from steerkit.backends.loading import load
from steerkit.steering import Steer

VECTOR = 1.5 * torch.linspace(-1, 1, 32)
PROMPTS = ["The sea is", "A", "Dogs bark at the"]
WAYS: dict[str, dict[str, Any]] = {
    "uncached": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "prefill by 1": {"prefill_chunk_size": 1},
    "beams": {"num_beams": 3},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("backend", ["transformer_lens", "nnsight"])
def test_other_backends_decode_as_plain_hugging_face(backend: str, way: str) -> None:
    plain, model = tiny("llama"), load(tiny_hf("llama"), tokenizer=tiny_tokenizer(), backend=backend)
    prompts = PROMPTS[:1] if way == "prompt lookup" else PROMPTS
    for positions in ("all", "prompt", "generation", [2, 9]):
        steers = [Steer(one).add(VECTOR, layer=1, positions=positions) for one in (plain, model)]
        answers = [steer.generate(prompts, max_new_tokens=8, **WAYS[way]) for steer in steers]
        assert answers[0] == answers[1], positions
        assert steers[0].receipts[0].tokens == steers[1].receipts[0].tokens, positions
