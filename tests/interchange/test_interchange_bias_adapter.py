from __future__ import annotations

from pathlib import Path

import pytest
import torch
from exporting import PROMPTS, assert_untouched, distance, logits, snapshot
from tiny import CLASSIC, tiny

import steerkit as sk
from steerkit.adapters import Adapter
from steerkit.errors import ModelError, VectorError
from steerkit.interchange import bias_adapter, save_merged
from steerkit.interchange.down_projection import DOWN_PROJECTIONS

VECTOR = torch.linspace(-1, 2, 32)


@pytest.mark.parametrize("architecture", sorted(CLASSIC))
def test_it_does_what_the_hook_does(architecture: str) -> None:
    model = tiny(architecture)
    hooked = sk.Steer(model).add(VECTOR, layer=[1, 3], coef=-0.5, positions="all")
    before, plain = snapshot(model), logits(model)
    adapted = bias_adapter(model, VECTOR, layer=[1, 3], coef=-0.5).on(model)
    assert distance(logits(model, adapted), logits(model, hooked)) < 1e-6
    assert distance(logits(model, hooked), plain) > 1e-2
    assert adapted.generate(PROMPTS, max_new_tokens=8) == hooked.generate(PROMPTS, max_new_tokens=8)
    assert_untouched(model, before)


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.5, 2.0])
def test_its_scale_multiplies_the_vector(scale: float) -> None:
    model = tiny("qwen2")
    adapter = bias_adapter(model, VECTOR, layer=2)
    hooked = logits(model, sk.Steer(model).add(VECTOR, layer=2, coef=scale, positions="all"))
    assert distance(logits(model, adapter.on(model, scale=scale)), hooked) < 1e-6
    assert distance(logits(model, adapter.scaled(scale).on(model)), hooked) < 1e-6
    if scale == 0:
        assert torch.equal(logits(model, adapter.on(model, scale=0.0)), logits(model))


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    model = tiny("mistral")
    adapter = bias_adapter(model, VECTOR, layer=2, coef=3)
    adapter.save(tmp_path / "adapter")
    again = Adapter.load(tmp_path / "adapter")
    assert torch.equal(logits(model, again.on(model)), logits(model, adapter.on(model)))
    assert again.meta["coef"] == 3.0


def test_it_merges_where_the_layer_has_a_bias(tmp_path: Path) -> None:
    model = tiny("gpt2")
    adapter = bias_adapter(model, VECTOR, layer=2)
    merged = save_merged(model, adapter, tmp_path / "merged")
    assert [one.name for one in merged.weights][-1] == "transformer.h.2.mlp.c_proj.bias"
    hooked = sk.Steer(model).add(VECTOR, layer=2, positions="all")
    assert distance(logits(sk.load(tmp_path / "merged")), logits(model, hooked)) < 1e-6


def test_without_a_bias_in_the_base_merging_is_refused(tmp_path: Path) -> None:
    model = tiny("llama")
    with pytest.raises(ModelError, match="write the vector with bake_bias"):
        save_merged(model, bias_adapter(model, VECTOR, layer=2), tmp_path / "merged")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("as_user")
def test_a_vector_that_does_not_fit_is_refused() -> None:
    with pytest.raises(VectorError, match="hidden size 3"):
        bias_adapter(tiny("llama"), torch.ones(3), layer=1)


def test_an_architecture_that_is_not_in_the_table_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(DOWN_PROJECTIONS, "llama")
    with pytest.raises(ModelError, match=r"Add a row: .*DOWN_PROJECTIONS\['llama'\]"):
        bias_adapter(tiny("llama"), torch.ones(32), layer=1)
