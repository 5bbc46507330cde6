"""Half precision, compiled models and kinds of attention: steered as the plain model is."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tiny import tiny, tiny_hf, tiny_tokenizer
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations import flex_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import flash_attention_mask

import steerkit as sk
from steerkit.backends.base import pad
from steerkit.backends.loading import load
from steerkit.backends.provenance import fingerprint_weights
from steerkit.errors import ModelError
from steerkit.packing import can_pack, pack
from steerkit.points import Point
from steerkit.steering import Steer
from steerkit.testing import check_backend

VECTOR = 2 * torch.linspace(-1, 1, 32)
PROMPTS = ["The sea is", "A", "Dogs bark at the"]
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")


@pytest.mark.parametrize(("dtype", "within"), [("float16", 4e-3), ("bfloat16", 3e-2)])
def test_half_precision_adds_in_float32_rounds_once_and_stays_near_float32(dtype: str, within: float) -> None:
    """The figure: by how much of its largest value a steered logit may be off, next to the same model in float32."""
    full, half = sk.load("demo", dtype="float32"), sk.load("demo", dtype=dtype)
    vector = torch.randn(full.info.hidden_size)
    stream: list[Tensor] = []
    with half.hook(Point(3), lambda h, _: stream.append(h)):
        half.forward(PROMPTS[:1])
    with Steer(half).add(vector, layer=3, positions="all"), half.hook(Point(3), lambda h, _: stream.append(h)):
        half.forward(PROMPTS[:1])
    kind = getattr(torch, dtype)
    assert torch.equal(stream[1], (stream[0].float() + vector).to(kind))
    steered = [Steer(model).add(vector, layer=3).forward(PROMPTS[:1]).float() for model in (full, half)]
    base = full.forward(PROMPTS[:1])
    off = (steered[1] - steered[0]).abs().max() / steered[0].abs().max()
    assert off <= within
    assert off < 0.2 * (steered[0] - base).abs().max() / steered[0].abs().max()


def _forward(hf: Any, backend: str) -> None:
    hf.forward = torch.compile(hf.forward, backend=backend)


def _module(hf: Any, backend: str) -> None:
    hf.compile(backend=backend)


def _blocks(hf: Any, backend: str) -> None:
    for block in hf.model.layers:
        block.compile(backend=backend)


def _decoder(hf: Any, backend: str) -> None:
    hf.model = torch.compile(hf.model, backend=backend)


def _layers(hf: Any, backend: str) -> None:
    for i, block in enumerate(hf.model.layers):
        hf.model.layers[i] = torch.compile(block, backend=backend)


COMPILED: dict[str, Callable[[Any, str], None]] = {
    "hf.forward": _forward, "hf.compile()": _module, "each block": _blocks, "hf.model": _decoder,
    "each block wrapped": _layers,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _forget_compiled() -> Iterator[None]:
    yield
    torch.compiler.reset()


BEFORE = [(how, "eager", False) for how in COMPILED] + [("hf.compile()", "aot_eager", False)]
AFTER = [(how, "eager", True) for how in ("hf.forward", "hf.compile()", "each block")]


@pytest.mark.parametrize(("how", "backend", "after_load"), BEFORE + AFTER)
def test_a_compiled_model_is_steered_and_then_itself(how: str, backend: str, after_load: bool) -> None:
    plain, hf = tiny("llama"), tiny_hf("llama")
    if not after_load:
        COMPILED[how](hf, backend)
    model = load(hf, tokenizer=tiny_tokenizer())
    if after_load:
        COMPILED[how](hf, backend)
    assert model.info.fingerprint == plain.info.fingerprint
    base = model.forward(PROMPTS)
    assert torch.allclose(base, plain.forward(PROMPTS), atol=1e-5)
    for coef in (1.0, -2.0):
        steer, expected = (Steer(one).add(VECTOR, layer=[1, 2], coef=coef) for one in (model, plain))
        assert torch.allclose(steer.forward(PROMPTS), expected.forward(PROMPTS), atol=1e-5)
        assert steer.receipts[0].tokens == 3
        assert steer.generate(PROMPTS, max_new_tokens=5) == expected.generate(PROMPTS, max_new_tokens=5)
    assert torch.equal(model.forward(PROMPTS), base)


def test_a_model_in_the_wrapper_of_torch_compile_is_taken_out_of_it() -> None:
    plain, wrapper = tiny("llama"), torch.compile(tiny_hf("llama"), backend="eager")
    model = load(wrapper, tokenizer=tiny_tokenizer())
    ids = model.encode("The sea is").input_ids
    with torch.no_grad():
        base = wrapper(input_ids=ids).logits
        with Steer(model).add(VECTOR, layer=1) as steer:
            steered = wrapper(input_ids=ids).logits
        again = wrapper(input_ids=ids).logits
    assert torch.allclose(steered, Steer(plain).add(VECTOR, layer=1).forward("The sea is"), atol=1e-5)
    assert steer.receipts[0].tokens == 1
    assert torch.equal(base, again)
    assert not torch.allclose(base, steered, atol=1e-2)


def test_a_compiled_function_of_ones_own_is_steered_while_any_model_is_hooked() -> None:
    model, other = tiny("llama"), tiny("gpt2")
    run = torch.compile(lambda ids: model.hf(input_ids=ids).logits, backend="eager")
    ids = model.encode("The sea is").input_ids
    with torch.no_grad():
        base = run(ids)
        first, second = Steer(other).add(VECTOR, layer=1), Steer(model).add(VECTOR, layer=1)
        first.__enter__()
        second.__enter__()
        other.forward("x")
        first.__exit__(None, None, None)
        steered = run(ids)
        second.__exit__(None, None, None)
        assert torch.equal(run(ids), base)
    assert torch.allclose(steered, Steer(model).add(VECTOR, layer=1).forward("The sea is"), atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.filterwarnings("ignore")
def test_what_generate_compiles_into_cuda_graphs_is_steered_and_then_itself() -> None:
    model = load(tiny_hf("llama").cuda(), tokenizer=tiny_tokenizer())
    static = {"max_new_tokens": 12, "cache_implementation": "static"}
    base = model.generate(PROMPTS, **static)
    steer = Steer(model).add(VECTOR, layer=[1, 2], coef=2)
    assert steer.generate(PROMPTS, **static) == steer.generate(PROMPTS, max_new_tokens=12) != base
    assert steer.receipts[0].tokens == 3 * 12
    assert model.generate(PROMPTS, **static) == base


@pytest.mark.slow
@needs_compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_inductor_is_steered_and_then_itself() -> None:
    plain, model = tiny("llama"), tiny("llama")
    model.hf.compile()
    base = model.forward(PROMPTS)
    steered = Steer(model).add(VECTOR, layer=1).forward(PROMPTS)
    assert torch.allclose(base, plain.forward(PROMPTS), atol=1e-4)
    assert torch.allclose(steered, Steer(plain).add(VECTOR, layer=1).forward(PROMPTS), atol=1e-4)
    assert torch.equal(model.forward(PROMPTS), base)


@pytest.mark.slow
@needs_compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_flex_attention_is_steered_and_keeps_its_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's flex kernel for CPUs does not compile for decoding a padded batch, so texts alone are run."""
    model, plain = tiny("llama", attn_implementation="flex_attention"), tiny("llama")
    assert plain.info.packs
    assert not model.info.packs
    stances: list[str] = []
    inner = flex_attention.compile_friendly_flex_attention

    def note(*args: Any, **kwargs: Any) -> Any:
        stances.append(torch._dynamo.eval_frame._stance.stance)
        return inner(*args, **kwargs)

    monkeypatch.setattr(flex_attention, "compile_friendly_flex_attention", note)
    for prompt in PROMPTS:
        expected = Steer(plain).add(VECTOR, layer=1).forward(prompt)
        assert torch.allclose(Steer(model).add(VECTOR, layer=1).forward(prompt), expected, atol=1e-4)
        assert torch.allclose(model.forward(prompt), plain.forward(prompt), atol=1e-4)
    assert set(stances) == {"default"}


