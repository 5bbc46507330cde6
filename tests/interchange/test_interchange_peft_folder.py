from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from exporting import distance, logits, lora
from tiny import CLASSIC, tiny

from steerkit.adapters import Adapter, FullWeights, Lora
from steerkit.errors import InputError, MismatchError
from steerkit.interchange import bias_adapter, save_merged, save_peft

PEFT_ALONE = """
import json, sys, warnings
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

warnings.simplefilter("ignore")
for case in sys.argv[2:]:
    base = AutoModelForCausalLM.from_pretrained(f"{case}/base").eval()
    model = PeftModel.from_pretrained(base, f"{case}/adapter").eval()
    with torch.no_grad():
        torch.save(model(torch.tensor([json.loads(sys.argv[1])])).logits, f"{case}/logits.pt")
assert "steerkit" not in sys.modules
"""
IDS = [1, 40, 50, 60, 70]


def test_peft_alone_gives_the_same_logits(tmp_path: Path) -> None:
    """In a process of its own that never imports steerkit."""
    expected, models = {}, {name: tiny(name) for name in ("llama", "gpt2", "mistral")}
    for name, model in models.items():
        some = bias_adapter(model, torch.ones(32), layer=2) if name == "mistral" else lora(model, blocks=[1, 2])
        saved = save_peft(model, some, tmp_path / name / "adapter")
        assert {one.name.split(".")[2] for one in saved.modules} == ({"2"} if name == "mistral" else {"1", "2"})
        model.hf.save_pretrained(tmp_path / name / "base")
        with some.on(model):
            expected[name] = model.hf(torch.tensor([IDS])).logits.detach()
    command = [sys.executable, "-c", PEFT_ALONE, json.dumps(IDS), *(str(tmp_path / name) for name in models)]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    for name, model in models.items():
        found = torch.load(tmp_path / name / "logits.pt", weights_only=True)
        assert torch.equal(found, expected[name]), name
        assert distance(found, model.hf(torch.tensor([IDS])).logits.detach()) > 1e-2


@pytest.mark.parametrize("architecture", sorted(CLASSIC))
def test_it_is_read_back(architecture: str, tmp_path: Path) -> None:
    model = tiny(architecture)
    adapter = lora(model, targets="attention")
    saved = save_peft(model, adapter, tmp_path / "adapter")
    again = Adapter.load(saved.folder)
    assert torch.equal(logits(model, again.on(model)), logits(model, adapter.on(model)))
    assert (saved.folder / "tokenizer.json").is_file()
    assert saved.parameters == adapter.size


def test_the_table_says_how_large_the_changes_are(tmp_path: Path) -> None:
    model = tiny("llama")
    adapter = lora(model, targets=["q_proj"], blocks=[1])
    saved = save_peft(model, adapter, tmp_path / "adapter")
    key = "base_model.model.model.layers.1.self_attn.q_proj.lora"
    delta = 4 * adapter.weights[f"{key}_B.weight"] @ adapter.weights[f"{key}_A.weight"]
    assert saved.modules[0].delta == pytest.approx(float(delta.norm()))
    assert saved.modules[0].rank == 4
    assert "without steerkit" in repr(saved)
    assert json.loads(saved.to_json())["modules"][0]["bias"] == 0
    assert len(saved.to_frame()) == 1
    bias = save_peft(model, bias_adapter(model, torch.ones(32), layer=1, coef=2), tmp_path / "bias")
    assert bias.modules[0].bias == pytest.approx(2 * 32**0.5)


def test_a_folder_with_a_model_is_refused(tmp_path: Path) -> None:
    model = tiny("llama")
    save_merged(model, lora(model), tmp_path / "merged")
    with pytest.raises(InputError, match="holds a model"):
        save_peft(model, lora(model), tmp_path / "merged", overwrite=True)
    assert not (tmp_path / "merged" / "adapter_config.json").exists()


def test_an_adapter_is_replaced_only_when_asked(tmp_path: Path) -> None:
    model = tiny("llama")
    save_peft(model, lora(model, seed=1), tmp_path / "adapter")
    with pytest.raises(InputError, match="holds an adapter already"):
        save_peft(model, lora(model, seed=2), tmp_path / "adapter")
    save_peft(model, lora(model, seed=2), tmp_path / "adapter", overwrite=True)
    again = Adapter.load(tmp_path / "adapter").weights
    assert all(torch.equal(again[name], one) for name, one in lora(model, seed=2).weights.items())
    assert [one.name for one in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.usefixtures("as_user")
def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    model, wide = tiny("llama"), tiny("llama", intermediate_size=48)
    with pytest.raises(MismatchError):
        save_peft(model, lora(wide), tmp_path / "adapter")
    with pytest.raises(InputError, match="another shape"):
        save_peft(model, lora(wide), tmp_path / "adapter", override=True)
    with pytest.raises(InputError, match="save_merged writes whole models"):
        save_peft(model, FullWeights({}), tmp_path / "adapter")
    with pytest.raises(InputError, match="LoraConfig is no peft adapter"):
        save_peft(model, Lora().config(model), tmp_path / "adapter")
    assert not list(tmp_path.iterdir())
