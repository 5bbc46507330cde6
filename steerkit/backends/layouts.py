"""Where each architecture keeps its blocks: a table, no branches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from steerkit.errors import ModelError
from steerkit.points import SITES, Site

Paths = str | tuple[str, ...] | None
"""Where in a block a part lies; several where blocks differ, of which each block has one."""


@dataclass(frozen=True)
class Layout:
    """The names of an architecture's parts.

    Paths of attention, MLP and heads start at a block. Where blocks differ (a hybrid of attention and state space), a
    path may be several, of which each block has one.

    Args:
        decoder: Path from the causal model to the module that owns the blocks.
        blocks: Its list of blocks.
        attn: Whose output attention (or another mixer of tokens) adds to the residual stream: the attention itself, or
            the norm after it. None where what is added is no module's output.
        mlp: Likewise of the MLP; without it a block has none.
        heads: Attention's output projection; what it is given are the heads' outputs side by side.
        has_mid: The MLP reads the stream after attention has been added to it (not in parallel with it).
        packs: Attention takes a mask of its own, so that several continuations fit one row.
        cache: What its forward calls the cache.
        when: `(flag, value, changes)`: what is different where the configuration's flag has that value.
        note: What a reader of the table should know.
    """

    decoder: str
    blocks: str
    attn: Paths
    mlp: Paths
    heads: Paths = None
    has_mid: bool = True
    packs: bool = True
    cache: str = "past_key_values"
    when: tuple[tuple[str, Any, dict[str, Any]], ...] = ()
    note: str = ""

    def of(self, config: Any) -> Layout:
        """The layout of one configuration."""
        layout = self
        for flag, value, changes in self.when:
            if getattr(config, flag, None) == value:
                layout = replace(layout, **changes)
        return layout


_LLAMA = Layout("model", "layers", "self_attn", "mlp", "self_attn.o_proj")
_POST_NORM = replace(_LLAMA, attn="post_attention_layernorm", mlp="post_feedforward_layernorm")
_PARALLEL = replace(_LLAMA, has_mid=False)
_DENSE = replace(_LLAMA, heads="self_attn.dense")
_SCALED = replace(_LLAMA, attn=None, mlp=None, has_mid=False, note="what a block adds is scaled: not a module's output")
_GPT2 = Layout("transformer", "h", "attn", "mlp", "attn.c_proj")
_GPTJ = replace(_GPT2, heads="attn.out_proj", has_mid=False)
_LINEAR = replace(_LLAMA, attn=("linear_attn", "self_attn"), packs=False)
_HYBRID = replace(_LLAMA, attn=("mamba", "self_attn"), mlp="feed_forward", packs=False)
_MAMBA = Layout("backbone", "layers", "mixer", None, packs=False, cache="cache_params")
_BLOOM = Layout("transformer", "h", "self_attention.dense", "mlp.dense_4h_to_h", "self_attention.dense", packs=False)
_UNADDED = {"attn": None, "mlp": None, "has_mid": False}

LAYOUTS: dict[str, Layout] = {
    "apertus": _LLAMA,
    "arcee": _LLAMA,
    "bamba": _HYBRID,
    "bitnet": _LLAMA,
    "bloom": replace(_BLOOM, when=(("apply_residual_connection_post_layernorm", True, _UNADDED),)),
    "codegen": _GPTJ,
    "cohere": _PARALLEL,
    "cohere2": _PARALLEL,
    "dbrx": Layout("transformer", "blocks", "norm_attn_norm.attn", "ffn", "norm_attn_norm.attn.out_proj"),
    "deepseek_v2": _LLAMA,
    "deepseek_v3": _LLAMA,
    "ernie4_5": _LLAMA,
    "ernie4_5_moe": _LLAMA,
    "exaone4": _POST_NORM,
    "falcon": replace(
        _BLOOM,
        attn="self_attention",
        mlp="mlp",
        packs=True,
        when=(
            ("new_decoder_architecture", True, {"has_mid": False}),
            ("parallel_attn", True, {"has_mid": False}),
            ("alibi", True, {"packs": False}),
        ),
    ),
    "falcon_h1": replace(_HYBRID, attn=None, has_mid=False, note="attention and Mamba in parallel, each scaled"),
    "falcon_mamba": _MAMBA,
    "gemma": _LLAMA,
    "gemma2": _POST_NORM,
    "gemma3_text": _POST_NORM,
    "glm": _LLAMA,
    "glm4": replace(_LLAMA, attn="post_self_attn_layernorm", mlp="post_mlp_layernorm"),
    "glm4_moe": _LLAMA,
    "gpt2": _GPT2,
    "gpt_bigcode": _GPT2,
    "gpt_neo": replace(_GPT2, heads="attn.attention.out_proj", packs=False, note="local attention counts columns"),
    "gpt_neox": Layout(
        "gpt_neox",
        "layers",
        "attention",
        "mlp",
        "attention.dense",
        when=(("use_parallel_residual", True, {"has_mid": False}),),
    ),
    "gpt_oss": _LLAMA,
    "gptj": _GPTJ,
    "granite": _SCALED,
    "granitemoe": _SCALED,
    "helium": _LLAMA,
    "hunyuan_v1_dense": _LLAMA,
    "jamba": _HYBRID,
    "lfm2": replace(
        _HYBRID, attn=("conv", "self_attn"), heads="self_attn.out_proj", note="convolution in most blocks"
    ),
    "llama": _LLAMA,
    "llama4_text": replace(
        _LLAMA,
        mlp="feed_forward",
        when=(("attn_temperature_tuning", True, {"packs": False}),),
        note="temperature tuning counts padding: from `floor_scale` (8192) columns on, feed rows alone",
    ),
    "mamba": _MAMBA,
    "mamba2": _MAMBA,
    "ministral": _LLAMA,
    "ministral3": _LLAMA,
    "mistral": _LLAMA,
    "mixtral": _LLAMA,
    "mpt": Layout("transformer", "blocks", "attn", "ffn.down_proj", "attn.out_proj", packs=False),
    "nemotron": _LLAMA,
    "nemotron_h": Layout("model", "layers", None, None, "mixer.o_proj", packs=False,
                         note="one mixer a block, of tokens or not, all under one name"),
    "olmo": _LLAMA,
    "olmo2": _POST_NORM,
    "olmo3": _POST_NORM,
    "olmoe": _LLAMA,
    "opt": Layout(
        "model.decoder",
        "layers",
        "self_attn",
        "fc2",
        "self_attn.out_proj",
        when=(("do_layer_norm_before", False, _UNADDED),),
    ),
    "persimmon": _DENSE,
    "phi": replace(_DENSE, has_mid=False),
    "phi3": _LLAMA,
    "phimoe": _LLAMA,
    "qwen2": _LLAMA,
    "qwen2_5_vl_text": _LLAMA,
    "qwen2_moe": _LLAMA,
    "qwen2_vl_text": _LLAMA,
    "qwen3": _LLAMA,
    "qwen3_5_moe_text": _LINEAR,
    "qwen3_5_text": _LINEAR,
    "qwen3_moe": _LLAMA,
    "qwen3_next": _LINEAR,
    "qwen3_vl_moe_text": _LLAMA,
    "qwen3_vl_text": _LLAMA,
    "seed_oss": _LLAMA,
    "smollm3": _LLAMA,
    "stablelm": replace(_LLAMA, when=(("use_parallel_residual", True, {"has_mid": False}),)),
    "starcoder2": _LLAMA,
    "zamba2": Layout("model", "layers", ("mamba", "mamba_decoder.mamba"), None, packs=False,
                     note="what shared attention adds goes to the mixer alone, not to the stream"),
}  # fmt: skip
"""By transformers' `model_type` of the text part. A new architecture is one row and one tiny configuration in tests."""

