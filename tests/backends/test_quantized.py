"""Quantized weights: read and steered like any others; the measure is the quantized model itself."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

import steerkit as sk
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.backends.loading import load
from steerkit.data.pairs import Pairs
from steerkit.doctor import examine
from steerkit.errors import InputError, MismatchError, ModelError
from steerkit.points import Point
from steerkit.steering import Steer

PROMPTS = ["Is the sea dry?", "A", "Is it true that dogs bark?"]
KINDS = {
    "bitsandbytes 8bit": ("bitsandbytes", lambda: "8bit"),
    "bitsandbytes 4bit": ("bitsandbytes", lambda: "4bit"),
    "quanto int8": ("optimum.quanto", lambda: _config("QuantoConfig", weights="int8")),
    "quanto int4": ("optimum.quanto", lambda: _config("QuantoConfig", weights="int4")),
    "torchao": ("torchao", lambda: _config("TorchAoConfig", _torchao())),
}
pytestmark = pytest.mark.filterwarnings("ignore")


def _config(name: str, *args: Any, **settings: Any) -> Any:
    import transformers

    return getattr(transformers, name)(*args, **settings)


def _torchao() -> Any:
    from torchao.quantization import Int8WeightOnlyConfig

    return Int8WeightOnlyConfig()


def _has(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@pytest.fixture(scope="module", params=KINDS)
def kind(request: Any) -> str:
    if not _has(KINDS[request.param][0]):
        pytest.skip(f"{KINDS[request.param][0]} is not installed")
    return str(request.param)


@pytest.fixture(scope="module")
def model(kind: str) -> HuggingFaceModel:
    return load("demo", quantization=KINDS[kind][1]())


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    return sk.load_pairs("demo:sycophancy", split="train")[:40]


def test_its_kind_is_named_and_the_contract_is_kept(model: HuggingFaceModel, kind: str) -> None:
    assert model.info.quantization == kind
    report = examine(model, full=True)
    assert report.healthy, repr(report)
    assert len(report.conformance) == 2
    assert kind in repr(report)


def test_an_addition_is_exact_and_the_model_is_itself_again(model: HuggingFaceModel) -> None:
    vector = torch.randn(model.info.hidden_size)
    base, stream = model.forward(PROMPTS[:1]), list[Tensor]()
    with Steer(model).add(vector, layer=3, positions="all") as steer:
        model.forward(PROMPTS[:1])
    with model.hook(Point(3), lambda h, _: stream.append(h)):
        model.forward(PROMPTS[:1])
    with Steer(model).add(vector, layer=3, positions="all"), model.hook(Point(3), lambda h, _: stream.append(h)):
        model.forward(PROMPTS[:1])
    assert torch.equal(stream[1], stream[0] + vector.to(stream[0].device))
    assert steer.receipts[0].tokens == stream[0].shape[1]
    assert steer.receipts[0].change_norm == pytest.approx(float(vector.norm()), rel=1e-4)
    assert torch.equal(model.forward(PROMPTS[:1]), base)


def test_its_vector_is_near_the_one_of_the_full_model_and_steers_as_that_does(
    model: HuggingFaceModel, pairs: Pairs
) -> None:
    full = load("demo")
    vectors = [sk.extract(sk.record(one, pairs, progress=False)) for one in (full, model)]
    assert float(vectors[0].cosine(vectors[1])[2:].min()) > 0.95
    test = sk.load_pairs("demo:sycophancy", split="test")[:12]
    grids = [
        sk.sweep(one, v, test, layers=[3], coefs=(-1, 0, 1)) for one, v in zip((full, model), vectors, strict=True)
    ]
    for coef in (-1, 0, 1):
        ours, theirs = (grid.at(layer=3, coef=coef).p_matching for grid in grids)
        assert ours == pytest.approx(theirs, abs=0.05)
    with pytest.raises(MismatchError, match="override=True"):
        Steer(model).add(vectors[0], layer=3)
    steer = Steer(model).add(vectors[0], layer=3, coef=-1, override=True)
    assert steer.generate(PROMPTS, max_new_tokens=6) == [steer.generate(p, max_new_tokens=6)[0] for p in PROMPTS]
    assert steer.receipts[0].tokens > 0


def test_a_vector_is_distilled_into_an_adapter_beside_the_quantized_weights(
    model: HuggingFaceModel, pairs: Pairs, kind: str
) -> None:
    if not kind.startswith("bitsandbytes"):
        pytest.skip("peft's adapters on these weights are not claimed")
    vector = sk.extract(sk.record(model, pairs, progress=False))
    base = model.forward(PROMPTS[:1])
    distilled = sk.distill(
        model,
        vector,
        layer=3,
        coef=-0.5,
        prompts=[pair.positive.prompt for pair in pairs][:8],
        fit=sk.Fit(steps=20),
        progress=False,
    )
    assert torch.equal(model.forward(PROMPTS[:1]), base)
    assert not torch.equal(distilled.forward(PROMPTS[:1]), base)


@pytest.mark.usefixtures("as_user")
def test_what_cannot_be_quantized_is_refused_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="choose '8bit' or '4bit'"):
        load("demo", quantization="2bit")
    full = load("demo")
    with pytest.raises(InputError, match="quantization are those of the live model"):
        load(full.hf, tokenizer=full.tokenizer, quantization="8bit")
    monkeypatch.setattr("steerkit.backends.loading.find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"steerkit\[quantize\]"):
        load("demo", quantization="4bit")
