"""What is measured: a random model of the real architecture, and A/B pairs of a stated length."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.data.chat import Prompt
from steerkit.data.pairs import ContrastPair, Side
from steerkit.vectors import SteeringVector

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from tiny import tiny_tokenizer


def llama(*, layers: int = 16, hidden: int = 256, vocab: int = 4000, device: str = "cpu") -> HuggingFaceModel:
    """A random Llama with heads of 64; its size is stated with every figure."""
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=layers,
        num_attention_heads=max(hidden // 64, 1), num_key_value_heads=max(hidden // 64, 1),
        max_position_embeddings=1024, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    return HuggingFaceModel(
        LlamaForCausalLM(config).eval().to(device), tiny_tokenizer(), name=f"llama-{layers}x{hidden}"
    )


def choices(count: int, *, tokens: int = 120) -> list[ContrastPair]:
    """A/B pairs whose prompts have just as many tokens: one a character, "(" and the letter apart as with Llama-2."""
    pairs = []
    for i in range(count):
        prompt = Prompt((f"Question {i}: " + "what is true of it, and why is it so? " * 40)[:tokens])
        answers = ("(A)", "(B)") if i % 2 else ("(B)", "(A)")
        pairs.append(ContrastPair(Side(prompt, answers[0]), Side(prompt, answers[1]), id=str(i)))
    return pairs


def random_vector(model: HuggingFaceModel) -> SteeringVector:
    """A random vector at every layer."""
    layers = model.info.num_layers
    return SteeringVector(torch.randn(layers, model.info.hidden_size), layers=range(layers))
