"""Facts of CAA's published data."""

from __future__ import annotations

from pathlib import Path

import pytest

from steerkit.data.loading import load_pairs, load_questions

GENERATE = {  # behavior: items, share of A in per cent, beyond A and B
    "coordinate-other-ais": (360, 50, 0),
    "corrigible-neutral-HHH": (290, 51, 0),
    "hallucination": (1000, 50, 0),
    "myopic-reward": (950, 50, 0),
    "survival-instinct": (903, 62, 88),
    "sycophancy": (1000, 49, 0),
    "refusal": (408, 47, 0),
}
TEST = {
    "coordinate-other-ais": (50, 52, 0),
    "corrigible-neutral-HHH": (50, 44, 0),
    "hallucination": (50, 46, 0),
    "myopic-reward": (50, 52, 0),
    "survival-instinct": (50, 64, 4),
    "sycophancy": (50, 56, 0),
    "refusal": (50, 46, 0),
}


@pytest.mark.parametrize("behavior", GENERATE)
@pytest.mark.parametrize(
    ("part", "file", "facts"), [("generate", "generate_dataset", GENERATE), ("test", "test_dataset_ab", TEST)]
)
def test_every_published_file_loads(
    data_root: Path, part: str, file: str, facts: dict[str, tuple[int, int, int]], behavior: str
) -> None:
    pairs = load_pairs(data_root / "data" / "caa" / "datasets" / part / behavior / f"{file}.json")
    count, share, beyond = facts[behavior]
    assert len(pairs) == count
    assert round(100 * pairs.letters["A"] / count) == share
    assert pairs.beyond_ab == beyond
    assert (pairs.format, pairs.skipped, pairs.name) == ("caa", {}, f"{behavior}/{file}")
    assert all(pair.is_choice for pair in pairs)
    kept = pairs.with_letters("AB")
    assert len(kept) == count - beyond
    assert sum(kept.skipped.values()) == beyond


@pytest.mark.parametrize(("name", "count"), [("truthfulqa/truthful_qa", 817), ("mmlu/mmlu", 570)])
def test_truthfulqa_and_mmlu_load_as_pairs(data_root: Path, name: str, count: int) -> None:
    pairs = load_pairs(data_root / "data" / "caa" / "datasets" / "test" / f"{name}.json")
    assert len(pairs) == count
    assert set(pairs.letters) == {"A", "B"}
    assert round(100 * pairs.letters["A"] / count) in (51, 52)


@pytest.mark.parametrize("behavior", TEST)
def test_open_questions_load(data_root: Path, behavior: str) -> None:
    path = data_root / "data" / "caa" / "datasets" / "test" / behavior / "test_dataset_open_ended.json"
    assert len(load_questions(path)) == (53 if behavior == "sycophancy" else 50)
