from __future__ import annotations

import json

import pytest
import torch
from questions_data import letter_pairs, word_pairs
from tiny import tiny

from steerkit.errors import DataError, LayerError, VectorError
from steerkit.evaluation import random_control, sweep
from steerkit.vectors import SteeringVector


def vector(hidden: int = 32) -> SteeringVector:
    torch.manual_seed(3)
    return SteeringVector(2 * torch.randn(4, hidden), layers=range(4))


@pytest.mark.parametrize("architecture", ["llama", "jamba"])
def test_each_draw_moves_what_a_sweep_of_it_moves(architecture: str) -> None:
    model, direction, pairs = tiny(architecture), vector(), letter_pairs()[:3]
    control = random_control(model, direction, pairs, layer=2, coef=0.5, draws=3, seed=7)
    noise = torch.randn(3, 32, generator=torch.Generator().manual_seed(7))
    for row, draw in enumerate(noise):
        as_long = draw / draw.norm() * direction[2].norm()
        one = SteeringVector(as_long[None], layers=[2])
        grid = sweep(model, one, pairs, coefs=(-0.5, 0.5), path="naive")
        assert torch.allclose(control.random_items[row], grid.effect.items[0], atol=1e-5)
    own = sweep(model, direction, pairs, layers=[2], coefs=(-0.5, 0.5), path="naive")
    assert torch.allclose(control.items, own.effect.items[0], atol=1e-5)
    assert control.effect == pytest.approx(float(own.effect.mean[0]), abs=1e-5)


def test_a_random_vector_is_told_to_be_one_and_a_telling_one_is_not() -> None:
    model, pairs = tiny(), letter_pairs()
    question_head = model.hf.lm_head.weight.detach()
    letters = model.tokenizer.convert_tokens_to_ids(["A", "B"])
    for_a = question_head[letters[0]] - question_head[letters[1]]
    telling = SteeringVector((3 * for_a / for_a.norm())[None], layers=[3])
    only_a = [pair for pair in pairs if pair.positive.letter == "A"]
    assert random_control(model, telling, only_a, layer=3, coef=1, draws=39).p_value == pytest.approx(1 / 40)
    shares = [
        random_control(model, SteeringVector(torch.randn(1, 32) * 2, layers=[3]), pairs, layer=3, coef=1).p_value
        for _ in range(6)
    ]
    assert max(shares) > 0.2


def test_it_shows_itself_and_repeats_itself() -> None:
    model, direction, pairs = tiny(), vector(), letter_pairs()[:2]
    one, two = (random_control(model, direction, pairs, layer=1, coef=1, draws=4) for _ in range(2))
    assert torch.equal(one.random, two.random)
    assert "random: median size" in repr(one)
    assert json.loads(one.to_json())["p_value"] == one.p_value
    assert "Layer 1" in one.plot().layout.title.text
    other = random_control(model, direction, pairs, layer=1, coef=1, draws=4, seed=1)
    assert not torch.equal(one.random, other.random)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"draws": 0}, DataError, "draws=0 is not valid"),
        ({"draws": True}, DataError, "draws=True is not valid"),
        ({"coef": -1}, DataError, "above 0"),
        ({"coef": 0}, DataError, "above 0"),
        ({"coef": float("nan")}, DataError, "not a finite number"),
        ({"layer": 9}, LayerError, "layer 9 does not exist"),
    ],
)
def test_bad_input_is_refused(change: dict[str, object], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        random_control(tiny(), vector(), letter_pairs(), **{"layer": 1, "coef": 1.0, **change})


def test_other_bad_input_is_refused_too() -> None:
    with pytest.raises(VectorError, match="no row for layer 1"):
        random_control(tiny(), vector().select([0]), letter_pairs(), layer=1, coef=1)
    with pytest.raises(DataError, match="sweep reads one token"):
        random_control(tiny(), vector(), word_pairs(), layer=1, coef=1)
    with pytest.raises(VectorError, match="hidden"):
        random_control(tiny(), vector(hidden=16), letter_pairs(), layer=1, coef=1)
