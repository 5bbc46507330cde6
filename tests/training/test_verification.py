"""What a verification measures: closed forms, plain code, and what must not matter."""

from __future__ import annotations

import json
import math

import pytest
import torch
from difference_cases import dual, online
from verification_cases import (
    LAYER,
    PROMPTS,
    constant,
    hook,
    pairs,
    random_adapter,
    tiny,
    vector,
    zero_adapter,
)

from steerkit.data.encoding import encode
from steerkit.diagnostics.imitation import fidelity
from steerkit.errors import DataError, InputError
from steerkit.evaluation.choices import score_choices
from steerkit.steering import Edit
from steerkit.training.differences.contrasts import find_contrast
from steerkit.training.differences.difference_teacher import DifferenceTeacher
from steerkit.training.distilling.edit_teacher import EditTeacher
from steerkit.training.verifying.dose import is_same_bits
from steerkit.training.verifying.merging import merged_weights
from steerkit.training.verifying.verification import verify


def test_the_dose_of_a_constant_is_its_scale() -> None:
    """At the edited layer the shift is the scale times the vector: the share along it is the scale itself."""
    model = tiny()
    found = verify(constant(model).on(model), steered=hook(model), prompts=PROMPTS, pairs=pairs(), max_new_tokens=0)
    dose = found.dose
    assert dose.scales == (-1.0, 0.0, 0.5, 1.0, 1.5)
    assert dose.along == pytest.approx(dose.scales, abs=1e-5)
    assert dose.monotone
    assert dose.zero_is_base
    assert dose.kl[1].rms == dose.kl[1].p95 == 0.0
    (arms,) = found.choices.values()
    assert torch.equal(dose.choices[1].items.p_matching, arms.scores["base"].items.p_matching)
    assert torch.equal(dose.choices[3].items.p_matching, arms.scores["LoRA"].items.p_matching)


def test_the_models_are_compared_item_by_item() -> None:
    model, asked = tiny(), pairs()
    adapted = random_adapter(model, size=0.2).on(model)
    (arms,) = verify(adapted, steered=hook(model), prompts=PROMPTS, pairs=asked, max_new_tokens=0).choices.values()
    lora, base = (score_choices(one, asked).items.p_matching for one in (adapted, model))
    found = arms.less("LoRA", "base")
    assert found.mean == pytest.approx(float((lora - base).mean()), abs=1e-12)
    assert found.stderr == pytest.approx(float((lora - base).std() / math.sqrt(len(asked))), abs=1e-12)
    assert list(arms.scores) == ["base", "hook", "LoRA", "merged"]
    assert abs(arms.less("merged", "LoRA").mean) < 1e-5


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_merged_weights_are_the_sum(architecture: str) -> None:
    """Float32: the adapter's logits; each weight is W + (alpha / r) B A, also where it is stored as [in, out]."""
    model = tiny(architecture)
    adapter = random_adapter(model, size=0.2)
    weights, error = merged_weights(model, adapter)
    assert error < 1e-6
    torch.testing.assert_close(weights.on(model).forward("And so"), adapter.on(model).forward("And so"),
                               atol=2e-5, rtol=1e-4)  # fmt: skip
    name = sorted(weights.tensors)[0]
    a, b = (adapter.weights[f"base_model.model.{name.removesuffix('.weight')}.lora_{x}.weight"] for x in "AB")
    change = b @ a * adapter.config.lora_alpha / adapter.config.r
    own = dict(model.hf.named_parameters())[name].detach()
    torch.testing.assert_close(weights.tensors[name], own + (change.T if architecture == "gpt2" else change))


def test_rounding_is_measured_as_what_is_left_of_the_change() -> None:
    model = tiny()
    adapter = random_adapter(model, size=0.02)
    weights, error = merged_weights(model, adapter, dtype=torch.bfloat16)
    exact, _ = merged_weights(model, adapter)
    own = dict(model.hf.named_parameters())
    lost = whole = 0.0
    for name, tensor in weights.tensors.items():
        change = exact.tensors[name] - own[name].detach()
        left = tensor - own[name].detach().to(torch.bfloat16).float()
        lost += float((left - change).square().sum())
        whole += float(change.square().sum())
    assert error == pytest.approx(math.sqrt(lost / whole), rel=1e-3)
    none, nothing = merged_weights(model, zero_adapter(model), dtype=torch.bfloat16)
    assert nothing == 0.0
    assert all(is_same_bits(one, own[name].detach().bfloat16().float()) for name, one in none.tensors.items())


def test_a_teacher_says_the_same_as_its_edit() -> None:
    """The shift that a teacher wants is that of the hook, on the same sequences."""
    model = tiny()
    adapted = random_adapter(model, size=0.1).on(model)
    edit = Edit(vector(), layer=LAYER, positions="generation")
    teacher = EditTeacher(model, [edit], [encode(prompt, model.tokenizer) for prompt in PROMPTS])
    by_teacher = verify(adapted, steered=teacher, pairs=pairs()).fidelity
    by_hook = fidelity(hook(model, positions="generation"), adapted, PROMPTS)
    for name in ("residual", "cosine", "norm_ratio", "base", "prompt_leak"):
        assert by_teacher.at(LAYER)[name] == pytest.approx(by_hook.at(LAYER)[name], rel=1e-4), name
    assert by_teacher.kl_base.as_dict() == pytest.approx(by_hook.kl_base.as_dict(), rel=1e-3, abs=1e-6)
    assert by_teacher.kl_steered.tokens == 0
    assert by_teacher.targets == (LAYER,)


