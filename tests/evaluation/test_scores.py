from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from steerkit.errors import DataError
from steerkit.evaluation.scores import ChoiceScores

EFFECTS = {  # published p(+1) - p(-1) at layer 13 with paired standard errors, and the share that moves the wrong way
    "coordinate-other-ais": (0.602, 0.053, 0.08),
    "corrigible-neutral-HHH": (0.714, 0.042, 0.06),
    "hallucination": (0.508, 0.060, 0.02),
    "myopic-reward": (0.331, 0.097, 0.42),
    "survival-instinct": (0.347, 0.120, 0.28),
    "sycophancy": (0.081, 0.078, 0.44),
    "refusal": (0.464, 0.060, 0.02),
}


@pytest.fixture(scope="module")
def published(data_root: Path) -> dict[tuple[str, float], ChoiceScores]:
    rows: dict[tuple[str, float], list[dict[str, str]]] = {}
    with (data_root / "data/caa/reference/ab_items_7b_layer13.csv").open() as file:
        for row in csv.DictReader(file):
            rows.setdefault((row["behavior"], float(row["multiplier"])), []).append(row)
    return {
        key: ChoiceScores.from_probabilities(
            [float(one["a_prob"]) for one in some],
            [float(one["b_prob"]) for one in some],
            [one["matching"] for one in some],
            convention="caa",
        )
        for key, some in rows.items()
    }


def test_the_published_table_comes_out(published: dict[tuple[str, float], ChoiceScores], data_root: Path) -> None:
    compared = 0
    with (data_root / "data/caa/reference/ab_multipliers.csv").open() as file:
        for row in csv.DictReader(file):
            key = (row["behavior"], float(row["multiplier"]))
            if (row["model"], row["layer"], row["system_prompt"]) != ("7b", "13", "none") or key not in published:
                continue
            scores = published[key]
            assert scores.p_matching == pytest.approx(float(row["p_match"]), abs=2e-6)
            if not scores.beyond:  # the published figure takes every other letter for B
                assert scores.accuracy == pytest.approx(float(row["acc"]), abs=1e-6)
            assert scores.mass == pytest.approx(float(row["p_ab_mass"]), abs=2e-6)
            assert len(scores) == int(row["n"])
            compared += 1
    assert compared == len(published) >= 7 * 3


@pytest.mark.parametrize("behavior", EFFECTS)
def test_the_published_effects_have_these_paired_errors(
    published: dict[tuple[str, float], ChoiceScores], behavior: str
) -> None:
    difference = published[behavior, 1.0].minus(published[behavior, -1.0])
    mean, stderr, wrong = EFFECTS[behavior]
    assert difference.mean == pytest.approx(mean, abs=6e-4)
    assert difference.stderr == pytest.approx(stderr, abs=6e-4)
    assert difference.wrong == pytest.approx(wrong, abs=1e-6)


def test_survival_instinct_is_capped_by_its_other_letters(
    published: dict[tuple[str, float], ChoiceScores],
) -> None:
    scores = published["survival-instinct", 0.0]
    assert scores.beyond == 4
    assert scores.other_items.p_matching == 0
    assert scores.a_items.count + scores.b_items.count == 46
    best = ["A" if a else "B" for a in torch.rand(46) > 0.5] + ["C"] * 4
    perfect = ChoiceScores.from_probabilities(
        [float(letter == "A") for letter in best[:46]] + [1.0] * 4,
        [float(letter == "B") for letter in best[:46]] + [0.0] * 4,
        best,
        convention="caa",
    )
    assert perfect.p_matching == pytest.approx(0.92)


def test_a_letter_lover_is_seen_by_its_letters() -> None:
    scores = ChoiceScores.from_probabilities([0.9] * 4, [0.1] * 4, ["A", "B", "A", "B"])
    assert scores.p_matching == pytest.approx(0.5)
    assert scores.letter_bias == pytest.approx(0.8)


def test_each_answer_has_the_probability_of_its_letter() -> None:
    items = ChoiceScores.from_probabilities([0.6, 0.1], [0.3, 0.7], ["A", "(B)"]).items
    assert items.p_positive.tolist() == [0.6, 0.7]
    assert items.p_negative.tolist() == [0.3, 0.1]
    assert items.letter == ("A", "B")


def test_tiny_probabilities_keep_their_share() -> None:
    log = torch.tensor([-2000.0], dtype=torch.float64)
    scores = ChoiceScores.from_logs(["0"], [""], log, log - 1.0, "sequence")
    assert scores.p_matching == pytest.approx(1 / (1 + torch.tensor(-1.0).exp().item()))
    assert scores.mass == 0
    assert "NaN" not in scores.to_json()


@pytest.mark.parametrize(
    ("a", "b", "letters", "convention", "message"),
    [
        ([0.5], [0.5, 0.1], ["A"], "own", "1 and 2 probabilities"),
        ([], [], [], "own", "0 letters"),
        ([1.5], [0.1], ["A"], "own", "item 0"),
        ([0.7], [0.7], ["A"], "own", "item 0"),
        ([0.0], [0.0], ["A"], "own", "not both are 0"),
        ([float("nan")], [0.1], ["A"], "own", "item 0"),
        ([0.5], [0.5], ["yes"], "own", "'yes' is not a multiple-choice letter"),
        ([0.5], [0.5], ["C"], "own", "beyond A and B"),
    ],
)
def test_bad_probabilities_are_refused(
    a: list[float], b: list[float], letters: list[str], convention: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        ChoiceScores.from_probabilities(a, b, letters, convention=convention)


def test_other_items_cannot_be_compared() -> None:
    one = ChoiceScores.from_probabilities([0.5], [0.5], ["A"])
    with pytest.raises(DataError, match="same pairs"):
        one.minus(ChoiceScores.from_probabilities([0.5], [0.5], ["B"]))
    with pytest.raises(DataError, match="no longer hold"):
        one.under("caa").under("own")
