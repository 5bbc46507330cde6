"""The comparison: the same data, budget and judges for all; own methods; failures are shown; the base stays itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from baseline_cases import Itself, preferences
from tiny import tiny

import steerkit as sk
from steerkit.adapters import Lora
from steerkit.data.preference_loading import load_preferences
from steerkit.data.preference_sets import Preferences
from steerkit.demo.correction import score_correction
from steerkit.demo.preferences import BAD, GOOD
from steerkit.errors import DataError, InputError, SteerkitError, SteerkitWarning
from steerkit.evaluation.choices import score_choices
from steerkit.training.baselines.hook import NEARLY, as_choices, choose_hook, preference_vector
from steerkit.training.baselines.methods import METHODS, RAHF, resolve_methods
from steerkit.training.baselines.task import Budget, Entry, Method, Task, as_entry
from steerkit.training.comparing.comparison import BASE, compare_methods, sample_answers
from steerkit.training.teaching.instructions import Instructions

SMALL = Budget(steps=2, batch=4, lr=1e-3, lora=Lora(r=2, targets="all-linear"), max_new_tokens=6)
TOLD = Instructions(GOOD, BAD)


def by_length(prompt: str, answer: str) -> float:
    return float(len(answer))


@dataclass(frozen=True)
class Mine:
    """A method of one's own, which keeps what it was given."""

    seen: list[Task]
    name: str = "mine"

    def __call__(self, task: Task) -> Entry:
        self.seen.append(task)
        return Entry(task.model, lambda prompts: [one.with_prefill("No") for one in prompts], note="says no")


@dataclass(frozen=True)
class Broken:
    name: str = "broken"

    def __call__(self, task: Task) -> Any:
        raise ZeroDivisionError("too clever")


@dataclass(frozen=True)
class Spoiling:
    name: str = "spoiling"

    def __call__(self, task: Task) -> Any:
        with torch.no_grad():
            task.model.hf.get_output_embeddings().weight.mul_(2)
        return Entry(task.model)


def _compare(model: Any, methods: Any, **options: Any) -> Any:
    given: dict[str, Any] = {"scorer": by_length, "reward": False, "budget": SMALL, **options}
    return compare_methods(model, preferences(40), methods=methods, **given)


def test_a_method_of_ones_own_has_a_row_and_sees_no_test_prompt() -> None:
    model, tasks = tiny(), []
    before = Itself(model)
    found = _compare(model, Mine(tasks), others={"other": preferences(4).pairs()})
    before.check()
    (task,) = tasks
    assert [row.name for row in found.rows] == [BASE, "mine"]
    assert isinstance(Mine([]), Method)
    parts = [{repr(one.prompt) for one in part} for part in (task.teach, task.distil)]
    asked = {repr(one.prompt) for one in preferences(40) if one.prompt.content[0]["content"] in found.prompts}
    assert asked
    assert not parts[0] & parts[1]
    assert not asked & (parts[0] | parts[1])
    assert {repr(one.prompt) for one in task.train} == parts[0] | parts[1]
    assert len(found["mine"].answers) == len(found.prompts) == len(found.base)
    assert "says no" in repr(found)
    assert "Side effects" in repr(found)
    assert found[BASE].effects["other"].mean == 0
    assert found["mine"].effects["other"].mean != 0
    assert json.loads(found.to_json())["rows"][1]["name"] == "mine"
    assert len(found.to_frame()) == 2
    assert len(found.plot().data) == 2
    assert "rule" in repr(found.against_preferred)


def test_the_judge_and_the_methods_share_no_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    from steerkit.training.comparing import comparison

    judged: list[Preferences] = []
    train = comparison.train_reward_model

    def keep(model: Any, part: Any, **options: Any) -> Any:
        judged.extend((part, options["held_out"]))
        return train(model, part, **options)

    monkeypatch.setattr(comparison, "train_reward_model", keep)
    tasks: list[Task] = []
    found = _compare(tiny(), Mine(tasks), reward=True)
    prompts = [{repr(one.prompt) for one in part} for part in (*judged, tasks[0].teach, tasks[0].distil)]
    assert sum(map(len, prompts)) == len(set.union(*prompts)) == 40
    assert found.judges == ["rule", "our reward model"]
    assert found.quality is not None
    assert found["mine"].reward is not None
    assert "held-out preferences: accuracy" in repr(found)


def test_a_failure_is_shown_and_kept_and_the_others_go_on() -> None:
    with pytest.warns(SteerkitWarning, match="'broken' failed"):
        found = _compare(tiny(), [Broken(), "prompt"])
    assert found["broken"].failure == "ZeroDivisionError('too clever')"
    assert isinstance(found.failures["broken"], ZeroDivisionError)
    assert "broken failed: ZeroDivisionError" in repr(found)
    assert found["prompt p+"].against_base["rule"].rate >= 0
    found.plot(), found.to_json()


