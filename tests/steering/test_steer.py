"""Acting, leaving, nesting: the life of a Steer, and the exactness of what it does."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tiny import CLASSIC, tiny
from torch import Tensor

from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.errors import LayerError, NoEffectWarning, SteeringError
from steerkit.points import SITES, Point
from steerkit.steering import Ablate, Add, Clamp, Edit, PreserveNorm, Steer
from steerkit.vectors import SteeringVector

PROMPTS = ["The sea is", "A", "Dogs bark at the"]
VECTOR = torch.linspace(-1, 1, 32)


def concept(*layers: int) -> SteeringVector:
    values = torch.stack([VECTOR.roll(layer) for layer in layers])
    return SteeringVector(values, layers=list(layers))


def read(model: Any, layer: int, prompts: Any = "hello there", site: Any = "resid_post") -> Tensor:
    kept: list[Tensor] = []
    with model.hook(Point(layer, site), lambda h, _: kept.append(h)):
        model.forward(prompts)
    return kept[0]


def hooks(model: HuggingFaceModel) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return sum(len(getattr(module, kind)) for module in model.hf.modules() for kind in kinds)


def pristine(model: HuggingFaceModel) -> bool:
    return hooks(model) == 0 and "generate" not in vars(model.hf)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("site", SITES)
def test_add_shifts_the_point_exactly(architecture: str, site: Any) -> None:
    model = tiny(architecture)
    base = read(model, 2, site=site)
    with Steer(model).add(VECTOR, layer=2, coef=-1.5, positions="all", site=site):
        assert torch.allclose(read(model, 2, site=site), base - 1.5 * VECTOR, atol=1e-5)


def test_the_other_operations_act_in_the_model_as_their_equations_say() -> None:
    model, unit = tiny("llama"), VECTOR / VECTOR.norm()
    base = read(model, 1)
    with Steer(model).ablate(VECTOR, layer=1, positions="all"):
        assert (read(model, 1) @ unit).abs().max() < 1e-5
    with Steer(model).clamp(VECTOR, layer=1, value=2.0, positions="all"):
        assert torch.allclose(read(model, 1) @ unit, torch.tensor(2.0), atol=1e-5)
    with Steer(model).add(VECTOR, layer=1, coef=3, positions="all", preserve_norm=True):
        assert torch.allclose(read(model, 1).norm(dim=-1), base.norm(dim=-1), rtol=1e-5)


@dataclass(frozen=True)
class Flip:
    def __call__(self, hidden: Tensor, vector: Tensor, coef: float | Tensor) -> Tensor:
        assert hidden.dtype == torch.float32
        return -hidden


def test_any_operation_from_a_file_of_ones_own() -> None:
    model = tiny("llama")
    base = read(model, 1)
    with Steer(model).apply(Flip(), VECTOR, layer=1, positions=slice(1, 3)):
        seen = read(model, 1)
    assert torch.equal(seen[:, 1:3], -base[:, 1:3])
    assert torch.equal(seen[:, :1], base[:, :1])
    assert torch.equal(seen[:, 3:], base[:, 3:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("operation", [Add(), Ablate(), Clamp(), PreserveNorm()])
def test_unselected_tokens_stay_bit_for_bit(operation: Any, dtype: torch.dtype) -> None:
    full = tiny("llama")
    model = HuggingFaceModel(full.hf.to(dtype), full.tokenizer, name="x")
    base = read(model, 1, PROMPTS)
    position = model.encode(PROMPTS).position
    with Steer(model).apply(operation, VECTOR, layer=1, coef=0.7, positions=[2]):
        seen = read(model, 1, PROMPTS)
    assert seen.dtype == dtype
    assert torch.equal(seen[position != 2], base[position != 2])
    assert not torch.equal(seen[position == 2], base[position == 2])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_half_precision_rounds_once(dtype: torch.dtype, tolerance: float) -> None:
    full = tiny("llama")
    model = HuggingFaceModel(full.hf.to(dtype), full.tokenizer, name="half")
    for positions in ("all", "generation"):
        base = read(model, 1, PROMPTS).float()
        steer = Steer(model).add(VECTOR, layer=1, coef=1 / 3, positions=positions)  # type: ignore[arg-type]
        with steer:
            seen = read(model, 1, PROMPTS)
            model.generate(PROMPTS, max_new_tokens=3)
        real = model.encode(PROMPTS).real
        chosen = real if positions == "all" else model.encode(PROMPTS).position == real.sum(1, keepdim=True) - 1
        exact = (base + VECTOR / 3)[chosen]
        assert ((seen[chosen].float() - exact).abs() <= tolerance * exact.abs() + 1e-7).all()


def test_rest_is_exact_after_leaving() -> None:
    model = tiny("qwen2")
    base, answers = model.forward(PROMPTS), model.generate(PROMPTS, max_new_tokens=5)
    steer = Steer(model).add(concept(0, 2), layer="all", coef=4).ablate(VECTOR, layer=[1, 3], positions="all")
    assert torch.equal(model.forward(PROMPTS), base)
    with steer:
        assert not torch.allclose(model.forward(PROMPTS), base, atol=1e-2)
    assert pristine(model)
    assert torch.equal(model.forward(PROMPTS), base)
    assert model.generate(PROMPTS, max_new_tokens=5) == answers
    steered = steer.generate(PROMPTS, max_new_tokens=5)
    assert steered != answers
    assert steered == steer.generate(PROMPTS, max_new_tokens=5)
    assert pristine(model)


def test_an_exception_passes_unchanged_unmasked_and_leaves_no_trace() -> None:
    model = tiny("llama")
    base = model.forward("abc")

    def fail() -> None:
        with Steer(model).add(VECTOR, layer=1, positions=99):
            model.forward("abc")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert pristine(model)
    assert torch.equal(model.forward("abc"), base)

    @dataclass(frozen=True)
    class Broken:
        def __call__(self, hidden: Tensor, vector: Tensor, coef: float | Tensor) -> Tensor:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        Steer(model).apply(Broken(), VECTOR, layer=1).generate("abc", max_new_tokens=2)
    assert pristine(model)
    assert torch.equal(model.forward("abc"), base)


def test_a_zero_coefficient_is_the_base_bit_for_bit() -> None:
    model = tiny("llama")
    base = model.forward(PROMPTS)
    for steer in (
        Steer(model).add(VECTOR, layer="all", coef=0, positions="all"),
        Steer(model).add(VECTOR, layer="all", coef=0, preserve_norm=True),
        Steer(model).add(VECTOR, layer=[0, 1], coef=torch.zeros(3), positions="all"),
        Steer(model).ablate(VECTOR, layer=2, coef=0),
    ):
        assert torch.equal(steer.forward(PROMPTS), base)
        assert [receipt.tokens for receipt in steer.receipts] == [0] * len(steer.receipts)


def test_a_zero_in_a_row_leaves_the_sign_of_zero_alone() -> None:
    model, seen = tiny("llama"), []
    steer = Steer(model).add(VECTOR, layer=1, coef=torch.tensor([0.0, 1.0]), positions="all")
    zeros = torch.full((2, 1, 32), -0.0)
    with (
        model.hook(Point(1), lambda h, _: zeros.expand_as(h)),
        steer,
        model.hook(Point(1), lambda h, _: seen.append(h)),
    ):
        model.forward(["a", "b"])
        model.hf(input_ids=torch.tensor([[5], [6]]))
    for hidden in seen:
        assert hidden[0].signbit().all()
        assert torch.allclose(hidden[1, -1], VECTOR)


def test_two_steers_compose_in_the_order_of_entering() -> None:
    model, unit = tiny("llama"), VECTOR / VECTOR.norm()
    add = Steer(model).add(VECTOR, layer=1, coef=2, positions="all")
    ablate = Steer(model).ablate(VECTOR, layer=1, positions="all")
    with add, ablate:
        assert (read(model, 1) @ unit).abs().max() < 1e-5
    with ablate, add:
        assert torch.allclose(read(model, 1) @ unit, 2 * VECTOR.norm(), atol=1e-5)
    add.__enter__()
    ablate.__enter__()
    add.__exit__(None, None, None)
    assert (read(model, 1) @ unit).abs().max() < 1e-5
    ablate.__exit__(None, None, None)
    assert pristine(model)


def test_entering_twice_is_refused_and_its_own_calls_do_not_apply_twice() -> None:
    model = tiny("llama")
    steer = Steer(model).add(VECTOR, layer=1, positions="all")
    once = steer.forward("abc")
    with steer:
        with pytest.raises(SteeringError, match="acts already"), steer:
            pass
        assert torch.equal(steer.forward("abc"), once)
        assert torch.equal(model.forward("abc"), once)
    assert pristine(model)


def test_an_edit_added_inside_acts_at_once() -> None:
    model = tiny("llama")
    base = read(model, 1)
    with Steer(model) as steer:
        assert torch.equal(read(model, 1), base)
        assert steer.add(VECTOR, layer=1, positions="all") is steer
        assert torch.allclose(read(model, 1), base + VECTOR, atol=1e-5)
        with pytest.raises(LayerError, match="0 to 3"):
            steer.add(VECTOR, layer=[1, 7])
        assert len(steer.edits) == 1
        assert torch.allclose(read(model, 1), base + VECTOR, atol=1e-5)
    assert pristine(model)


def test_entering_is_all_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    steer = Steer(model).add(VECTOR, layer=[1, 2])
    hook = model.hook

    def refuse_the_second(point: Point, fn: Any) -> Any:
        if point.layer == 2:
            raise LayerError("not here")
        return hook(point, fn)

    with monkeypatch.context() as patch:
        patch.setattr(model, "hook", refuse_the_second)
        with pytest.raises(LayerError, match="not here"), steer:
            pass
        assert pristine(model)
        assert not steer.active
    with steer:
        assert steer.active


def test_a_site_that_no_block_has_is_refused_when_the_edit_is_added() -> None:
    model = tiny("gpt_neox")
    with Steer(model) as steer:
        with pytest.raises(LayerError, match="no site 'resid_mid'"):
            steer.add(VECTOR, layer=[0, 1], site="resid_mid")
        assert steer.edits == ()
    assert pristine(model)


@pytest.mark.parametrize("asked_before", [False, True])
def test_hidden_states_show_the_edit_whichever_came_first(asked_before: bool) -> None:
    model, ids = tiny("llama"), torch.tensor([[5, 6, 7, 8]])

    def states() -> Any:
        with torch.no_grad():
            return model.hf(input_ids=ids, output_hidden_states=True).hidden_states

    if asked_before:
        base = states()
    with Steer(model).add(VECTOR, layer=1, positions="all"):
        edited = states()
    base = base if asked_before else states()
    assert torch.allclose(edited[2], base[2] + VECTOR, atol=1e-5)
    assert torch.equal(edited[1], base[1])
    assert all(torch.equal(a, b) for a, b in zip(states(), base, strict=True))


def test_inference_mode_first_then_gradients() -> None:
    model, ids = tiny("llama"), torch.tensor([[5, 6, 7, 8]])
    steer = Steer(model).add(VECTOR, layer=1, coef=torch.tensor([0.5]), positions="all")
    steer.ablate(VECTOR, layer=2, coef=torch.tensor([0.5]))
    with torch.inference_mode():
        inside = steer.forward("abcd")
    assert torch.equal(steer.forward("abcd"), inside)
    model.hf.train()
    with steer:
        model.hf(input_ids=ids).logits.square().sum().backward()
        with torch.no_grad():
            kept = model.hf.model.embed_tokens.weight.grad.clone()
    assert kept.isfinite().all()
    assert kept[5:9].abs().sum() > 0
    model.hf.eval()


def test_gradients_are_those_of_the_edited_function() -> None:
    full = tiny("gpt2")
    model = HuggingFaceModel(full.hf.double(), full.tokenizer, name="double")
    embeds = torch.randn(1, 3, 32, dtype=torch.float64, requires_grad=True)
    with Steer(model).add(VECTOR, layer=1, positions="all").ablate(VECTOR, layer=2, coef=0.5, positions=[1]):
        assert torch.autograd.gradcheck(lambda e: model.hf(inputs_embeds=e).logits[..., :2], (embeds,), eps=1e-6)


def test_several_layers_each_with_its_own_row_from_a_generator() -> None:
    model, vector = tiny("llama"), concept(1, 3)
    steer = Steer(model).add(vector, layer=(layer for layer in (3, 1)), positions="all")
    twice = [steer.forward("abc"), steer.forward("abc")]
    by_hand = Steer(model).add(vector[1], layer=1, positions="all").add(vector[3], layer=3, positions="all")
    assert torch.equal(twice[0], twice[1])
    assert torch.equal(twice[0], by_hand.forward("abc"))
    assert torch.equal(twice[0], Steer(model).add(vector, layer="all", positions="all").forward("abc"))
    everywhere = Steer(model).add(VECTOR, layer="all")
    assert [receipt.layer for receipt in everywhere.receipts] == [0, 1, 2, 3]


def test_what_the_caller_does_to_the_tensor_later_does_not_reach_the_edit() -> None:
    model, vector = tiny("llama"), VECTOR.clone()
    steer = Steer(model).add(vector, layer=1)
    before = steer.forward("abc")
    vector.zero_()
    assert torch.equal(steer.forward("abc"), before)


def test_an_edit_that_touched_nothing_warns_and_names_itself() -> None:
    model = tiny("llama")
    steer = Steer(model).add(VECTOR, layer=1).ablate(VECTOR, layer=[2, 3], positions=40)
    with pytest.warns(
        NoEffectWarning, match=r"layer=\[2, 3\].*Ablate\(\).*no token in 1 forward passes.*positions=40"
    ) as w:
        steer.forward("abc")
    assert len(w) == 1
    with steer:
        pass
    with Steer(model).add(VECTOR, layer=1, positions=40, coef=0):
        model.forward("abc")


def test_offloaded_layers_are_steered_where_they_run() -> None:
    accelerate = pytest.importorskip("accelerate")
    expected = Steer(tiny("llama")).add(concept(1, 2), layer="all").generate(PROMPTS, max_new_tokens=5)
    model = tiny("llama")
    accelerate.cpu_offload(model.hf, execution_device="cpu")
    before = hooks(model)
    base = model.forward(PROMPTS)
    steer = Steer(model).add(concept(1, 2), layer="all")
    assert steer.generate(PROMPTS, max_new_tokens=5) == expected
    assert hooks(model) == before
    assert torch.equal(model.forward(PROMPTS), base)


@pytest.fixture(params=CLASSIC)
def model(request: Any) -> HuggingFaceModel:
    return tiny(request.param)


def test_steered_answers_are_the_same_cached_uncached_together_alone(model: HuggingFaceModel) -> None:
    for positions in ("generation", "all", slice(2, None)):
        steer = Steer(model).add(concept(1, 2), layer="all", coef=2, positions=positions)
        steer.ablate(VECTOR, layer=3, positions=positions)
        together = steer.generate(PROMPTS, max_new_tokens=6)
        assert together != model.generate(PROMPTS, max_new_tokens=6)
        assert together == steer.generate(PROMPTS, max_new_tokens=6, use_cache=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoEffectWarning)
            assert together == [steer.generate(prompt, max_new_tokens=6)[0] for prompt in PROMPTS]


def test_steered_logits_are_the_same_cached_and_uncached(model: HuggingFaceModel) -> None:
    batch = model.encode(PROMPTS)
    given = {"input_ids": batch.input_ids, "attention_mask": batch.real.long(), "max_new_tokens": 6, "do_sample": False}
    given |= {"output_logits": True, "return_dict_in_generate": True, "pad_token_id": 0}
    with Steer(model).add(VECTOR, layer=1, coef=2).clamp(VECTOR, layer=2, value=3.0, positions=[2, 5, 9]):
        cached = model.hf.generate(**given)
        uncached = model.hf.generate(**given, use_cache=False)
    assert torch.equal(cached.sequences, uncached.sequences)
    real = cached.sequences[:, batch.input_ids.shape[1] :].cummin(dim=1).values > 2
    for a, b, kept in zip(cached.logits, uncached.logits, real.T, strict=True):
        assert torch.allclose(a[kept], b[kept], atol=1e-5, rtol=1e-4)
    with Steer(model).rows([[Edit(VECTOR, layer=1)], [], []]):
        assert model.hf.generate(**given).sequences.shape[0] == 3
