"""One step of a student: its loss against naive code, its gradients, and the trap it must not fall into."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from distillation_cases import Edit, gradients, student_of, tiny, vector_for
from torch.nn import functional

from steerkit.adapters import Lora
from steerkit.errors import SteeringError
from steerkit.steering import Steer

KINDS = ("l2", "mse", "rel_mse", "cosine")
ALL = list(range(8))


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("coef", [3.0, -0.5])
def test_a_new_adapter_has_the_whole_shift_before_it(architecture: str, coef: float) -> None:
    model = tiny(architecture)
    vector = vector_for(model, 2)
    with student_of([Edit(vector, layer=2, coef=coef)], model, filled=False) as student:
        loss, numbers = student(ALL, ALL)
    assert float(loss.detach()) == pytest.approx(abs(coef) * float(vector.norms[0]), rel=1e-6)
    assert numbers["error"] == pytest.approx(numbers["shift"], rel=1e-7)
    assert numbers["retain"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_coefficient_of_zero_is_no_loss_and_no_gradient(kind: Any) -> None:
    model = tiny("llama")
    edits = [Edit(vector_for(model, 1, 2), layer=[1, 2], coef=0.0)]
    with student_of(edits, model, filled=False, loss=kind, output=1.0, guard=1.0) as student:
        loss, numbers = student(ALL, ALL)
        assert float(loss.detach()) == 0
        assert set(numbers.values()) == {0.0}
        assert all(torch.equal(one, torch.zeros_like(one)) for one in gradients(student, ALL, ALL))


@pytest.mark.parametrize(("architecture", "kind"), [("gpt2", "l2"), *(("llama", kind) for kind in KINDS)])
def test_padding_and_pieces_change_neither_loss_nor_gradient(architecture: str, kind: Any) -> None:
    model = tiny(architecture)
    edits = [Edit(vector_for(model, 1, 3), layer=[1, 3], coef=2.0)]
    with student_of(edits, model, loss=kind, output=0.5, guard=0.5) as student:
        lengths = {len(one.ids) for one in student.teacher.samples}
        assert len(lengths) > 3
        whole, numbers = student(ALL, ALL)
        alone = [student([i], ALL) for i in ALL]
        assert sum(float(loss.detach()) for loss, _ in alone) == pytest.approx(float(whole.detach()), rel=1e-5)
        for name, value in numbers.items():
            assert sum(found[name] for _, found in alone) == pytest.approx(value, rel=1e-4)
        together = gradients(student, ALL, ALL)
        parts = [gradients(student, [i], ALL) for i in ALL]
    for number, one in enumerate(together):
        torch.testing.assert_close(sum(part[number] for part in parts), one, rtol=1e-3, atol=1e-5)


def test_the_loss_is_what_naive_code_says() -> None:
    model = tiny("llama")
    vector = vector_for(model, 2)
    with student_of([Edit(vector, layer=2, coef=2.0)], model, retain=3.0, output=0.7, guard=0.3) as student:
        loss, numbers = student(ALL, ALL)
        errors, stays, outputs, guards = [], [], [], []
        for sample in student.teacher.samples:
            ids, scope = torch.tensor([sample.ids]), torch.tensor(sample.scope)
            with student.attached.only():
                base = model.hf(ids, output_hidden_states=True)
            got = model.hf(ids, output_hidden_states=True)
            moved = (got.hidden_states[3] - base.hidden_states[3])[0]
            errors += (moved[scope] - 2 * vector[2]).norm(dim=-1).tolist()
            stays += moved[~scope].norm(dim=-1).tolist()
            with (
                student.attached.only(),
                Steer(model).add(
                    vector, layer=2, coef=2.0, positions=[*range(sample.prompt_length - 1, len(sample.ids))]
                ),
            ):
                steered = model.hf(ids).logits[0, scope].log_softmax(-1)
            mine, plain = got.logits[0, scope].log_softmax(-1), base.logits[0, scope].log_softmax(-1)
            outputs += functional.kl_div(mine, steered, log_target=True, reduction="none").sum(-1).tolist()
            kl = functional.kl_div(plain, mine, log_target=True, reduction="none").sum(-1)
            guards.append(float(kl.detach().square().mean().sqrt()))
    means = [sum(one) / len(one) for one in (errors, stays, outputs, guards)]
    assert [numbers[name] for name in ("error", "retain", "output", "guard")] == pytest.approx(means, rel=1e-4)
    assert float(loss.detach()) == pytest.approx(means[0] + 3 * means[1] + 0.7 * means[2] + 0.3 * means[3], rel=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
def test_recomputing_gives_the_same_gradients(architecture: str) -> None:
    model = tiny(architecture)
    edits = [Edit(vector_for(model, 1, 3), layer=[1, 3])]
    lora = Lora(r=4, dropout=0.3, targets="all-linear")
    found = []
    for recompute in (False, True):
        torch.manual_seed(1)
        with student_of(edits, model, lora=lora, recompute=recompute) as student, student.attached.train("student"):
            torch.manual_seed(2)
            found.append(gradients(student, ALL, ALL))
    assert all(bool(one.any()) for one in found[0])
    for plain, again in zip(*found, strict=True):
        assert torch.equal(plain, again)


def test_recomputing_leaves_the_model_as_it_was() -> None:
    model = tiny("llama")
    before = [dict(block.__dict__) for block in model.parts.blocks]
    with student_of([Edit(vector_for(model, 1), layer=1)], model, recompute=True) as student:
        gradients(student, ALL, ALL)
    assert [set(block.__dict__) for block in model.parts.blocks] == [set(one) for one in before]


def test_recomputing_keeps_fewer_activations() -> None:
    model = tiny("llama")
    kept = []
    for recompute in (False, True):
        size = 0

        def count(one: torch.Tensor) -> torch.Tensor:
            nonlocal size
            size += one.numel()
            return one

        watched = torch.autograd.graph.saved_tensors_hooks(count, lambda one: one)
        with student_of([Edit(vector_for(model, 3), layer=3)], model, recompute=recompute) as student, watched:
            student(ALL, ALL)
        kept.append(size)
    assert kept[1] < 0.5 * kept[0]


@pytest.mark.parametrize("recompute", [False, True])
def test_switching_adapters_before_the_backward_pass_raises(recompute: bool) -> None:
    model = tiny("llama")
    with student_of([Edit(vector_for(model, 1), layer=1)], model, recompute=recompute) as student:
        loss, _ = student(ALL, ALL)
        with student.attached.only(), pytest.raises(SteeringError, match="the gradients would be wrong"):
            loss.backward()
        with student.attached.hold(), pytest.raises(SteeringError, match="cannot be switched"):
            student(ALL, ALL)


def test_the_teacher_leaves_the_student_acting() -> None:
    model = tiny("llama")
    with student_of([Edit(vector_for(model, 1), layer=1)], model) as student:
        student(ALL, ALL)
        assert student.attached.active == ("student",)