def test_when_all_fail_there_is_no_comparison() -> None:
    with pytest.warns(SteerkitWarning), pytest.raises(SteerkitError, match="every method failed") as caught:
        _compare(tiny(), Broken())
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_method_that_changes_the_base_stops_everything() -> None:
    with pytest.raises(SteerkitError, match="'spoiling' changed the base"):
        _compare(tiny(), Spoiling())


def test_the_same_seed_gives_the_same_answers_and_draws_from_nothing_else() -> None:
    model, prompts = tiny(), [one.prompt for one in preferences(4)]
    state = torch.get_rng_state()
    first, again, other = (sample_answers(model, prompts, SMALL, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state)


def test_entries() -> None:
    model = tiny()
    assert as_entry(model, model).speaker is model
    assert isinstance(METHODS["prompt"](), Method)
    with pytest.raises(InputError, match="a str"):
        as_entry("a name", model)


def test_several_methods_are_charged_for_what_they_share() -> None:
    task = Task(tiny(), preferences(), preferences(), TOLD, SMALL)
    made: list[int] = []
    assert [task.shared("it", lambda: made.append(1) or "made") for _ in range(3)] == ["made"] * 3
    assert len(made) == 1
    assert task.borrowed > 0


def test_options_hold_both_answers_in_turn() -> None:
    pairs = as_choices(preferences(4))
    assert pairs.letters == {"A": 2, "B": 2}
    assert [pair.positive_letter for pair in pairs] == ["A", "B", "A", "B"]
    for one, pair in zip(preferences(4), pairs, strict=True):
        assert f"({pair.positive_letter}) {one.chosen}" in pair.positive.prompt.content[0]["content"]
        assert f"({pair.negative_letter}) {one.rejected}" in pair.positive.prompt.content[0]["content"]


@pytest.mark.usefixtures("as_user")
def test_bad_input_is_refused_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    monkeypatch.setattr(type(model), "forward", lambda *_, **__: pytest.fail("it was computed"))
    with pytest.raises(InputError, match="'ppo' is not known"):
        _compare(model, ["ppo"])
    with pytest.raises(InputError, match="two methods are called 'DPO'"):
        _compare(model, ["dpo", "dpo"])
    with pytest.raises(InputError, match="no methods"):
        _compare(model, [])
    with pytest.raises(InputError, match="is no method"):
        _compare(model, [Broken])
    with pytest.raises(InputError, match="nobody judges"):
        _compare(model, "dpo", scorer=None)
    with pytest.raises(DataError, match="prompts that are learned from"):
        _compare(model, "dpo", test=preferences(4))
    for wrong in ({"steps": 0}, {"temperature": -1}, {"max_new_tokens": 0}, {"lr": 0}):
        with pytest.raises(InputError):
            Budget(**wrong)


def test_all_methods_have_a_name_of_their_own() -> None:
    names = [one.name for one in resolve_methods("all")]
    assert len(set(names)) == len(names) == len(METHODS)
    assert RAHF("none", alpha=5.0, name="LORRA") in resolve_methods("all")


def test_the_hook_raises_the_demos_preferred_answers() -> None:
    model, train = sk.load("demo"), load_preferences("demo", split="train")
    hook = choose_hook(model, preference_vector(model, train[:100]), train[200:216], coefs=(0.5,))
    test = load_preferences("demo", split="test")[:24].pairs()
    change = score_choices(hook.on(model), test).minus(score_choices(model, test))
    assert change.mean - 3 * change.stderr > 0.2


def test_of_hooks_that_are_nearly_as_good_the_weakest_is_taken() -> None:
    model, train = sk.load("demo"), load_preferences("demo", split="train")
    vector, some = preference_vector(model, train[:100]), train[200:216]
    weakest, strong = choose_hook(model, vector, some), choose_hook(model, vector, some, coefs=(1.0,))
    assert weakest.coef < strong.coef
    assert strong.share - NEARLY <= weakest.share < strong.share


@pytest.mark.slow
def test_what_beats_the_base_on_the_demo() -> None:
    """At the usual budget; RAHF-Dual by the reward model alone, not by the rule."""
    found = compare_methods(
        sk.load("demo"), load_preferences("demo", split="train"), test=load_preferences("demo", split="test"),
        methods=["hook", "preferred-sft", "dpo", "rloo", "difference", "rahf-dual"], scorer=score_correction,
        instructions=TOLD, others={"mood": sk.load_pairs("demo:mood", split="test")},
        budget=Budget(max_new_tokens=40),
    )  # fmt: skip
    assert not found.failures
    low, high = found[BASE].against_base["rule"].interval
    assert low <= 0.5 <= high
    for row in found.rows[1:]:
        assert row.against_base["our reward model"].interval[0] > 0.5, row.name
    for name in ("hook", "Preferred-SFT", "DPO", "RLOO", "weight difference"):
        assert found[name].against_base["rule"].interval[0] > 0.5, name