WRAPPERS: dict[str, str] = {
    "gemma3": "model.language_model",
    "idefics3": "model.text_model",
    "internvl": "model.language_model",
    "llama4": "language_model.model",
    "llava": "model.language_model",
    "llava_next": "model.language_model",
    "llava_onevision": "model.language_model",
    "mistral3": "model.language_model",
    "qwen2_5_vl": "model.language_model",
    "qwen2_vl": "model.language_model",
    "qwen3_5": "model.language_model",
    "qwen3_5_moe": "model.language_model",
    "qwen3_vl": "model.language_model",
    "qwen3_vl_moe": "model.language_model",
    "smolvlm": "model.text_model",
}
"""Where a model that also sees or hears keeps its text part, whose own row tells the rest."""


@dataclass(frozen=True)
class Parts:
    """The modules of one model that its layout names."""

    layout: Layout
    decoder: nn.Module
    blocks: Sequence[nn.Module]

    def attn(self, layer: int) -> nn.Module:
        """What adds to the stream of a block after tokens were mixed."""
        return self._part(layer, self.layout.attn)

    def mlp(self, layer: int) -> nn.Module:
        """What adds to the stream of a block after its MLP."""
        return self._part(layer, self.layout.mlp)

    def heads(self, layer: int) -> nn.Module:
        """The projection that the heads' outputs go through."""
        return self._part(layer, self.layout.heads)

    def has(self, layer: int, site: Site) -> bool:
        """Whether a block has a site."""
        if site in ("resid_pre", "resid_post"):
            return True
        if site == "resid_mid":
            return self.layout.has_mid and self.has(layer, "attn_out") and self.has(layer, "mlp_out")
        return path_in(self.blocks[layer], {"attn_out": self.layout.attn, "mlp_out": self.layout.mlp,
                                            "z": self.layout.heads}[site]) is not None  # fmt: skip

    def sites(self, layer: int) -> tuple[Site, ...]:
        """The sites of a block, in the order in which they are computed."""
        return tuple(site for site in SITES if self.has(layer, site))

    def _part(self, layer: int, paths: Paths) -> nn.Module:
        path = path_in(self.blocks[layer], paths)
        if path is None:
            raise AttributeError(f"block {layer} has no {paths!r}")
        return self.blocks[layer].get_submodule(path)


