"""Tiny random models of real architectures, with a tokenizer built in code: nothing is downloaded."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from steerkit.backends.huggingface import HuggingFaceModel

CHAT_TEMPLATE = (
    "{{ '<s>' }}{% for m in messages %}"
    "{% if m['role'] == 'assistant' %}{{ ' [bot] ' + m['content'] }}{% if not loop.last %}{{ '</s>' }}{% endif %}"
    "{% else %}{{ '[' + m['role'] + '] ' + m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' [bot]' }}{% endif %}"
)
_COMMON = {
    "vocab_size": 320,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}
_GROUPED = {**_COMMON, "intermediate_size": 64, "num_key_value_heads": 2}
ARCHITECTURES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "gpt2": (
        GPT2Config,
        GPT2LMHeadModel,
        {"vocab_size": 320, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 512},
    ),
    "gpt_neox": (GPTNeoXConfig, GPTNeoXForCausalLM, {**_COMMON, "intermediate_size": 64, "rotary_pct": 0.5}),
    "llama": (LlamaConfig, LlamaForCausalLM, _GROUPED),
    "mistral": (MistralConfig, MistralForCausalLM, {**_GROUPED, "sliding_window": None}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, _GROUPED),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {**_GROUPED, "head_dim": 8}),
}


@cache
def tiny_tokenizer(*, chat: bool = True) -> PreTrainedTokenizerFast:
    """One token a character, after the special ones; `(`, letters and `)` are apart, as with Llama-2."""
    vocab = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}
    for code in [10, *range(32, 127)]:
        vocab[chr(code)] = len(vocab)
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=CHAT_TEMPLATE if chat else None,
        clean_up_tokenization_spaces=False,
    )


def tiny_hf(architecture: str = "llama", *, seed: int = 0, **changes: Any) -> Any:
    """A random transformers model, float32, in evaluation mode."""
    config_type, model_type, settings = ARCHITECTURES[architecture]
    torch.manual_seed(seed)
    config = config_type(**{**settings, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **changes})
    config.initializer_range = 0.2
    model = model_type(config).eval()
    torch.manual_seed(seed + 1)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def tiny(architecture: str = "llama", *, seed: int = 0, chat: bool = True, **changes: Any) -> HuggingFaceModel:
    """The same as a steerkit model."""
    return HuggingFaceModel(
        tiny_hf(architecture, seed=seed, **changes), tiny_tokenizer(chat=chat), name=f"tiny-{architecture}"
    )
