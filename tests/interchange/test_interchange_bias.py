from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from exporting import PROMPTS, assert_untouched, distance, logits, reload, snapshot
from tiny import tiny

import steerkit as sk
from steerkit.errors import InputError, LayerError, ModelError, SteeringError, VectorError
from steerkit.interchange import bake_bias
from steerkit.interchange.down_projection import down_projection

GENERATED = {"max_new_tokens": 12, "do_sample": False}


def some_vector(size: int = 32, *, seed: int = 5, length: float = 3.0) -> torch.Tensor:
    vector = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    return length * vector / vector.norm()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("layer", [0, 2, 3], ids="layer {}".format)
def test_a_baked_model_does_what_the_hook_does(architecture: str, layer: int, tmp_path: Path) -> None:
    model, vector = tiny(architecture), some_vector()
    hooked = sk.Steer(model).add(vector, layer=layer, coef=-1.5, positions="all")
    before = snapshot(model)
    baked = bake_bias(model, vector, tmp_path / "baked", layer=layer, coef=-1.5)
    assert_untouched(model, before)
    again = reload(tmp_path / "baked", like=model)
    assert distance(logits(model, hooked), logits(model)) > 1e-2
    assert distance(logits(again), logits(model, hooked)) < 1e-6
    assert again.generate(PROMPTS, **GENERATED) == hooked.generate(PROMPTS, **GENERATED)
    assert baked.biases[0].norm == pytest.approx(4.5)
    assert baked.error < 1e-6


def test_llama_gets_all_biases_that_its_configuration_switches_on(tmp_path: Path) -> None:
    model = tiny("llama")
    baked = bake_bias(model, some_vector(), tmp_path / "baked", layer=[1, 3], coef=2)
    config = json.loads((tmp_path / "baked" / "config.json").read_text())
    assert config["mlp_bias"] is True
    assert model.hf.config.mlp_bias is False
    again = reload(tmp_path / "baked", like=model).hf
    biases = {name: one for name, one in again.named_parameters() if name.endswith("_proj.bias")}
    assert len(biases) == 12
    assert {name for name, one in biases.items() if one.any()} == {
        "model.layers.1.mlp.down_proj.bias",
        "model.layers.3.mlp.down_proj.bias",
    }
    assert baked.filled == 10
    assert [one.layer for one in baked.biases] == [1, 3]


def test_baking_twice_adds_up(tmp_path: Path) -> None:
    """The second time the architecture has the bias already, and it is added to, not replaced."""
    model, first, second = tiny("llama"), some_vector(seed=1), some_vector(seed=2)
    bake_bias(model, first, tmp_path / "one", layer=1)
    baked = bake_bias(sk.load(tmp_path / "one"), second, tmp_path / "two", layer=1, coef=-1)
    assert baked.filled == 0
    assert baked.biases[0].bias_norm == pytest.approx(3.0)
    hooked = sk.Steer(model).add(first - second, layer=1, positions="all")
    assert distance(logits(reload(tmp_path / "two", like=model)), logits(model, hooked)) < 1e-6


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox"])
def test_an_existing_bias_is_added_to(architecture: str, tmp_path: Path) -> None:
    model = tiny(architecture)
    path, module = down_projection(model, 2)
    with torch.no_grad():
        module.bias.normal_(std=2.0, generator=torch.Generator().manual_seed(3))
    before = module.bias.detach()
    baked = bake_bias(model, some_vector(), tmp_path / "baked", layer=2)
    again = reload(tmp_path / "baked", like=model).hf.get_submodule(path)
    assert torch.allclose(again.bias, before + some_vector(), atol=1e-6)
    assert baked.biases[0].bias_norm == pytest.approx(float(before.norm()))


def test_a_concept_and_a_portable_strength_come_to_the_same_as_in_a_steer(tmp_path: Path) -> None:
    model = tiny("llama")
    meta = {"model": model.info.as_dict(), "residual_norm": {1: 7.0, 2: 9.0}}
    vector = sk.SteeringVector(torch.stack([some_vector(), some_vector(seed=6)]), layers=[1, 2], meta=meta)
    hooked = sk.Steer(model).add(vector, layer="all", coef=0.4, unit="residual", positions="all")
    baked = bake_bias(model, vector, tmp_path / "baked", layer="all", coef=0.4, unit="residual")
    assert [one.norm for one in baked.biases] == pytest.approx([2.8, 3.6])
    assert distance(logits(reload(tmp_path / "baked", like=model)), logits(model, hooked)) < 1e-6


def test_in_bfloat16_the_error_of_the_bias_is_stated(tmp_path: Path) -> None:
    model = tiny("llama")
    model.hf.to(torch.bfloat16)
    baked = bake_bias(model, some_vector(), tmp_path / "baked", layer=1)
    assert baked.dtype == "bfloat16"
    assert 2**-11 < baked.error < 2**-8
    assert reload(tmp_path / "baked", like=model).hf.dtype == torch.bfloat16


@pytest.mark.parametrize("architecture", ["mistral", "qwen2", "qwen3"])
def test_architectures_without_room_are_refused(architecture: str, tmp_path: Path) -> None:
    """Transformers would drop the bias at loading without a word."""
    with pytest.raises(ModelError, match=r"no way to switch it on.*drop it at loading; use bias_adapter"):
        bake_bias(tiny(architecture), some_vector(), tmp_path / "baked", layer=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"vector": torch.ones(31)}, VectorError, "hidden size 31"),
        ({"vector": torch.full((32,), torch.nan)}, VectorError, "NaN"),
        ({"vector": [1.0] * 32}, VectorError, "is a list"),
        (
            {"vector": sk.SteeringVector(torch.ones(32), layers=1, site="resid_pre")},
            VectorError,
            "belongs to resid_pre",
        ),
        ({"layer": 4}, LayerError, "0 to 3"),
        ({"layer": -1}, LayerError, "-1"),
        ({"coef": float("inf")}, SteeringError, "not finite"),
        ({"coef": torch.ones(2)}, SteeringError, "differs by row"),
        ({"folder": ""}, InputError, "path of a new folder"),
        ({"folder": "taken"}, InputError, "is a file"),
        ({"model": "demo"}, InputError, "a plain Hugging Face model, not on a str"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    change: dict[str, Any], error: type[Exception], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("taken").write_text("")
    given = {"model": tiny("llama"), "vector": some_vector(), "folder": "baked", "layer": 1, "coef": 1.0, **change}
    with pytest.raises(error, match=says):
        bake_bias(given.pop("model"), given.pop("vector"), given.pop("folder"), **given)
    assert [one.name for one in tmp_path.iterdir()] == ["taken"]


def test_it_prints_and_can_be_taken_apart(tmp_path: Path) -> None:
    baked = bake_bias(tiny("llama"), some_vector(), tmp_path / "baked", layer=1)
    assert "model.layers.1.mlp.down_proj.bias" in repr(baked)
    assert "11 biases of zeros" in repr(baked)
    assert json.loads(baked.to_json())["biases"][0]["layer"] == 1
    assert list(baked.to_frame()["layer"]) == [1]
    provenance = json.loads((tmp_path / "baked" / "provenance.json").read_text())
    assert provenance["baked"]["layers"] == [1]
