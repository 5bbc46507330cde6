from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from teaching_cases import TOLD, model, own_score, preferences

from steerkit.errors import DataError, InputError
from steerkit.evaluation.proportions import Rate, wilson_interval
from steerkit.training.teaching.discrimination import Discrimination, Margins
from steerkit.training.teaching.instructions import Instructions
from steerkit.training.teaching.lessons import read_lessons
from steerkit.training.teaching.margins import discriminate


def of(chosen: list[float], rejected: list[float]) -> Margins:
    return Margins(torch.tensor(chosen, dtype=torch.float64), torch.tensor(rejected, dtype=torch.float64))


def made() -> Discrimination:
    base = of([0.2, -0.1, 0.3, -0.4], [0.1, -0.1, 0.5, 0.0])
    taught = of([1.0, 0.5, 0.2, -0.1], [-1.0, -0.5, -0.2, 0.3])
    lengths = torch.tensor([[10, 10], [10, 9], [10, 8], [4, 20]])
    return Discrimination({"base": base, "taught": taught}, ("a", "b", "c", "d"), lengths, 0.1, goal=1.0)


def test_accuracies_are_shares_of_margins_on_the_right_side() -> None:
    found = made()
    assert [found.accuracy(side, arm="base").share for side in ("chosen", "rejected", "both", "order")] == [
        0.5, 0.25, 0.375, 0.25]  # fmt: skip
    assert [found.accuracy(side).share for side in ("chosen", "rejected", "both", "order")] == [0.75] * 4
    assert found.accuracy("both").count == 4


def test_a_margin_of_zero_is_not_right() -> None:
    none = Discrimination({"base": of([0.0], [0.0])}, ("a",), torch.tensor([[3, 3]]))
    assert [none.accuracy(side).share for side in ("chosen", "rejected", "both", "order")] == [0.0] * 4


def test_only_answers_of_about_one_length_are_matched() -> None:
    found = made()
    assert found.matched.tolist() == [True, True, False, False]
    assert found.accuracy("chosen", matched=True) == Rate.of(torch.ones(2))
    assert found.margins("base", matched=True).rejected.tolist() == [0.1, -0.1]


def test_what_teaching_added_is_paired_by_item() -> None:
    gain = made().gain("both")
    per_item = [1.0 - 0.5, 1.0 - 0.5, 1.0 - 0.5, 0.0 - 0.0]
    assert gain.mean == pytest.approx(sum(per_item) / 4)
    assert gain.count == 4
    assert gain.stderr == pytest.approx(float(torch.tensor(per_item).std()) / 2)


def test_the_table_shows_every_arm_and_class_with_its_interval() -> None:
    shown = made().table()
    assert len(shown.rows) == 2 * 2 * 4
    row = next(r for r in shown.rows if r[:3] == ["taught", "all", "chosen"])
    assert row[3:6] == [0.75, *wilson_interval(0.75, 4)]
    assert row[6] == pytest.approx(0.4)
    assert "taught against base: +0.375 accuracy" in shown.note
    assert "margin of 1.000" in shown.note


def test_it_goes_through_json_and_back() -> None:
    found = made()
    again = Discrimination.from_dict(json.loads(found.to_json()))
    assert repr(again) == repr(found)
    assert torch.equal(again.arms["base"].chosen, found.arms["base"].chosen)
    assert len(found.to_frame()) == 8


def test_the_figure_has_both_classes_for_each_arm() -> None:
    figure = made().plot()
    assert [(trace.name, list(trace.x)) for trace in figure.data][2:] == [
        ("chosen", [1.0, 0.5, 0.2, -0.1]), ("rejected", [-1.0, -0.5, -0.2, 0.3])]  # fmt: skip
    assert "75%" in figure.layout.title.text


def test_wilson_is_the_published_interval() -> None:
    """Newcombe 1998, table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    for hits, count, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611),
                                   (1, 29, 0.0061, 0.1718)):  # fmt: skip
        assert wilson_interval(hits / count, count) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 200), st.data())
def test_the_interval_holds_the_share_and_solves_its_equation(count: int, data: st.DataObject) -> None:
    share = data.draw(st.integers(0, count)) / count
    low, high = wilson_interval(share, count)
    assert 0 <= low <= share <= high <= 1
    for end in (low, high):
        if 0 < end < 1:
            assert abs(share - end) == pytest.approx(1.959963984540054 * math.sqrt(end * (1 - end) / count), abs=1e-9)


def test_margins_are_differences_of_independent_scores() -> None:
    found = discriminate(model(), preferences(5), instructions=TOLD, batch_size=3)
    for i, one in enumerate(read_lessons(preferences(5), TOLD, model())):
        wanted = own_score(model(), one.chosen_good) - own_score(model(), one.chosen_bad)
        assert float(found.arms["base"].chosen[i]) == pytest.approx(wanted, abs=5e-6)
        wanted = own_score(model(), one.rejected_good) - own_score(model(), one.rejected_bad)
        assert float(found.arms["base"].rejected[i]) == pytest.approx(wanted, abs=5e-6)


def test_swapped_instructions_turn_every_margin_round() -> None:
    straight = discriminate(model(), preferences(5), instructions=TOLD).arms["base"]
    swapped = discriminate(model(), preferences(5), instructions=TOLD.swapped).arms["base"]
    assert torch.equal(straight.chosen, -swapped.chosen)
    assert torch.equal(straight.rejected, -swapped.rejected)


def test_one_preference_is_enough_to_measure() -> None:
    found = discriminate(model(), preferences(1), instructions=TOLD)
    assert len(found) == 1
    assert "base" in repr(found)


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        ([], {}, DataError, "no preferences"),
        (preferences(2), {"batch_size": 0}, InputError, "batch_size=0"),
        (preferences(2), {"tolerance": 1.5}, InputError, "tolerance=1.5"),
        (preferences(2), {"instructions": Instructions("x" * 600, "y")}, DataError, "context is 512"),
    ],
)
def test_what_cannot_be_measured_is_refused(given, options, error, message) -> None:
    with pytest.raises(error, match=message):
        discriminate(model(), given, **options)


@pytest.mark.usefixtures("as_user")
def test_an_unknown_class_or_arm_is_refused() -> None:
    with pytest.raises(InputError, match="side='best'"):
        made().accuracy("best")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'base', 'taught'"):
        made().accuracy(arm="other")
