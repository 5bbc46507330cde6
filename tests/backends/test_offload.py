"""Models spread over devices, with weights on the disk: as the model in memory, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_hf, tiny_tokenizer
from transformers import AutoModelForCausalLM

import steerkit as sk
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.backends.loading import load
from steerkit.errors import ModelError
from steerkit.points import Point
from steerkit.steering import Steer
from steerkit.steering.action import Action
from steerkit.testing import check_backend

PROMPTS = ["The sea is", "A", "Dogs bark at the"]
VECTOR = 2 * torch.linspace(-1, 1, 32)
TAIL = {"model.norm": "cpu", "model.rotary_emb": "cpu"}
MAPS: dict[str, dict[str, Any]] = {
    "blocks on CPU and disk": {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk",
                               "model.layers.2": "disk", "model.layers.3": "cpu", "lm_head": "cpu", **TAIL},
    "all on disk": {"model.embed_tokens": "disk", "model.layers": "disk", "lm_head": "disk", **TAIL},
}  # fmt: skip


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def folder(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny_hf("llama", tie_word_embeddings=request.param).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def spread(folder: Path, tmp_path: Path, where: dict[str, Any]) -> HuggingFaceModel:
    hf = AutoModelForCausalLM.from_pretrained(folder, device_map=where, offload_folder=tmp_path).eval()
    assert any(weight.device.type == "meta" for weight in hf.parameters())
    return load(hf, tokenizer=tiny_tokenizer())


@pytest.mark.parametrize("where", MAPS)
def test_weights_kept_elsewhere_change_nothing(folder: Path, tmp_path: Path, where: str) -> None:
    whole, model = load(folder), spread(folder, tmp_path, MAPS[where])
    assert model.info.fingerprint == whole.info.fingerprint
    assert model.info.device == "cpu"
    assert torch.equal(model.forward(PROMPTS), whole.forward(PROMPTS))
    pairs = sk.load_pairs("demo:sycophancy", split="train")[:4]
    stores = [sk.record(one, pairs, progress=False) for one in (whole, model)]
    for layer in range(4):
        assert torch.equal(stores[0][layer].positive, stores[1][layer].positive)
    vector = sk.extract(stores[0])
    grids = [sk.sweep(one, vector, pairs, layers=[0, 2], coefs=(-1, 0, 1)).to_frame() for one in (whole, model)]
    assert grids[0].equals(grids[1])
    for options in ({}, {"num_beams": 2}, {"cache_implementation": "static"}):
        steers = [Steer(one).add(vector, layer="all", coef=4) for one in (whole, model)]
        answers = [steer.generate(PROMPTS, max_new_tokens=5, **options) for steer in steers]
        assert answers[0] == answers[1] != whole.generate(PROMPTS, max_new_tokens=5, **options)
    assert torch.equal(model.forward(PROMPTS), whole.forward(PROMPTS))


def test_the_contract_is_kept_with_weights_on_the_disk(folder: Path, tmp_path: Path) -> None:
    assert check_backend(spread(folder, tmp_path, MAPS["all on disk"])).passed


def test_other_weights_on_the_disk_have_another_fingerprint(folder: Path, tmp_path: Path) -> None:
    first = spread(folder, tmp_path / "a", MAPS["all on disk"]).info.fingerprint
    hf = tiny_hf("llama", seed=7)
    hf.save_pretrained(tmp_path / "other")
    assert spread(tmp_path / "other", tmp_path / "b", MAPS["all on disk"]).info.fingerprint != first


def test_a_model_without_weights_is_refused() -> None:
    with torch.device("meta"):
        hf = tiny_hf("llama")
    with pytest.raises(ModelError, match="no weights: it is on the meta device"):
        load(hf, tokenizer=tiny_tokenizer())


def test_an_edit_is_brought_to_its_layer_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, moves = spread(folder, tmp_path, MAPS["blocks on CPU and disk"]), []
    prepare = Action._prepare
    monkeypatch.setattr(Action, "_prepare", lambda self, *given: moves.append(self) or prepare(self, *given))
    steer = Steer(model).add(VECTOR, layer=[0, 1, 2])
    steer.generate(PROMPTS, max_new_tokens=8, min_new_tokens=8)
    steer.generate(PROMPTS, max_new_tokens=8, min_new_tokens=8)
    assert len(moves) == len(set(moves)) == 3


@pytest.mark.skipif(torch.cuda.device_count() < 1, reason="no CUDA device")
def test_blocks_on_cpu_and_cuda_are_steered_where_they_run(folder: Path) -> None:
    """Two devices: every site, and the middle of a block that is given what another device computed."""
    where = {"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": "cpu", "model.layers.2": 0,
             "model.layers.3": "cpu", "lm_head": 0, "model.norm": 0, "model.rotary_emb": 0}  # fmt: skip
    whole = load(folder)
    hf = AutoModelForCausalLM.from_pretrained(folder, device_map=where).eval()
    model = load(hf, tokenizer=tiny_tokenizer())
    assert model.info.fingerprint == whole.info.fingerprint
    for site in ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post"):
        steers = [Steer(one).add(VECTOR, layer=[0, 1, 2, 3], site=site) for one in (whole, model)]
        logits = [steer.forward(PROMPTS).cpu() for steer in steers]
        assert torch.allclose(logits[0], logits[1], atol=1e-3)
    with model.hook(Point(2), lambda hidden, _: hidden + VECTOR.to(hidden.device)):
        model.forward(PROMPTS)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
def test_blocks_on_two_cuda_devices_are_steered_where_they_run(folder: Path) -> None:
    whole = load(folder)
    where = {"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": 0, "model.layers.2": 1,
             "model.layers.3": 1, "lm_head": 1 if not whole.hf.config.tie_word_embeddings else 0, "model.norm": 1,
             "model.rotary_emb": 0}  # fmt: skip
    hf = AutoModelForCausalLM.from_pretrained(folder, device_map=where).eval()
    model = load(hf, tokenizer=tiny_tokenizer())
    steers = [Steer(one).add(VECTOR, layer=[0, 1, 2, 3], site="resid_mid") for one in (whole, model)]
    logits = [steer.forward(PROMPTS).cpu() for steer in steers]
    assert torch.allclose(logits[0], logits[1], atol=1e-3)
