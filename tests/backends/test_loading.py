from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_hf, tiny_tokenizer
from transformers import T5Config, T5ForConditionalGeneration

from steerkit.backends.layouts import LAYOUTS, Layout
from steerkit.backends.loading import load
from steerkit.backends.provenance import fingerprint_weights
from steerkit.errors import InputError, ModelError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny_hf("llama").save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def test_a_folder_loads_as_saved(folder: Path) -> None:
    model = load(folder)
    live = load(tiny_hf("llama"), tokenizer=tiny_tokenizer())
    assert model.info.fingerprint == live.info.fingerprint
    assert torch.equal(model.forward("hello"), live.forward("hello"))
    assert model.info.name == str(folder)


def test_dtype_is_taken(folder: Path) -> None:
    assert load(folder, dtype="bfloat16").info.dtype == "bfloat16"


def test_a_live_model_is_left_as_it_was() -> None:
    hf = tiny_hf("qwen3")
    before = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in hf.modules()]
    load(hf, tokenizer=tiny_tokenizer())
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in hf.modules()] == before
    assert "generate" not in vars(hf)


def test_fingerprints_tell_weights_apart_and_forget_precision() -> None:
    first, second = tiny_hf("llama", seed=0), tiny_hf("llama", seed=1)
    assert fingerprint_weights(first.named_parameters()) != fingerprint_weights(second.named_parameters())
    again = tiny_hf("llama", seed=0)
    again.model.layers[3].mlp.down_proj.weight.data[0, 0] += 1
    assert fingerprint_weights(first.named_parameters()) != fingerprint_weights(again.named_parameters())


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("source", "options", "error", "says"),
    [
        ("demo", {"backend": "jax"}, InputError, "choose one of huggingface"),
        ("demo", {"dtype": "int4"}, InputError, "choose one of float32, float16, bfloat16"),
        ("demo", {"device": "tpu"}, InputError, "device='tpu' is not valid"),
        ("demo", {"device": "cuda:99"}, InputError, "device='cuda:99' is not here"),
        ("demo", {"revision": "main"}, InputError, "leave it out"),
        ("./nowhere", {}, ModelError, "not a folder with a model"),
        ("", {}, InputError, "give 'demo', a local folder"),
        (3, {}, InputError, "give 'demo', a local folder"),
        ("no-such/model-anywhere", {}, ModelError, "cannot load a causal language model from 'no-such/model-anywhere'"),
    ],
)
def test_bad_sources_say_what_is_valid(source: Any, options: dict[str, Any], error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        load(source, **options)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        load(tmp_path)


def test_a_live_model_needs_its_tokenizer() -> None:
    with pytest.raises(InputError, match="needs its tokenizer"):
        load(tiny_hf("llama"))


def test_a_live_model_keeps_its_dtype() -> None:
    with pytest.raises(InputError, match="those of the live model"):
        load(tiny_hf("llama"), tokenizer=tiny_tokenizer(), dtype="float16")


def test_a_live_model_in_training_mode_is_refused() -> None:
    with pytest.raises(InputError, match=r"call model\.eval\(\)"):
        load(tiny_hf("llama").train(), tokenizer=tiny_tokenizer())


def test_an_encoder_decoder_is_refused() -> None:
    config = T5Config(vocab_size=99, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    with pytest.raises(ModelError, match="encoder-decoder"):
        load(T5ForConditionalGeneration(config).eval(), tokenizer=tiny_tokenizer())


def test_an_unknown_architecture_that_cannot_be_found_names_what_was_seen_and_what_to_do() -> None:
    hf = tiny_hf("llama")
    hf.config.model_type = "unheard-of"
    hf.config.num_hidden_layers = 5
    with pytest.raises(ModelError, match=r"Seen: model\.layers \(4 x Llama.*LAYOUTS\['unheard-of'\]"):
        load(hf, tokenizer=tiny_tokenizer())


@pytest.mark.parametrize(
    ("layout", "says"),
    [
        (Layout("model", "blocks", "self_attn", "mlp"), "does not fit"),
        (Layout("model", "layers", "input_layernorm", "mlp"), "off by"),
        (Layout("model", "layers", "self_attn", "post_attention_layernorm"), "off by"),
    ],
)
def test_a_false_layout_is_found_at_load(layout: Layout, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LAYOUTS, "llama", layout)
    with pytest.raises(ModelError, match=says):
        load(tiny_hf("llama"), tokenizer=tiny_tokenizer())
