"""What is refused before any compute, and the portable units."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from tiny import tiny

from steerkit.errors import LayerError, MismatchError, PositionError, SteeringError, VectorError
from steerkit.steering import Ablate, Add, Clamp, Edit, Steer
from steerkit.steering.steer import _check_model
from steerkit.vectors import SteeringVector

VECTOR = torch.linspace(-1, 1, 32)
CONCEPT = SteeringVector(
    torch.stack([VECTOR, 2 * VECTOR]),
    layers=[1, 2],
    meta=json.loads(json.dumps({"residual_norm": {1: 10.0, 2: 20.0}, "gap": {1: 3.0, 2: -4.0}})),
)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda s: s.add(VECTOR, layer=4), LayerError, "layer 4 does not exist; the model has 4 blocks, 0 to 3"),
        (lambda s: s.add(VECTOR, layer=-1), LayerError, "counted from 0"),
        (lambda s: s.add(VECTOR, layer=[1, 1]), LayerError, "names a layer twice"),
        (lambda s: s.add(VECTOR, layer=[]), LayerError, "layers is empty"),
        (lambda s: s.add(VECTOR[:16], layer=1), VectorError, "hidden size 16, tiny-llama has 32"),
        (lambda s: s.add(torch.ones(2, 32), layer=1), VectorError, r"shape \[2, 32\]"),
        (lambda s: s.add(VECTOR * float("nan"), layer=1), VectorError, "NaN or infinity"),
        (lambda s: s.add(CONCEPT, layer=3), VectorError, "the vector has no layer 3"),
        (lambda s: s.add(CONCEPT, layer=1, site="mlp_out"), VectorError, "belongs to site 'resid_post', not 'mlp_out'"),
        (lambda s: s.add(VECTOR, layer=1, coef=float("nan")), SteeringError, "coef=nan is not finite"),
        (lambda s: s.add(VECTOR, layer=1, coef=float("inf")), SteeringError, "coef=inf is not finite"),
        (lambda s: s.add(VECTOR, layer=1, coef=True), SteeringError, r"coef is a bool \(True\)"),
        (lambda s: s.add(VECTOR, layer=1, coef=torch.tensor([1, torch.nan])), SteeringError, "NaN or infinity"),
        (lambda s: s.add(VECTOR, layer=1, coef=torch.ones(2, 2)), SteeringError, r"shape \[2, 2\].*shape \[batch\]"),
        (lambda s: s.add(VECTOR, layer=1, unit="gap"), VectorError, "which a bare tensor does not know"),
        (lambda s: s.add(VECTOR, layer=1, positions=[]), PositionError, "positions=\\[\\] is not valid"),
        (lambda s: s.add(VECTOR, layer=1, positions=[1, True]), PositionError, "position True is not an integer"),
        (lambda s: s.ablate(VECTOR * 0, layer=1), VectorError, "is zero and has no direction for Ablate"),
        (lambda s: s.apply(Ablate(), CONCEPT, layer=1, unit="gap"), SteeringError, "its coef is a share"),
        (lambda s: s.rows([]), SteeringError, "rows is empty"),
        (lambda s: s.rows([[Edit(VECTOR, layer=1, coef=torch.ones(2))]]), SteeringError, "takes one number"),
        (lambda s: s.rows([[Edit(VECTOR, layer=9)]]), LayerError, "layer 9 does not exist"),
        (
            lambda s: s.add(VECTOR, layer=1, coef=torch.ones(2)).generate(["a", "b", "c"]),
            SteeringError,
            "for 2 rows, but 3 prompts",
        ),
        (lambda s: s.rows([[], [], []]).add(VECTOR, layer=1, coef=torch.ones(2)).preview("a"), SteeringError, "2 rows"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_compute(call: Any, error: type, says: str) -> None:
    model = tiny("llama")
    ran: list[int] = []
    handle = model.parts.blocks[0].register_forward_hook(lambda *_: ran.append(1))
    with pytest.raises(error, match=says):
        call(Steer(model))
    handle.remove()
    assert ran == []
    assert "generate" not in vars(model.hf)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"vector": [1.0, 2.0]}, VectorError, "vector is a list"),
        ({"unit": "percent"}, SteeringError, "choose one of 'raw', 'residual', 'gap'"),
        ({"layer": "last"}, LayerError, "layer='last'"),
        ({"layer": None}, LayerError, "layer=None"),
        ({"layer": 1.5}, LayerError, "layer=1.5"),
        ({"coef": "2"}, SteeringError, r"coef is a str \('2'\)"),
        ({"operation": Add}, SteeringError, "give an object that is called"),
    ],
)
def test_wrong_types_are_named(change: dict[str, Any], error: type, says: str) -> None:
    given = {"vector": VECTOR, "layer": 1, "coef": 1.0, "operation": Add(), "positions": "all", "site": None}
    made = object.__new__(Edit)
    for name, value in {**given, "unit": "raw", "override": False, **change}.items():
        object.__setattr__(made, name, value)
    with pytest.raises(error, match=says):
        made.__post_init__()


def test_another_object_is_told_how_to_become_a_model() -> None:
    with pytest.raises(SteeringError, match=r"sk\.load\(hf_model, tokenizer=tokenizer\)"):
        _check_model(torch.nn.Linear(2, 2))


def test_rows_must_match_the_prompts() -> None:
    model = tiny("llama")
    ids = torch.tensor([[5, 6]] * 4)
    three = Steer(model).add(VECTOR, layer=1, coef=torch.tensor([1.0, -1.0, 0.5]))
    with three, pytest.raises(SteeringError, match="edits are for 3 rows, but 4 prompts are run at a time"):
        model.hf(input_ids=ids)
    two = Steer(model).add(VECTOR, layer=1, coef=torch.tensor([1.0, -1.0]))
    with two, pytest.raises(SteeringError, match="edits are for 2 rows, but 4 prompts"):
        model.hf(input_ids=ids)
    with torch.no_grad(), two:
        beams = model.hf.generate(input_ids=ids[:2], num_beams=2, max_new_tokens=2, min_new_tokens=2, pad_token_id=0)
    assert beams.shape == (2, 4)


def test_a_vector_of_another_model_needs_a_word() -> None:
    model = tiny("llama")
    foreign = SteeringVector(VECTOR, layers=[1], meta={"model": tiny("llama", seed=5).info.as_dict()})
    with pytest.raises(MismatchError, match="override=True"):
        Steer(model).add(foreign, layer=1)
    taken = Steer(model).add(foreign, layer=1, override=True)
    assert torch.equal(taken.forward("abc"), Steer(model).add(VECTOR, layer=1).forward("abc"))


@pytest.mark.parametrize(("unit", "sizes"), [("residual", {1: 10.0, 2: 20.0}), ("gap", {1: 3.0, 2: 4.0})])
def test_portable_units_come_to_known_lengths(unit: Any, sizes: dict[int, float]) -> None:
    model = tiny("llama")
    steer = Steer(model).add(CONCEPT, layer="all", coef=-0.5, unit=unit)
    steer.forward("abc")
    assert [receipt.change_norm for receipt in steer.receipts] == pytest.approx([0.5 * size for size in sizes.values()])
    raw = -0.5 * sizes[1] / float(VECTOR.norm())
    assert f"-0.5 {unit}" in str(steer)
    assert f"{raw:.4g}" in str(steer)
    turned = Steer(model).add(-CONCEPT, layer="all", coef=0.5, unit=unit)
    assert torch.allclose(turned.forward("abc"), steer.forward("abc"), atol=1e-6)


def test_a_clamp_in_gaps_sets_that_projection() -> None:
    model, seen = tiny("llama"), []
    from steerkit.points import Point

    with Steer(model).clamp(CONCEPT, layer=1, value=2, unit="gap"), model.hook(Point(1), lambda h, _: seen.append(h)):
        model.forward("abc")
    assert float(seen[0][0, -1] @ VECTOR / VECTOR.norm()) == pytest.approx(6.0, rel=1e-5)


def test_edits_print_what_they_are() -> None:
    assert repr(Edit(CONCEPT, layer=1, coef=2.0, operation=Clamp(), site="resid_post", unit="gap")) == (
        "Edit(vector, layer=1, site='resid_post', coef=2, unit='gap', Clamp(), positions='generation')"
    )
