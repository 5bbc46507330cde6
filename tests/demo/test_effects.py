"""What the shipped model claims, measured on held-out topics by the ordinary verbs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import steerkit as sk
from steerkit.demo import BEHAVIORS

LAYER = 3
COEF = 0.5
DISTINCT = [("sycophancy", "mood"), ("refusal", "mood")]


@pytest.fixture(scope="module")
def model() -> Any:
    return sk.load("demo")


@pytest.fixture(scope="module")
def vectors(model: Any) -> dict[str, sk.SteeringVector]:
    train = {name: sk.load_pairs(f"demo:{name}", split="train") for name in BEHAVIORS}
    return {name: sk.extract(sk.record(model, pairs, progress=False)) for name, pairs in train.items()}


@pytest.fixture(scope="module")
def grids(model: Any, vectors: dict[str, sk.SteeringVector]) -> dict[tuple[str, str], sk.Sweep]:
    """Each vector on its own behavior at every layer, and at one on those that it must leave alone."""
    test = {name: sk.load_pairs(f"demo:{name}", split="test") for name in BEHAVIORS}
    wanted: dict[tuple[str, str], Any] = {(name, name): "all" for name in BEHAVIORS}
    wanted |= {pair: [LAYER] for one in DISTINCT for pair in (one, one[::-1])}
    return {
        (vector, measured): sk.sweep(
            model, vectors[vector], test[measured], coefs=(-COEF, COEF), layers=layers, progress=False
        )
        for (vector, measured), layers in wanted.items()
    }


@pytest.mark.parametrize("name", BEHAVIORS)
def test_choices_follow_the_vector_and_not_the_letter(grids: Any, name: str) -> None:
    grid = grids[name, name]
    low, high = (grid.at(layer=LAYER, coef=coef) for coef in (-COEF, COEF))
    assert 0.4 <= grid.unsteered.p_matching <= 0.6
    assert grid.unsteered.mass >= 0.99
    for items in ("a_items", "b_items"):
        assert getattr(low, items).p_matching <= 0.3
        assert getattr(high, items).p_matching >= 0.7
    assert abs(float(grid.effect.mean[-1])) <= 0.05


@pytest.mark.parametrize("name", BEHAVIORS)
def test_separation_and_effect_emerge_with_depth(model: Any, vectors: Any, grids: Any, name: str) -> None:
    held_out = sk.record(model, sk.load_pairs(f"demo:{name}", split="test"), progress=False)
    separated = sk.separation(held_out, vectors[name])
    assert (separated.auroc[:2] <= 0.7).all()
    assert (separated.auroc[3:] >= 0.99).all()
    assert separated.emerges is not None
    assert separated.emerges <= 2
    moves = grids[name, name].effect.mean
    assert (moves[:2].abs() <= 0.05).all()
    assert float(moves[LAYER]) >= 0.7


@pytest.mark.parametrize(("first", "second"), DISTINCT)
def test_stance_and_mood_are_distinct(grids: Any, vectors: Any, first: str, second: str) -> None:
    assert abs(float(vectors[first].cosine(vectors[second])[LAYER])) <= 0.5
    for vector, other in ((first, second), (second, first)):
        own = float(grids[vector, vector].effect.mean[LAYER])
        cross = float(grids[vector, other].effect.mean[0])
        assert abs(cross) <= own / 3


@pytest.mark.parametrize("name", BEHAVIORS)
def test_random_vectors_of_equal_norm_do_less(model: Any, vectors: Any, grids: Any, name: str) -> None:
    vector, pairs = vectors[name], sk.load_pairs(f"demo:{name}", split="test")[:40]
    draws = torch.randn(20, vector.hidden_size, generator=torch.Generator().manual_seed(1))
    draws = draws / draws.norm(dim=1, keepdim=True) * vector[LAYER].norm()
    spans = []
    for draw in draws:
        one = sk.SteeringVector(draw[None], layers=[LAYER])
        spans.append(abs(float(sk.sweep(model, one, pairs, coefs=(-COEF, COEF), progress=False).effect.mean[0])))
    assert max(spans) < float(grids[name, name].effect.mean[LAYER])


@pytest.mark.parametrize("name", BEHAVIORS)
def test_open_answers_take_the_pole_that_is_steered_to(model: Any, vectors: Any, name: str) -> None:
    from steerkit.demo.answers import score_open

    low, high = (
        score_open(model, name, vector=vectors[name], layer=LAYER, coef=coef, count=60) for coef in (-0.25, 0.25)
    )
    assert low.positive <= 0.1
    assert high.positive >= 0.9
    assert min(low.on_topic, high.on_topic) >= 0.85