def path_in(block: nn.Module, paths: Paths) -> str | None:
    """The first of the paths that a block has."""
    for path in (paths,) if isinstance(paths, str) else paths or ():
        try:
            block.get_submodule(path)
        except AttributeError:
            continue
        return path
    return None


def find_parts(model: Any) -> Parts:
    """The parts of a transformers model: by its row in the table, else by its structure.

    Raises:
        ModelError: It is an encoder-decoder, its row does not fit it, or it has none and no structure can be told.
    """
    kind = str(getattr(model.config, "model_type", "unknown"))
    if getattr(model.config, "is_encoder_decoder", False):
        raise ModelError(f"{kind} is an encoder-decoder model; steerkit steers causal (decoder-only) language models")
    layout = known_layout(model.config)
    if layout is not None:
        return parts_of(model, layout)
    from steerkit.backends.structure import find_structure

    return find_structure(model)


def known_layout(config: Any) -> Layout | None:
    """The row of a configuration, for its variant; nothing where the table has none."""
    kind, text = str(getattr(config, "model_type", "unknown")), config.get_text_config()
    row = LAYOUTS.get(kind)
    if row is None and kind in WRAPPERS and text.model_type in LAYOUTS:
        row = replace(LAYOUTS[text.model_type], decoder=WRAPPERS[kind])
    return None if row is None else row.of(text)


def parts_of(model: Any, layout: Layout) -> Parts:
    """The modules that a layout names.

    Raises:
        ModelError: The model has no such modules.
    """
    try:
        decoder = model.get_submodule(layout.decoder)
        parts = Parts(layout, decoder, list(decoder.get_submodule(layout.blocks)))
        for layer in range(len(parts.blocks)):
            layout.attn and parts.attn(layer), layout.mlp and parts.mlp(layer)
    except AttributeError as error:
        raise ModelError(f"the layout of {model.config.model_type!r} does not fit this model: {error}") from error
    return parts