@pytest.fixture
def flash() -> Iterator[str]:
    """Flash attention's manners without its kernel: it is told padding by a flat mask, and takes no other."""
    name = "flash_attention_stand_in"

    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any) -> Any:
        assert mask is None or mask.ndim == 2
        length, seen = query.shape[2], key.shape[2]
        causal = torch.ones(length, seen, dtype=torch.bool).tril(seen - length)
        whole = causal if mask is None else causal & mask[:, None, None, :].bool()
        whole = whole | torch.eye(length, seen, dtype=torch.bool).roll(seen - length, 1)
        return sdpa_attention_forward(module, query, key, value, whole.expand(len(query), 1, -1, -1), **kwargs)

    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, flash_attention_mask)
    yield name
    del AttentionInterface._global_mapping[name], AttentionMaskInterface._global_mapping[name]


def test_flash_attention_is_run_without_packing(flash: str) -> None:
    plain, hf = tiny("llama"), tiny_hf("llama")
    hf.config._attn_implementation = flash
    model = load(hf, tokenizer=tiny_tokenizer())
    assert plain.info.packs
    assert not model.info.packs
    assert not can_pack(model.info, length=4)
    assert check_backend(model).passed
    pairs = sk.load_pairs("demo:sycophancy", split="train")[:4]
    stores = [sk.record(one, pairs, progress=False) for one in (plain, model)]
    assert torch.allclose(stores[0][2].positive, stores[1][2].positive, atol=1e-5)
    vector = sk.extract(stores[0])
    grids = [sk.sweep(one, vector, pairs, layers=[1], coefs=(-1, 0, 1)) for one in (plain, model)]
    for coef in (-1, 0, 1):
        ours, theirs = (grid.at(layer=1, coef=coef).p_matching for grid in grids)
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_a_packed_row_is_refused_where_flash_attention_came_after_load(flash: str) -> None:
    model = tiny("llama")
    model.hf.config._attn_implementation = flash
    packed = pack([[5, 6]], [[[7], [8]]], [2], pad_id=0)
    with pytest.raises(ModelError, match="takes no such mask"):
        model.forward(packed.batch)
    assert model.forward(pad([[5, 6]], [2], pad_id=0)).shape == (1, 2, 320)


def test_compiled_names_do_not_enter_the_fingerprint() -> None:
    hf = tiny_hf("llama")
    before = load(hf, tokenizer=tiny_tokenizer()).info.fingerprint
    _decoder(hf, "eager")
    assert load(hf, tokenizer=tiny_tokenizer()).info.fingerprint == before
    assert fingerprint_weights(hf.named_parameters()) != before
