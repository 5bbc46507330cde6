from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from exporting import PROMPTS, assert_untouched, distance, logits, lora, reload, snapshot
from safetensors import safe_open
from tiny import CLASSIC, tiny
from transformers import AutoModelForCausalLM

import steerkit as sk
from steerkit.adapters import Adapter, FullWeights, stack
from steerkit.errors import InputError, MismatchError, ModelError
from steerkit.interchange import model_files, save_merged
from steerkit.interchange.changes import acting, changes_of

CLOSE = 5e-6
"""A few times what float32 leaves of the logits of these random models, whose weights are large."""


@pytest.mark.parametrize("architecture", sorted(CLASSIC))
def test_the_merged_model_is_the_adapter(architecture: str, tmp_path: Path) -> None:
    model = tiny(architecture)
    adapter = lora(model)
    before, plain = snapshot(model), logits(model)
    merged = save_merged(model, adapter, tmp_path / "merged")
    assert_untouched(model, before)
    assert torch.equal(logits(model), plain)
    adapted = logits(model, adapter.on(model))
    assert distance(adapted, plain) > 0.1
    assert distance(logits(reload(tmp_path / "merged", like=model)), adapted) < CLOSE
    assert merged.error < 1e-6
    assert merged.logit_error < CLOSE * merged.logit_effect


def test_a_trained_model_with_the_adapter_merged_is_that_with_the_adapter(tmp_path: Path) -> None:
    model = sk.load("demo")
    adapter = lora(model, targets="attention", size=0.02)
    merged = save_merged(model, adapter, tmp_path / "merged")
    again, adapted = sk.load(tmp_path / "merged"), adapter.on(model)
    assert distance(logits(again), logits(model, adapted)) < 1e-5
    assert distance(logits(again), logits(model)) > 0.01
    assert again.generate(PROMPTS, max_new_tokens=12) == adapted.generate(PROMPTS, max_new_tokens=12)
    assert merged.logit_error < 1e-4 * merged.logit_effect


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # what peft asks of transformers
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_weights_are_those_that_peft_merges_bit_for_bit(architecture: str, tmp_path: Path) -> None:
    from peft import PeftModel

    model = tiny(architecture)
    adapter = lora(model)
    save_merged(model, adapter, tmp_path / "ours")
    adapter.save(tmp_path / "adapter")
    model.hf.save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    theirs = PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload().state_dict()
    ours = reload(tmp_path / "ours", like=model).hf.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(one, theirs[name]) for name, one in ours.items())


@pytest.mark.parametrize("architecture", sorted(CLASSIC))
def test_the_files_are_those_that_transformers_writes(architecture: str, tmp_path: Path) -> None:
    """Names too: GPT-NeoX's files say `embed_out` where its memory says `lm_head`, and tied weights are there once."""
    model = tiny(architecture)
    save_merged(model, lora(model, size=0.0), tmp_path / "ours")
    model.hf.save_pretrained(tmp_path / "theirs")
    for file in ("config.json", "generation_config.json"):
        ours, theirs = (json.loads((tmp_path / who / file).read_text()) for who in ("ours", "theirs"))
        assert ours == theirs
    with (
        safe_open(tmp_path / "ours" / "model.safetensors", "pt") as ours,
        safe_open(tmp_path / "theirs" / "model.safetensors", "pt") as theirs,
    ):
        assert set(ours.keys()) == set(theirs.keys())
        assert ours.metadata() == theirs.metadata()
        assert all(torch.equal(ours.get_tensor(name), theirs.get_tensor(name)) for name in ours.keys())  # noqa: SIM118


def test_large_models_are_written_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    adapter = lora(model)
    monkeypatch.setattr(model_files, "SHARD_SIZE", 20_000)
    save_merged(model, adapter, tmp_path / "merged")
    assert len(list((tmp_path / "merged").glob("model-*.safetensors"))) > 3
    assert not (tmp_path / "merged" / "model.safetensors").exists()
    again = reload(tmp_path / "merged", like=model)
    assert distance(logits(again), logits(model, adapter.on(model))) < CLOSE


