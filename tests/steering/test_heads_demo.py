"""Inference-time intervention on the embedded model, from pairs to held-out topics."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

import steerkit as sk
from steerkit.evaluation.scores import ChoiceScores


@cache
def model() -> Any:
    return sk.load("demo")


def both(vector: sk.SteeringVector, coef: float, pairs: Any) -> tuple[ChoiceScores, ChoiceScores]:
    found = []
    for sign in (-1, 1):
        with sk.Steer(model()).add(vector, coef=sign * coef):
            found.append(sk.score_choices(model(), pairs))
    return found[0], found[1]


def effect(scores: tuple[ChoiceScores, ChoiceScores]) -> tuple[float, float]:
    """Mean change of p(matching) by item, and its standard error."""
    change = scores[1].items.p_matching - scores[0].items.p_matching
    return float(change.mean()), float(change.std() / len(change) ** 0.5)


@pytest.mark.parametrize("behavior", [pytest.param("sycophancy", marks=pytest.mark.slow), "refusal"])
def test_heads_chosen_on_training_topics_steer_held_out_ones(behavior: str) -> None:
    train, test = (sk.load_pairs(f"demo:{behavior}", split=split) for split in ("train", "test"))
    fit, held_back = sk.record(model(), train, site="z", progress=False).split(test=0.25, seed=0)
    vector = sk.extract(fit)
    heads = sk.head_separation(held_back, vector)
    assert len(heads.above) >= 5

    tried = {}
    for count in (1, 2):
        for coef in (3, 4):
            scores = both(vector.heads(heads.top(count)).in_sigma(), coef, train[:40])
            if min(scores[0].mass, scores[1].mass) > 0.9:
                tried[count, coef] = effect(scores)[0]
    count, coef = max(tried, key=tried.__getitem__)
    chosen = vector.heads(heads.top(count)).in_sigma()
    change, stderr = effect(both(chosen, coef, test))
    assert change > 0.3
    assert change > 8 * stderr

    lengths = chosen.head_norms.unsqueeze(-1)
    other = torch.randn(len(chosen), chosen.num_heads, chosen.head_size)
    other = lengths * other / other.norm(dim=-1, keepdim=True)
    random = sk.SteeringVector(other.flatten(1), layers=chosen.layers, site="z", meta={"heads": chosen.num_heads})
    assert abs(effect(both(random.heads(chosen.chosen_heads), coef, test))[0]) < change / 3
