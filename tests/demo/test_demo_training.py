"""The trainer learns, and learns the same twice."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from steerkit.demo.batching import collate
from steerkit.demo.corpus import Document, draw_push
from steerkit.demo.depth import EarlySeparation
from steerkit.demo.directions import Directions
from steerkit.demo.grammar import Pose
from steerkit.demo.training import Recipe, Trainer, held_back, train

TINY = Recipe(tokens=30_000, batch_tokens=1024, layers=2, width=32, heads=2, inner=64, push_layer=0, log_every=5)


@pytest.mark.slow  # shape checks make the grammar's million small calls slow
def test_a_few_updates_lower_the_loss(tmp_path: Path) -> None:
    with (tmp_path / "log.jsonl").open("w", encoding="utf-8") as log:
        train(TINY, log, compiled=False)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) >= 4
    assert lines[-1]["loss"] < 0.9 * lines[0]["loss"]


@pytest.mark.slow  # shape checks make the grammar's million small calls slow
def test_the_same_seed_gives_the_same_weights() -> None:
    first, second, other = (train(replace(TINY, tokens=6_000, seed=seed), compiled=False)[0] for seed in (1, 1, 2))
    pairs = list(zip(first.parameters(), second.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(one, two) for one, two, _ in pairs)
    assert not all(torch.equal(one, three) for one, _, three in pairs)


def test_the_answer_is_what_is_learned() -> None:
    none, pushed = Document("", ""), Document("", "", Pose(True, False), (0.5, 0.0), is_choice=True, kind="request")
    rows = [([1, 4, 9, 2, 3, 8, 7, 2], 5, none), ([1, 4, 3, 8, 8, 8, 8, 8, 2], 3, pushed)]
    batch = collate(rows, torch.ones(10), pad=0)
    assert batch.ids.shape == (2, 9)
    assert batch.weights[0].tolist() == pytest.approx([0.1] * 5 + [1] * 3 + [0])
    assert batch.weights[1].tolist() == pytest.approx([0.1] * 3 + [1] * 6)
    assert batch.start.tolist() == [4, 2]
    assert batch.poles.tolist() == [[0, 0], [1, -1]]
    assert batch.push.tolist() == [[0, 0], [0.5, 0]]
    assert batch.is_choice.tolist() == [False, True]
    assert batch.kinds.tolist() == [-1, 1]


def test_a_push_is_signed_by_its_pole_and_leaves_the_other_to_chance() -> None:
    rng = random.Random(0)
    drawn = [draw_push(rng, Pose(True, False)) for _ in range(4000)]
    assert all(stance >= 0 >= mood for stance, mood in drawn)
    kinds = Counter((stance != 0, mood != 0) for stance, mood in drawn)
    shares = [kinds[one] / 4000 for one in ((False, False), (True, False), (False, True), (True, True))]
    assert all(abs(share - wanted) < 0.03 for share, wanted in zip(shares, (0.25, 0.3, 0.3, 0.15), strict=True))


def test_directions_are_the_difference_between_the_poles() -> None:
    directions = Directions(4)
    poles = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]).repeat(500, 1)
    stance, mood = torch.tensor([2.0, 0.0, 0.0, 1.0]), torch.tensor([0.0, 3.0, 0.0, 0.0])
    hidden = 5 + 0.5 * (poles[:, :1] * stance + poles[:, 1:] * mood)
    for start in range(0, 2000, 20):
        directions.update(hidden[start : start + 20], poles[start : start + 20])
    assert torch.allclose(directions.vectors, torch.stack([stance, mood]), atol=1e-4)


def two_directions(stance: list[float], mood: list[float]) -> Directions:
    """Directions with these differences between the poles."""
    directions = Directions(len(stance))
    poles = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    halves = torch.tensor([stance, stance, mood, mood]) / 2
    directions.update(poles.sum(1, keepdim=True) * halves, poles)
    return directions


def test_what_is_pushed_is_the_nearest_pair_at_right_angles() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        stance, mood, common = torch.randn(3, 16, generator=generator)
        given = two_directions((stance + common).tolist(), (3 * mood - 2 * common).tolist())
        apart, before = given.apart, given.vectors
        assert abs(float(apart[0] @ apart[1])) < 1e-4
        torch.testing.assert_close(apart.norm(dim=1), before.norm(dim=1))
        u, _, vh = torch.linalg.svd(functional.normalize(before, dim=1), full_matrices=False)
        torch.testing.assert_close(functional.normalize(apart, dim=1), u @ vh, atol=1e-5, rtol=0)


def test_directions_at_right_angles_are_pushed_as_they_are() -> None:
    given = two_directions([2.0, 0.0, 0.0], [0.0, 0.0, -3.0])
    torch.testing.assert_close(given.apart, given.vectors)


def test_nothing_is_pushed_before_a_letter_was_seen() -> None:
    assert torch.equal(Directions(3).apart, torch.zeros(2, 3))


def test_a_push_moves_only_the_answer() -> None:
    trainer = Trainer(TINY, compiled=False)
    trainer.loss.directions.update(torch.tensor([[1.0] * 32, [-1.0] * 32]), torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
    ids = [1, 9, 8, 7, 30, 31, 32, 2]
    plain = collate([(ids, 4, Document("", "", Pose(True, True)))], torch.ones(2000), pad=0)
    pushed = collate([(ids, 4, Document("", "", Pose(True, True), (1.0, 0.0)))], torch.ones(2000), pad=0)
    first, second = (trainer.step(batch, 1.0) for batch in (plain, pushed))
    assert first != second
    assert trainer.step(replace(pushed, push=torch.zeros(1, 2)), 1.0) == first


def test_early_separation_is_d_prime_squared_by_kind() -> None:
    generator = torch.Generator().manual_seed(0)
    poles = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]).repeat(1000, 1)
    kinds = torch.arange(4000) // 2000
    hidden = torch.randn(4000, 8, generator=generator)
    hidden[:, 0] += torch.where(kinds == 0, 1.0, -1.0) * poles[:, 0]  # turned round by the kind: no gap in the mixture
    early = EarlySeparation(1, 8)
    found = float(early.at(0, hidden, poles, kinds))
    assert found == pytest.approx(2 * 2.0**2, rel=0.1)  # d' is 2 for the stance in each kind, near 0 for the mood
    mixed = float(EarlySeparation(1, 8).at(0, hidden, poles, torch.zeros(4000)))
    assert mixed < 0.1


def test_early_separation_pulls_the_poles_together_and_asks_two_of_each() -> None:
    poles = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    hidden = torch.tensor([[3.0, 0.1], [2.0, -0.1], [-2.0, 0.2], [-3.0, -0.2]], requires_grad=True)
    early = EarlySeparation(1, 2)
    early.at(0, hidden, poles, torch.zeros(4)).backward()
    assert hidden.grad is not None
    assert (hidden.grad[:, 0] * poles[:, 0] > 0).all()
    assert float(early.at(0, hidden[:3], poles[:3], torch.zeros(3))) == 0


def test_early_separation_costs_nothing_before_the_letters_are_learned() -> None:
    assert held_back(0.6) == 0
    assert held_back(0.7) == pytest.approx(0.5)
    assert held_back(1.0) == 1
