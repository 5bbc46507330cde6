from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import ARCHITECTURES, VARIANTS, tiny, tiny_hf, tiny_tokenizer
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

from steerkit.backends.layouts import LAYOUTS, WRAPPERS, find_parts, known_layout
from steerkit.backends.loading import load
from steerkit.errors import LayerError, ModelError
from steerkit.points import Point
from steerkit.positions import Pass

SEEING = [name for name in ARCHITECTURES if name in WRAPPERS]


def test_every_row_has_a_tiny_model_and_every_tiny_model_a_row() -> None:
    texts = {name: getattr(tiny_hf(name).config.get_text_config(), "model_type", "") for name in SEEING}
    assert set(WRAPPERS) <= set(ARCHITECTURES)
    assert {*ARCHITECTURES} - {*SEEING} <= set(LAYOUTS)
    assert set(LAYOUTS) <= {*ARCHITECTURES, *texts.values()}


@pytest.mark.parametrize("architecture", SEEING)
def test_the_text_stack_is_picked_and_never_the_tower(architecture: str) -> None:
    model = tiny(architecture)
    decoder = model.parts.decoder
    assert model.info.num_layers == model.hf.config.get_text_config().num_hidden_layers == 4
    assert any(module is model.hf.get_input_embeddings() for module in decoder.modules())
    assert "ision" not in type(model.parts.blocks[0]).__name__
    towers = [path for path, module in model.hf.named_modules() if type(module).__name__ == "ModuleList"]
    assert len(towers) > 1, "the model has no tower that could be taken for the text"


@pytest.mark.parametrize(
    ("variant", "mid", "packs"),
    [
        ("falcon", False, True),
        ("falcon_parallel", False, True),
        ("falcon_sequential", True, True),
        ("falcon_alibi", True, False),
        ("gpt_neox", False, True),
        ("gpt_neox_sequential", True, True),
        ("stablelm", True, True),
        ("stablelm_parallel", False, True),
    ],
)
def test_a_flag_of_the_configuration_decides(variant: str, mid: bool, packs: bool) -> None:
    model = tiny(variant)
    assert ("resid_mid" in model.parts.sites(0)) == mid
    assert model.info.packs == packs


@pytest.mark.parametrize(
    ("architecture", "layer", "site"),
    [
        ("mamba", 0, "z"),
        ("mamba", 0, "mlp_out"),
        ("mamba", 0, "resid_mid"),
        ("granite", 1, "attn_out"),
        ("opt_post_norm", 1, "mlp_out"),
        ("cohere", 2, "resid_mid"),
        ("jamba", 0, "z"),
        ("falcon_h1", 3, "attn_out"),
    ],
)
def test_what_cannot_be_offered_truly_is_refused(architecture: str, layer: int, site: Any) -> None:
    model = tiny(architecture)
    with (
        pytest.raises(LayerError, match=f"block {layer} of .* has no site '{site}'; it has resid_pre, .*resid_post"),
        model.hook(Point(layer, site), lambda _hidden, _pass: None),
    ):
        pass


def test_a_hybrid_has_heads_where_it_attends() -> None:
    model = tiny("jamba")
    assert [model.parts.has(layer, "z") for layer in range(4)] == [False, True, False, True]
    assert model.info.width("z") == 32
    seen: list[Tensor] = []
    with model.hook(Point(1, "z"), lambda hidden, _pass: seen.append(hidden)):
        model.forward("abc")
    assert seen[0].shape[-1] == 32


def test_latent_attention_has_heads_of_its_own_width() -> None:
    model = tiny("deepseek_v3", v_head_dim=4)
    assert (model.info.heads, model.info.head_size, model.info.width("z")) == (4, 4, 16)


def test_layers_that_see_all_tokens_in_one_row_are_read_by_row() -> None:
    """OPT's MLP and Llama 4's experts run on `[batch * pos, hidden]`."""
    for architecture in ("opt", "llama4_text"):
        model, shapes = tiny(architecture), []

        def keep(hidden: Tensor, pass_: Pass, shapes: list[Any] = shapes) -> None:
            shapes.append((hidden.shape[:2], (pass_.batch, pass_.length)))

        with model.hook(Point(1, "mlp_out"), keep):
            model.forward(["abc", "a longer one"])
        assert shapes[0][0] == shapes[0][1]


@pytest.mark.parametrize("architecture", ["llava", "qwen2_vl", "gemma3"])
def test_a_model_that_also_sees_is_loaded_from_a_folder(architecture: str, tmp_path: Path) -> None:
    hf = tiny_hf(architecture)
    hf.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model = load(tmp_path)
    assert type(model.hf) is type(hf)
    assert torch.equal(model.forward("abc"), tiny(architecture).forward("abc"))


def test_an_encoder_decoder_in_a_folder_is_refused_with_the_reason(tmp_path: Path) -> None:
    T5ForConditionalGeneration(T5Config(vocab_size=99, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)).eval(
    ).save_pretrained(tmp_path)  # fmt: skip
    with pytest.raises(ModelError, match="t5 is an encoder-decoder model; steerkit steers causal"):
        load(tmp_path)


def test_generation_over_padding_knows_its_positions_in_every_kind_of_model() -> None:
    """Some models hand their decoder no plain mask, or none after the prompt."""
    for architecture in ("llama", "gemma3", "qwen2_vl", "mamba", "jamba"):
        model = tiny(architecture)
        seen: list[list[list[int]]] = []
        with model.hook(Point(0), lambda _hidden, pass_, seen=seen: seen.append(pass_.position.tolist())):
            model.generate(["abcdef", "ab"], max_new_tokens=3, min_new_tokens=3)
        lengths = [(row[-1] + 1) for row in seen[0]]
        assert seen[0][1][: lengths[0] - lengths[1]] == [-1] * (lengths[0] - lengths[1]), architecture
        assert seen[1:] == [[[length + step] for length in lengths] for step in range(len(seen) - 1)], architecture


def test_a_state_refuses_padding_that_it_would_take_in() -> None:
    from steerkit.backends.base import pad

    model = tiny("mamba")
    with pytest.raises(ModelError, match="would take in padding on the right"):
        model.prefill(pad([[5, 6, 7], [8]], [3, 1], pad_id=0, left=False))


def test_the_variants_are_rows_too() -> None:
    assert all(known_layout(tiny_hf(name).config) is not None for name in VARIANTS)
    assert find_parts(tiny_hf("mamba")).sites(0) == ("resid_pre", "attn_out", "resid_post")