def test_the_difference_of_two_adapters_merges_as_one(tmp_path: Path) -> None:
    """Weight arithmetic: good less bad, exactly."""
    model = tiny("llama")
    good, bad = lora(model, seed=1), lora(model, seed=2, targets=["q_proj", "up_proj"], r=2)
    save_merged(model, stack([good, bad], weights=[1, -1]), tmp_path / "merged")
    again, own = reload(tmp_path / "merged", like=model).hf.state_dict(), model.hf.state_dict()
    for name in own:
        key = f"base_model.model.{name.removesuffix('.weight')}.lora"
        delta = torch.zeros_like(own[name])
        for sign, one, rank in ((1, good, 4), (-1, bad, 2)):
            if f"{key}_A.weight" in one.weights:
                delta += sign * 16 / rank * one.weights[f"{key}_B.weight"] @ one.weights[f"{key}_A.weight"]
        assert torch.allclose(again[name], own[name] + delta, atol=1e-5)


def test_full_weights_are_written_as_they_are(tmp_path: Path) -> None:
    model = tiny("gpt2")
    before = snapshot(model)
    tuned = {name: one.detach() + 0.1 for name, one in model.hf.named_parameters() if "wte" in name or "h.1.ln" in name}
    weights = FullWeights(tuned, {"model": model.info.as_dict()})
    merged = save_merged(model, weights, tmp_path / "merged")
    again = reload(tmp_path / "merged", like=model)
    assert all(torch.equal(again.hf.state_dict()[name], one) for name, one in tuned.items())
    assert torch.equal(logits(again), logits(model, weights.on(model)))
    assert merged.logit_error < 1e-6
    assert merged.error < 1e-6
    assert_untouched(model, before)


