"""Tiny random models of real architectures, with a tokenizer built in code: nothing is downloaded.

Classes are named by strings and imported when a model is asked for, so that importing this file stays cheap.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

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
_HEADS = {**_GROUPED, "head_dim": 8}
_OLD = {"vocab_size": 320, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 512}
_EXPERTS = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}
_SHARED = {**_EXPERTS, "shared_expert_intermediate_size": 16}
_LATENT = {
    **_GROUPED,
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
}
_ALTERNATING = {"sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"] * 2}
_MAMBA = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 4, "state_size": 8}
_DELTA = {
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "full_attention"] * 2,
}
_VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 6, "num_attention_heads": 2,
           "image_size": 28, "patch_size": 14}  # fmt: skip
_DEEP = {"depth": 6, "hidden_size": 16, "out_hidden_size": 32, "num_heads": 2, "intermediate_size": 32}
_ROPE3 = {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}}
_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_QWEN_VL = {"image_token_id": 310, "video_token_id": 311, "vision_start_token_id": 312, "vision_end_token_id": 313}
ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "apertus": ("ApertusConfig", "ApertusForCausalLM", _GROUPED),
    "arcee": ("ArceeConfig", "ArceeForCausalLM", _GROUPED),
    "bamba": ("BambaConfig", "BambaForCausalLM", {**_GROUPED, "attn_layer_indices": [1, 3], "mamba_n_heads": 4,
              "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 4}),
    "bitnet": ("BitNetConfig", "BitNetForCausalLM", _GROUPED),
    "bloom": ("BloomConfig", "BloomForCausalLM", {"vocab_size": 320, "hidden_size": 32, "n_layer": 4, "n_head": 4}),
    "codegen": ("CodeGenConfig", "CodeGenForCausalLM", {**_OLD, "rotary_dim": 4}),
    "cohere": ("CohereConfig", "CohereForCausalLM", _GROUPED),
    "cohere2": ("Cohere2Config", "Cohere2ForCausalLM", {**_GROUPED, **_ALTERNATING}),
    "dbrx": ("DbrxConfig", "DbrxForCausalLM", {"vocab_size": 320, "d_model": 32, "n_heads": 4, "n_layers": 4,
             "max_seq_len": 512, "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 1e4},
             "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2}}),
    "deepseek_v2": ("DeepseekV2Config", "DeepseekV2ForCausalLM", {**_LATENT, "q_lora_rank": None}),
    "deepseek_v3": ("DeepseekV3Config", "DeepseekV3ForCausalLM", {**_LATENT, "q_lora_rank": 16, "n_group": 2,
                    "topk_group": 1}),
    "ernie4_5": ("Ernie4_5Config", "Ernie4_5ForCausalLM", _HEADS),
    "ernie4_5_moe": ("Ernie4_5_MoeConfig", "Ernie4_5_MoeForCausalLM", {**_GROUPED,
                     "moe_intermediate_size": 16, "moe_num_experts": 4, "moe_k": 2}),
    "exaone4": ("Exaone4Config", "Exaone4ForCausalLM", {**_HEADS, **_ALTERNATING}),
    "falcon": ("FalconConfig", "FalconForCausalLM", {**_COMMON, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon_h1": ("FalconH1Config", "FalconH1ForCausalLM", {**_HEADS, "mamba_d_ssm": 32, "mamba_n_heads": 4,
                  "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 4}),
    "falcon_mamba": ("FalconMambaConfig", "FalconMambaForCausalLM", _MAMBA),
    "gemma": ("GemmaConfig", "GemmaForCausalLM", _HEADS),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", {**_HEADS, **_ALTERNATING}),
    "gemma3": ("Gemma3Config", "Gemma3ForConditionalGeneration", {
        "text_config": {**_HEADS, **_ALTERNATING, **_IDS}, "vision_config": _VISION, "mm_tokens_per_image": 4,
        "boi_token_index": 310, "eoi_token_index": 311, "image_token_index": 312}),
    "gemma3_text": ("Gemma3TextConfig", "Gemma3ForCausalLM", {**_HEADS, **_ALTERNATING}),
    "glm": ("GlmConfig", "GlmForCausalLM", _HEADS),
    "glm4": ("Glm4Config", "Glm4ForCausalLM", _HEADS),
    "glm4_moe": ("Glm4MoeConfig", "Glm4MoeForCausalLM", {**_HEADS, "moe_intermediate_size": 16, "n_routed_experts": 4,
                 "num_experts_per_tok": 2, "first_k_dense_replace": 1}),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", _OLD),
    "gpt_bigcode": ("GPTBigCodeConfig", "GPTBigCodeForCausalLM", _OLD),
    "gpt_neo": ("GPTNeoConfig", "GPTNeoForCausalLM", {"vocab_size": 320, "hidden_size": 32, "num_layers": 4,
                "num_heads": 4, "max_position_embeddings": 512, "attention_types": [[["global", "local"], 2]]}),
    "gpt_neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", {**_COMMON, "intermediate_size": 64, "rotary_pct": 0.5}),
    "gpt_oss": ("GptOssConfig", "GptOssForCausalLM", {**_HEADS, **_ALTERNATING, "num_local_experts": 4,
                "num_experts_per_tok": 2}),
    "gptj": ("GPTJConfig", "GPTJForCausalLM", {**_OLD, "rotary_dim": 4}),
    "granite": ("GraniteConfig", "GraniteForCausalLM", {**_GROUPED, "residual_multiplier": 0.3}),
    "granitemoe": ("GraniteMoeConfig", "GraniteMoeForCausalLM", {**_GROUPED, "residual_multiplier": 0.3,
                   "num_local_experts": 4}),
    "helium": ("HeliumConfig", "HeliumForCausalLM", _HEADS),
    "hunyuan_v1_dense": ("HunYuanDenseV1Config", "HunYuanDenseV1ForCausalLM", _HEADS),
    "idefics3": ("Idefics3Config", "Idefics3ForConditionalGeneration", {
        "text_config": {**_GROUPED, **_IDS, "model_type": "llama"}, "vision_config": _VISION, "image_token_id": 310}),
    "internvl": ("InternVLConfig", "InternVLForConditionalGeneration", {
        "text_config": {**_GROUPED, **_IDS, "model_type": "qwen2"}, "image_token_id": 310,
        "vision_config": {**_VISION, "image_size": [28, 28], "patch_size": [14, 14]}}),
    "jamba": ("JambaConfig", "JambaForCausalLM", {**_GROUPED, "attn_layer_period": 2, "attn_layer_offset": 1,
              "num_experts": 4, "num_experts_per_tok": 2, "mamba_d_state": 8, "mamba_dt_rank": 4,
              "use_mamba_kernels": False}),
    "lfm2": ("Lfm2Config", "Lfm2ForCausalLM", {**_GROUPED, "layer_types": ["conv", "full_attention"] * 2}),
    "llama": ("LlamaConfig", "LlamaForCausalLM", _GROUPED),
    "llama4": ("Llama4Config", "Llama4ForConditionalGeneration", {
        "text_config": {**_HEADS, **_IDS, "intermediate_size_mlp": 64, "num_local_experts": 4,
                        "interleave_moe_layer_step": 2, "attention_chunk_size": 64, "floor_scale": 512},
        "vision_config": {**_VISION, "vision_output_dim": 16, "projector_input_dim": 16,
                          "projector_output_dim": 16},
        "boi_token_index": 310, "eoi_token_index": 311, "image_token_index": 312}),
    "llama4_text": ("Llama4TextConfig", "Llama4ForCausalLM", {**_HEADS, "intermediate_size_mlp": 64,
                    "num_local_experts": 4, "interleave_moe_layer_step": 2, "attention_chunk_size": 64,
                    "floor_scale": 512}),
    "llava": ("LlavaConfig", "LlavaForConditionalGeneration", {
        "text_config": {**_GROUPED, **_IDS, "model_type": "llama"}, "image_token_index": 310,
        "vision_config": {**_VISION, "model_type": "clip_vision_model"}}),
    "llava_next": ("LlavaNextConfig", "LlavaNextForConditionalGeneration", {
        "text_config": {**_GROUPED, **_IDS, "model_type": "mistral"}, "image_token_index": 310,
        "vision_config": {**_VISION, "model_type": "clip_vision_model"}}),
    "llava_onevision": ("LlavaOnevisionConfig", "LlavaOnevisionForConditionalGeneration", {
        "text_config": {**_GROUPED, **_IDS, "model_type": "qwen2"}, "image_token_index": 310, "video_token_index": 311,
        "vision_config": {**_VISION, "model_type": "siglip_vision_model"}}),
    "mamba": ("MambaConfig", "MambaForCausalLM", _MAMBA),
    "mamba2": ("Mamba2Config", "Mamba2ForCausalLM", {**_MAMBA, "num_heads": 8, "head_dim": 8, "n_groups": 1,
               "chunk_size": 4}),
    "ministral": ("MinistralConfig", "MinistralForCausalLM", {**_HEADS, **_ALTERNATING}),
    "ministral3": ("Ministral3Config", "Ministral3ForCausalLM", _HEADS),
    "mistral": ("MistralConfig", "MistralForCausalLM", {**_GROUPED, "sliding_window": None}),
    "mistral3": ("Mistral3Config", "Mistral3ForConditionalGeneration", {
        "text_config": {**_GROUPED, **_IDS, "model_type": "mistral"}, "image_token_index": 310,
        "vision_config": {**_VISION, "model_type": "pixtral", "head_dim": 8}}),
    "mixtral": ("MixtralConfig", "MixtralForCausalLM", {**_GROUPED, "num_local_experts": 4}),
    "mpt": ("MptConfig", "MptForCausalLM", {"vocab_size": 320, "d_model": 32, "n_layers": 4, "n_heads": 4,
            "max_seq_len": 512, "expansion_ratio": 2}),
    "nemotron": ("NemotronConfig", "NemotronForCausalLM", _GROUPED),
    "nemotron_h": ("NemotronHConfig", "NemotronHForCausalLM", {**_HEADS,
                   "layers_block_type": ["mamba", "attention", "moe", "mlp"], "ssm_state_size": 8,
                   "mamba_num_heads": 4, "mamba_head_dim": 8, "n_groups": 1, "chunk_size": 4,
                   "moe_intermediate_size": 16, "moe_shared_expert_intermediate_size": 16, "time_step_min": 1e-9}),
    "olmo": ("OlmoConfig", "OlmoForCausalLM", _GROUPED),
    "olmo2": ("Olmo2Config", "Olmo2ForCausalLM", _GROUPED),
    "olmo3": ("Olmo3Config", "Olmo3ForCausalLM", {**_GROUPED, **_ALTERNATING}),
    "olmoe": ("OlmoeConfig", "OlmoeForCausalLM", {**_GROUPED, "num_experts": 4, "num_experts_per_tok": 2}),
    "opt": ("OPTConfig", "OPTForCausalLM", {**_COMMON, "ffn_dim": 64, "word_embed_proj_dim": 32}),
    "persimmon": ("PersimmonConfig", "PersimmonForCausalLM", {**_COMMON, "intermediate_size": 64}),
    "phi": ("PhiConfig", "PhiForCausalLM", {**_COMMON, "intermediate_size": 64}),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", _GROUPED),
    "phimoe": ("PhimoeConfig", "PhimoeForCausalLM", {**_GROUPED, "num_local_experts": 4}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", _GROUPED),
    "qwen2_5_vl": ("Qwen2_5_VLConfig", "Qwen2_5_VLForConditionalGeneration", {
        **_QWEN_VL, "text_config": {**_GROUPED, **_IDS, **_ROPE3},
        "vision_config": {**_DEEP, "fullatt_block_indexes": [1]}}),
    "qwen2_moe": ("Qwen2MoeConfig", "Qwen2MoeForCausalLM", {**_GROUPED, **_SHARED}),
    "qwen2_vl": ("Qwen2VLConfig", "Qwen2VLForConditionalGeneration", {
        **_QWEN_VL, "text_config": {**_GROUPED, **_IDS, **_ROPE3},
        "vision_config": {"depth": 6, "embed_dim": 16, "hidden_size": 32, "num_heads": 2}}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", _HEADS),
    "qwen3_5": ("Qwen3_5Config", "Qwen3_5ForConditionalGeneration", {
        **_QWEN_VL, "text_config": {**_HEADS, **_IDS, **_DELTA}, "vision_config": _DEEP}),
    "qwen3_5_moe": ("Qwen3_5MoeConfig", "Qwen3_5MoeForConditionalGeneration", {
        **_QWEN_VL, "text_config": {**_HEADS, **_SHARED, **_IDS, **_DELTA}, "vision_config": _DEEP}),
    "qwen3_5_moe_text": ("Qwen3_5MoeTextConfig", "Qwen3_5MoeForCausalLM", {**_HEADS, **_SHARED, **_DELTA}),
    "qwen3_5_text": ("Qwen3_5TextConfig", "Qwen3_5ForCausalLM", {**_HEADS, **_DELTA}),
    "qwen3_moe": ("Qwen3MoeConfig", "Qwen3MoeForCausalLM", {**_HEADS, **_EXPERTS}),
    "qwen3_next": ("Qwen3NextConfig", "Qwen3NextForCausalLM", {**_HEADS, **_SHARED, **_DELTA}),
    "qwen3_vl": ("Qwen3VLConfig", "Qwen3VLForConditionalGeneration", {
        **_QWEN_VL, "text_config": {**_HEADS, **_IDS, **_ROPE3},
        "vision_config": {**_DEEP, "deepstack_visual_indexes": [1]}}),
    "qwen3_vl_moe": ("Qwen3VLMoeConfig", "Qwen3VLMoeForConditionalGeneration", {
        **_QWEN_VL, "text_config": {**_HEADS, **_EXPERTS, **_IDS, **_ROPE3},
        "vision_config": {**_DEEP, "deepstack_visual_indexes": [1]}}),
    "seed_oss": ("SeedOssConfig", "SeedOssForCausalLM", _HEADS),
    "smollm3": ("SmolLM3Config", "SmolLM3ForCausalLM", _GROUPED),
    "smolvlm": ("SmolVLMConfig", "SmolVLMForConditionalGeneration", {
        "text_config": {**_GROUPED, **_IDS, "model_type": "llama"}, "vision_config": _VISION, "image_token_id": 310}),
    "stablelm": ("StableLmConfig", "StableLmForCausalLM", _GROUPED),
    "starcoder2": ("Starcoder2Config", "Starcoder2ForCausalLM", _GROUPED),
    "zamba2": ("Zamba2Config", "Zamba2ForCausalLM", {**_GROUPED, "num_key_value_heads": 4, "mamba_d_state": 8,
               "n_mamba_heads": 4, "mamba_ngroups": 1, "chunk_size": 4, "num_mem_blocks": 1,
               "layers_block_type": ["mamba", "hybrid"] * 2, "time_step_min": 1e-9}),
}  # fmt: skip
"""By `model_type`: the names of configuration and model in transformers, and what makes it tiny."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "bloom_post_norm": ("bloom", {"apply_residual_connection_post_layernorm": True}),
    "falcon_alibi": ("falcon", {"new_decoder_architecture": False, "alibi": True, "parallel_attn": False}),
    "falcon_parallel": ("falcon", {"new_decoder_architecture": False}),
    "falcon_sequential": ("falcon", {"new_decoder_architecture": False, "parallel_attn": False}),
    "gpt_neox_sequential": ("gpt_neox", {"use_parallel_residual": False}),
    "mistral_sliding": ("mistral", {"sliding_window": 6}),
    "opt_post_norm": ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 16}),
    "stablelm_parallel": ("stablelm", {"use_parallel_residual": True}),
}
"""Architectures whose blocks differ by a flag of the configuration."""

CLASSIC = ("gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3")
"""Plain attention and a plain MLP in every block: for what is the same whatever the architecture."""

EVERY = [name if name in (*CLASSIC, "bloom", "gemma3", "jamba", "mamba") else pytest.param(name, marks=pytest.mark.slow)
         for name in ARCHITECTURES]  # fmt: skip
"""All of them as parameters of a test; but for one of each sort they are slow."""


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
    architecture, given = VARIANTS.get(architecture, (architecture, {}))
    config_name, model_name, settings = ARCHITECTURES[architecture]
    library = import_module("transformers")
    ids = {} if "text_config" in settings else _IDS
    config = getattr(library, config_name)(**{**settings, **ids, **given, **changes})
    text = config.get_text_config()
    text.initializer_range = config.initializer_range = 0.2
    torch.manual_seed(seed)
    model = getattr(library, model_name)(config).eval()
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