def test_shifts_are_counted_from_where_the_teacher_starts() -> None:
    """DUAL goes on from the good model: the good adapter alone has moved nothing, and misses all."""
    model = tiny()
    taught = dual(model)
    teacher = DifferenceTeacher(model, online(find_contrast(taught), model=model), alpha=2.0)
    good = taught.weights["good"]
    found = verify(good.on(model), steered=teacher, prompts=["And so"], max_new_tokens=4)
    assert found.fidelity.layers == teacher.layers == (1, 2)
    assert found.fidelity.residual.tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
    assert float(found.fidelity.realized.max()) < 1e-5
    assert found.fidelity.kl_base.mean > 0  # of the plain model
    assert "no_effect" in found.verdict.names
    assert list(found.answers.texts) == ["base", "LoRA"]


def test_batches_do_not_matter() -> None:
    model = tiny()
    adapted = random_adapter(model, size=0.1).on(model)
    one, many = (
        verify(adapted, steered=hook(model), prompts=["And so", "x", "What is it, then?"], pairs=pairs(),
               max_new_tokens=6, batch_size=size) for size in (1, 8)
    )  # fmt: skip
    assert one.answers.texts == many.answers.texts
    assert one.dose.along == pytest.approx(many.dose.along, rel=1e-4)
    torch.testing.assert_close(one.fidelity.residual, many.fidelity.residual, atol=1e-5, rtol=1e-4, equal_nan=True)
    assert one.verdict.names == many.verdict.names


def test_a_scaled_adapter_is_verified_as_it_acts() -> None:
    model = tiny()
    found = verify(constant(model).on(model, scale=0.5), steered=hook(model), prompts=PROMPTS, max_new_tokens=0)
    assert found.fidelity.at(LAYER)["norm_ratio"] == pytest.approx(0.5, abs=1e-5)
    assert found.dose.along[-2] == pytest.approx(0.5, abs=1e-5)


def test_the_model_stays_itself() -> None:
    model = tiny()
    names, before = [name for name, _ in model.hf.named_modules()], model.forward("And so")
    verify(random_adapter(model, size=0.1).on(model), steered=hook(model), prompts="And so", pairs=pairs(),
           neutral="Rain", max_new_tokens=4)  # fmt: skip
    assert is_same_bits(model.forward("And so"), before)
    assert [name for name, _ in model.hf.named_modules()] == names


def test_what_cannot_be_measured_is_said() -> None:
    model = tiny()
    found = verify(constant(model).on(model), steered=hook(model), prompts=PROMPTS, max_new_tokens=0)
    assert found.merging is None
    assert found.answers is None
    assert found.choices == {}
    assert "which has none, so it cannot be merged" in found.left_out[0]
    assert "Not measured: merging" in repr(found)


def test_a_result_shows_and_keeps_its_numbers() -> None:
    model = tiny()
    found = verify(random_adapter(model, size=0.1).on(model), steered=hook(model), prompts=["And so", "x"],
                   pairs={"one": pairs(), "two": pairs(3)}, neutral="Rain", max_new_tokens=4)  # fmt: skip
    for text in (repr(found), found._repr_html_()):
        for part in (
            "A/B on 6 one",
            "A/B on 3 two",
            "Dose: scale 0 is equal to the base",
            "Greedy answers",
            "Merged in",
        ):
            assert part in text
    content = json.loads(found.to_json())
    assert content["dose"]["zero_is_base"] is True
    assert content["passed"] is found.passed
    assert len(content["choices"]["two"]) == 4
    assert len(found.to_frame()) == 8
    names = {trace.name for trace in found.plot().data}
    assert {"residual", "hook", "merged", "share of the wanted shift"} <= names


@pytest.mark.usefixtures("as_user")
def test_bad_input_is_named() -> None:
    model = tiny()
    adapted, steered = constant(model).on(model), hook(model)
    with pytest.raises(InputError, match="give steered=, a Steer or a teacher"):
        verify(adapted, prompts=PROMPTS)
    with pytest.raises(InputError, match="no prompts given"):
        verify(adapted, steered=steered)
    with pytest.raises(DataError, match="no prompts given"):
        verify(adapted, steered=steered, prompts=[])
    for scales in ((), (1, 1), (math.nan,)):
        with pytest.raises(InputError, match="different finite numbers"):
            verify(adapted, steered=steered, prompts=PROMPTS, scales=scales)
    with pytest.raises(InputError, match="a dict cannot be compared"):
        verify({}, steered=steered, prompts=PROMPTS)
    with pytest.raises(InputError, match="a list cannot be compared"):
        verify(adapted, steered=[], prompts=PROMPTS)
    with pytest.raises(InputError, match="batch_size=0"):
        verify(adapted, steered=steered, prompts=PROMPTS, batch_size=0)
    with pytest.raises(InputError, match="max_new_tokens=-1"):
        verify(adapted, steered=steered, prompts=PROMPTS, max_new_tokens=-1)