def test_a_failing_write_leaves_nothing_and_keeps_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("llama")
    save_merged(model, lora(model, seed=1), tmp_path / "merged")
    there = (tmp_path / "merged" / "model.safetensors").read_bytes()
    before = snapshot(model)

    def full_disk(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(type(model.tokenizer), "save_pretrained", full_disk)
    for folder in ("merged", "new"):
        with pytest.raises(OSError, match="no space left"):
            save_merged(model, lora(model, seed=2), tmp_path / folder, overwrite=True)
    assert [one.name for one in tmp_path.iterdir()] == ["merged"]
    assert (tmp_path / "merged" / "model.safetensors").read_bytes() == there
    assert_untouched(model, before)


def test_overwriting_replaces_the_whole_folder(tmp_path: Path) -> None:
    model = tiny("llama")
    save_merged(model, lora(model, seed=1), tmp_path / "merged")
    (tmp_path / "merged" / "stale.txt").write_text("old")
    with pytest.raises(InputError, match="holds a model already"):
        save_merged(model, lora(model, seed=2), tmp_path / "merged")
    save_merged(model, lora(model, seed=2), tmp_path / "merged", overwrite=True)
    assert not (tmp_path / "merged" / "stale.txt").exists()
    adapted = logits(model, lora(model, seed=2).on(model))
    assert distance(logits(reload(tmp_path / "merged", like=model)), adapted) < CLOSE


def test_a_folder_with_an_adapter_or_with_other_things_is_refused(tmp_path: Path) -> None:
    model = tiny("llama")
    adapter = lora(model)
    adapter.save(tmp_path / "adapter")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    for folder, says in (("adapter", "holds an adapter"), ("other", "holds other files")):
        with pytest.raises(InputError, match=says):
            save_merged(model, adapter, tmp_path / folder, overwrite=True)
    assert (tmp_path / "other" / "thesis.txt").read_text() == "mine"
    assert not (tmp_path / "adapter" / "config.json").exists()


def test_the_base_is_never_replaced(tmp_path: Path) -> None:
    model = tiny("llama")
    save_merged(model, lora(model), tmp_path / "base")
    again = reload(tmp_path / "base", like=model)
    with pytest.raises(InputError, match="where the base model lies"):
        save_merged(again, lora(again), tmp_path / "base", overwrite=True)


def test_tied_weights_as_targets_are_refused(tmp_path: Path) -> None:
    from peft import LoraConfig

    model = tiny("gpt2")
    config = LoraConfig(r=2, target_modules=["transformer.wte"])
    weights = {
        "base_model.model.transformer.wte.lora_embedding_A": torch.randn(2, 320),
        "base_model.model.transformer.wte.lora_embedding_B": torch.randn(32, 2),
    }
    with pytest.raises(ModelError, match=r"transformer\.wte shares its weight.*tied"):
        save_merged(model, Adapter(config, weights), tmp_path / "merged")
    assert not list(tmp_path.iterdir())


def test_a_variant_that_is_no_sum_is_refused(tmp_path: Path) -> None:
    model = tiny("llama")
    adapter = lora(model, targets=["q_proj"])
    adapter.config.use_dora = True
    sizes = {f"base_model.model.model.layers.{i}.self_attn.q_proj.lora_magnitude_vector.weight": torch.ones(32)
             for i in range(4)}  # fmt: skip
    with pytest.raises(InputError, match=r"not a sum of weights|does not fit"):
        save_merged(model, Adapter(adapter.config, {**adapter.weights, **sizes}), tmp_path / "merged")


def test_a_quantized_base_is_refused(tmp_path: Path) -> None:
    model = tiny("llama")
    adapter = lora(model)
    model.hf.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    with pytest.raises(ModelError, match=r"is quantized.*ship the adapter"):
        save_merged(model, adapter, tmp_path / "merged")


def test_overflow_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    model = tiny("llama")
    with pytest.raises(ModelError, match=r"overflows torch\.float16"):
        save_merged(model, lora(model, size=300.0), tmp_path / "merged", dtype="float16")
    assert not list(tmp_path.iterdir())


def test_the_base_of_another_adapter_is_refused(tmp_path: Path) -> None:
    model, other = tiny("llama"), tiny("llama", seed=7)
    with pytest.raises(MismatchError, match="override=True"):
        save_merged(other, lora(model), tmp_path / "merged")
    assert save_merged(other, lora(model), tmp_path / "merged", override=True).error < 1e-6


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dtype": "int8"}, "float32, float16, bfloat16"),
        ({"dtype": torch.int8}, "float32, float16, bfloat16"),
        ({"adapter": "adapter"}, "give an Adapter"),
        ({"adapter": FullWeights({})}, "changes no weight"),
        ({"model": None}, "plain Hugging Face model"),
        ({"folder": None}, "path of a new folder"),
    ],
)
def test_bad_input_is_refused(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    model = tiny("llama")
    given = {"model": model, "adapter": lora(model), "folder": tmp_path / "merged", **change}
    with pytest.raises(InputError, match=says):
        save_merged(given.pop("model"), given.pop("adapter"), given.pop("folder"), **given)
    assert not list(tmp_path.iterdir())


def test_a_model_that_carries_an_adapter_is_refused(tmp_path: Path) -> None:
    model = tiny("llama")
    adapter = lora(model)
    with adapter.on(model), pytest.raises(ModelError, match="leave the 'with'"):
        save_merged(model, adapter, tmp_path / "merged")


def test_it_prints_plots_and_can_be_taken_apart(tmp_path: Path) -> None:
    model = tiny("llama")
    merged = save_merged(model, lora(model, targets=["q_proj"]), tmp_path / "merged", dtype="bfloat16")
    assert "logits: merged and adapter differ" in repr(merged)
    assert [row[0] for row in merged.table().rows][-1] == "all"
    assert len(merged.to_frame()) == 4
    assert json.loads(merged.to_json())["overall"]["values"] == 4 * 32 * 32
    assert [len(bar.x) for bar in merged.plot().data] == [4, 4]


def test_an_adapter_on_tuned_weights_is_merged_inside_their_with(tmp_path: Path) -> None:
    model = tiny("llama")
    adapter = lora(model)
    draw = torch.Generator().manual_seed(4)
    tuned = {
        name: one.detach() + 0.02 * torch.randn(one.shape, generator=draw) for name, one in model.hf.named_parameters()
    }
    foundation, before = FullWeights(tuned, {"model": model.info.as_dict()}), snapshot(model)
    with foundation.on(model):
        save_merged(model, adapter, tmp_path / "merged")
    assert_untouched(model, before)
    own, again = tiny("llama"), reload(tmp_path / "merged", like=model)
    own.hf.load_state_dict(tuned)
    assert distance(logits(again), logits(own, adapter.on(own, override=True))) < CLOSE


def test_merged_weights_are_there_only_while_their_module_runs() -> None:
    model = tiny("gpt2")
    adapter = lora(model)
    before = {name: one.detach().clone() for name, one in model.hf.named_parameters()}
    with torch.no_grad(), changes_of(model, adapter) as (changes, _):
        plain = logits(model)
        with acting(model.hf, changes, torch.float32):
            assert distance(logits(model), plain) > 0.1
            assert all(torch.equal(one.parameter, before[one.name]) for one in changes)
        assert torch.equal(logits(model), plain)
