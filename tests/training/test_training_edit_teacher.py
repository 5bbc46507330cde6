"""Targets of edits, against the model that is really steered."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from tiny import tiny
from torch import Tensor

import steerkit as sk
from steerkit.adapters import attach
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.data.chat import Prompt
from steerkit.data.encoding import encode
from steerkit.errors import DataError, InputError, LayerError, SteeringError, VectorError
from steerkit.points import Point
from steerkit.steering import Ablate, Clamp, Edit, Steer
from steerkit.training.distilling.edit_source import as_edits
from steerkit.training.distilling.edit_teacher import EditTeacher
from steerkit.training.distilling.targets import Targets, Teacher

TEXTS = (("What is it", "ab"), ("Why", "a long answer"), ("Is the sea dry or not", ""))


def _sequences(model: HuggingFaceModel) -> list[Any]:
    return [encode(Prompt([{"role": "user", "content": a}]), model.tokenizer, answer=b) for a, b in TEXTS]


def _states(model: Any, under: Any, teacher: EditTeacher) -> Tensor:
    """The states at the teacher's layers of a run inside a context; `[layer, batch, pos, hidden]`."""
    batch = teacher.samples.batch(range(len(TEXTS)), pad_id=model.pad_id).batch
    found: dict[int, Tensor] = {}
    with under, ExitStack() as stack:
        for layer in teacher.layers:
            keep = lambda hidden, _pass, at=layer: found.__setitem__(at, hidden)  # noqa: E731
            stack.enter_context(model.hook(Point(layer), keep))
        model.forward(batch)
    return torch.stack([found[layer] for layer in teacher.layers])


def _targets(model: HuggingFaceModel, teacher: EditTeacher) -> Targets:
    with attach(model, {}) as attached:
        return teacher.targets(attached, range(len(TEXTS)))


def _vector(model: Any, layers: Sequence[int]) -> sk.SteeringVector:
    return sk.SteeringVector(torch.randn(len(layers), model.info.hidden_size), layers=list(layers))


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "qwen3"])
@pytest.mark.parametrize("positions", ["generation", "all", "prompt", -1, slice(1, 4)])
def test_one_layer_is_the_base_plus_the_vector(architecture: str, positions: Any) -> None:
    model = tiny(architecture)
    vector = _vector(model, [2])
    teacher = EditTeacher(model, [Edit(vector, layer=2, coef=-1.5, positions=positions)], _sequences(model))
    targets = _targets(model, teacher)
    inside = teacher.samples.batch(range(len(TEXTS)), pad_id=0).scope
    base = _states(model, ExitStack(), teacher)[:, inside]
    assert torch.equal(targets.base, base)
    assert torch.equal(targets.shift, (-1.5 * vector[2]).expand_as(base))
    steered = Steer(model).add(vector, layer=2, coef=-1.5, positions=positions)
    torch.testing.assert_close(targets.wanted, _states(model, steered, teacher)[:, inside])


EDITS: dict[str, Any] = {
    "several layers": lambda v: [Edit(v, layer=[0, 1, 3], coef=2)],
    "two edits, other positions": lambda v: [Edit(v, layer=1, positions="prompt"), Edit(v, layer=3, coef=-1)],
    "not an addition": lambda v: [Edit(v[1], layer=1, operation=Ablate(), positions="all")],
    "an addition on one": lambda v: [Edit(v, layer=1), Edit(v[1], layer=1, operation=Clamp(), coef=3)],
    "within a block": lambda v: [Edit(v[1], layer=2, site="mlp_out"), Edit(v[1], layer=1, site="attn_out")],
    "some heads": lambda v: [
        Edit(sk.SteeringVector(v.values, layers=v.layers, site="z", meta={"heads": 4}).heads([(1, 0), (2, 3)]), coef=5)
    ],
    "before the first block": lambda v: [Edit(v[0], layer=0, site="resid_pre"), Edit(v, layer=2)],
    "the last layer": lambda v: [Edit(v, layer=3)],
}


