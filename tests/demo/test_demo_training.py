"""The trainer learns, and learns the same twice."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from steerkit.demo.training import Recipe, collate, train

TINY = Recipe(tokens=30_000, batch_tokens=1024, layers=2, width=32, heads=2, inner=64, log_every=5)


def test_a_few_updates_lower_the_loss(tmp_path: Path) -> None:
    with (tmp_path / "log.jsonl").open("w", encoding="utf-8") as log:
        train(TINY, log, compiled=False)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) >= 4
    assert lines[-1]["loss"] < 0.9 * lines[0]["loss"]


def test_the_same_seed_gives_the_same_weights() -> None:
    first, second, other = (
        train(Recipe(**{**vars(TINY), "tokens": 6_000, "seed": seed}), compiled=False)[0] for seed in (1, 1, 2)
    )
    pairs = list(zip(first.parameters(), second.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(one, two) for one, two, _ in pairs)
    assert not all(torch.equal(one, three) for one, _, three in pairs)


def test_only_the_answer_is_learned_from() -> None:
    batch = collate([([1, 4, 9, 2, 3, 8, 7, 2], 5), ([1, 4, 3, 8, 8, 8, 8, 8, 2], 3)], torch.ones(10), pad=0)
    assert batch.ids.shape == (2, 16)
    assert batch.weights[0].tolist() == [0] * 5 + [1] * 3 + [0] * 8
    assert batch.weights[1].tolist() == [0] * 3 + [1] * 6 + [0] * 7
