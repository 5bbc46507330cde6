"""Judges: verdicts do not go by the order, and what is no probability is refused."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steerkit.data.chat import Prompt
from steerkit.errors import DataError
from steerkit.evaluation.judging import Judge, RuleJudge, judge_pairs

ANSWERS = st.lists(st.tuples(st.text("ab", max_size=4), st.text("ab", max_size=4)), min_size=1, max_size=20)


class First:
    """A judge with a weakness for what it reads first."""

    name = "partial"

    def __init__(self, bonus: float) -> None:
        self.bonus = bonus

    def __call__(self, prompts: Sequence[object], a: Sequence[str], b: Sequence[str]) -> Tensor:
        better = torch.tensor([0.5 + 0.1 * (len(x) - len(y)) for x, y in zip(a, b, strict=True)])
        return (better + self.bonus).clamp(0, 1)


class Fixed:
    name = "fixed"

    def __init__(self, given: object) -> None:
        self.given = given

    def __call__(self, prompts: object, a: object, b: object) -> object:
        return self.given


def test_a_rule_tells_wins_ties_losses_and_what_cannot_be_scored() -> None:
    judge = RuleJudge(lambda prompt, answer: {"good": 1.0, "bad": 0.0}.get(answer))
    a = ["good", "bad", "good", "?", "bad", "?"]
    b = ["bad", "good", "good", "bad", "?", "!"]
    assert judge(["q"] * 6, a, b).tolist() == [1.0, 0.0, 0.5, 0.0, 1.0, 0.5]
    assert isinstance(judge, Judge)


def test_a_rule_sees_the_text_of_the_prompt() -> None:
    asked: list[str] = []
    judge = RuleJudge(lambda prompt, answer: asked.append(prompt) or 0.0)
    judge([Prompt([{"role": "user", "content": "Is the sea dry?"}])], ["a"], ["b"])
    assert asked == ["Is the sea dry?"] * 2


@given(ANSWERS)
@settings(deadline=None)
def test_exchanging_the_sides_turns_every_verdict_round(both: list[tuple[str, str]]) -> None:
    a, b = ([one[i] for one in both] for i in range(2))
    prompts = ["q"] * len(both)
    for judge in (RuleJudge(lambda _, text: text.count("a")), First(0.2)):
        there, back = judge_pairs(judge, prompts, a, b), judge_pairs(judge, prompts, b, a)
        torch.testing.assert_close(there.preference, 1 - back.preference, rtol=0, atol=1e-12)
        assert there.order_effect == pytest.approx(back.order_effect, abs=1e-12)


def test_a_weakness_for_the_first_answer_is_measured_and_taken_away() -> None:
    found = judge_pairs(First(0.2), ["q", "q"], ["aa", "a"], ["a", "aa"])
    torch.testing.assert_close(found.preference, torch.tensor([0.6, 0.4], dtype=torch.float64), rtol=0, atol=1e-6)
    assert found.order_effect == pytest.approx(0.4, abs=1e-6)
    assert judge_pairs(First(0.0), ["q"], ["aa"], ["a"]).order_effect == pytest.approx(0, abs=1e-6)


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize("given", [torch.tensor([0.5]), torch.tensor([0.5, 1.5]), torch.tensor([0.5, float("nan")]),
                                   [0.5, 0.5]])  # fmt: skip
def test_what_is_no_probability_is_refused(given: object) -> None:
    with pytest.raises(DataError, match="fixed"):
        judge_pairs(Fixed(given), ["q", "q"], ["a", "a"], ["b", "b"])  # type: ignore[arg-type]


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(("a", "b"), [([], []), (["x"], ["x", "y"]), (["x", "y"], ["x"])])
def test_two_answers_to_each_prompt(a: list[str], b: list[str]) -> None:
    with pytest.raises(DataError, match="two answers to each prompt"):
        judge_pairs(First(0), ["q"] * len(a), a, b)