@pytest.mark.parametrize("name", EDITS)
def test_any_edits_are_the_states_of_the_steered_model(name: str) -> None:
    model = tiny("llama")
    edits = EDITS[name](_vector(model, [0, 1, 2, 3]))
    teacher = EditTeacher(model, edits, _sequences(model))
    steer = Steer(model)
    for one in edits:
        steer.apply(one.operation, one.vector, layer=one.layer, coef=one.coef, positions=one.positions, site=one.site)
    targets = _targets(model, teacher)
    samples = teacher.samples.batch(range(len(TEXTS)), pad_id=0)
    steered, base = _states(model, steer, teacher), _states(model, ExitStack(), teacher)
    torch.testing.assert_close(targets.base, base[:, samples.scope])
    torch.testing.assert_close(targets.wanted, steered[:, samples.scope])
    assert targets.outside is not None
    torch.testing.assert_close(targets.outside, steered[:, samples.outside])


def test_the_input_of_a_block_is_the_output_of_the_one_before() -> None:
    model = tiny("llama")
    vector = torch.randn(model.info.hidden_size)
    before = EditTeacher(model, [Edit(vector, layer=2, site="resid_pre")], _sequences(model))
    after = EditTeacher(model, [Edit(vector, layer=1)], _sequences(model))
    assert before.layers == after.layers == (1,)
    assert torch.equal(_targets(model, before).wanted, _targets(model, after).wanted)


def test_a_small_shift_survives_a_very_large_coordinate() -> None:
    model = tiny("llama")
    with torch.no_grad():
        model.hf.get_input_embeddings().weight[:, 3] = 1e6
    shift = torch.full((model.info.hidden_size,), 1e-3)
    targets = _targets(model, EditTeacher(model, [Edit(shift, layer=1)], _sequences(model)))
    assert float(targets.base.abs().max()) > 1e5
    assert torch.equal(targets.shift, shift.expand_as(targets.shift))


def test_an_edit_teacher_is_a_teacher_and_says_what_it_is() -> None:
    model = tiny("llama")
    vector = _vector(model, [1])
    made = [EditTeacher(model, [Edit(vector, layer=1, coef=c)], _sequences(model)) for c in (1, 1, 2)]
    assert isinstance(made[0], Teacher)
    assert made[0].identity() == made[1].identity() != made[2].identity()


@pytest.mark.usefixtures("as_user")
def test_edits_that_cannot_become_weights_are_refused() -> None:
    model = tiny("llama")
    vector, sequences = _vector(model, [1]), _sequences(model)
    with pytest.raises(DataError, match="no token of 3 sequences stands at positions=500"):
        EditTeacher(model, [Edit(vector, layer=1, positions=500)], sequences)
    with pytest.raises(InputError, match="differs by row"):
        EditTeacher(model, [Edit(vector, layer=1, coef=torch.tensor([1.0, 2.0]))], sequences)
    with pytest.raises(InputError, match="no edit"):
        EditTeacher(model, [], sequences)


@pytest.mark.usefixtures("as_user")
def test_a_source_with_its_own_strength_takes_no_second_one() -> None:
    model, other = tiny("llama"), tiny("llama", seed=3)
    vector = _vector(model, [1])
    plain: dict[str, Any] = {"layer": None, "coef": 1.0, "positions": "generation", "unit": "raw"}
    steer = Steer(model).add(vector, layer=1)
    assert as_edits(steer, model, **plain) == steer.edits
    with pytest.raises(InputError, match="the edits of a Steer have their own"):
        as_edits(steer, model, **{**plain, "coef": 2.0})
    with pytest.raises(SteeringError, match="another model"):
        as_edits(steer, other, **plain)
    with steer, pytest.raises(SteeringError, match="acts at this moment"):
        as_edits(steer, model, **plain)
    rows = Steer(model).rows([[Edit(vector, layer=1)], []])
    with pytest.raises(SteeringError, match="single rows"):
        as_edits(rows, model, **plain)
    with pytest.raises(LayerError, match="needs a layer"):
        as_edits(vector, model, **plain)
    with pytest.raises(VectorError, match="no layer 2"):
        EditTeacher(model, as_edits(vector, model, **{**plain, "layer": 2}) or (), _sequences(model))
