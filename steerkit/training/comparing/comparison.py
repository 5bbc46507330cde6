"""Methods of alignment side by side: the same data, the same budget, the same judges."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.adapters.provenance import check_base
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.data.chat import Prompt, PromptLike, as_prompt
from steerkit.data.pairs import ContrastPair, Pairs, Side, prompt_text
from steerkit.data.preference_sets import Preferences
from steerkit.errors import DataError, InputError, SteerkitError, SteerkitWarning
from steerkit.evaluation.choices import score_choices
from steerkit.evaluation.generations import Score
from steerkit.evaluation.intervals import Difference
from steerkit.evaluation.judging import Judge, RuleJudge
from steerkit.evaluation.scores import ChoiceScores
from steerkit.evaluation.win_rates import win_rate
from steerkit.training.baselines.methods import resolve_methods
from steerkit.training.baselines.reward import RewardModel, train_reward_model
from steerkit.training.baselines.task import Budget, Entry, Method, Speaker, Task, as_entry, distinct_prompts
from steerkit.training.baselines.trainers import import_trl
from steerkit.training.comparing.compared import Compared, MethodComparison
from steerkit.training.teaching.instructions import Instructions

BASE = "base, again"
"""A second sample of the base: what chance alone does."""
BATCH = 32


def compare_methods(  # noqa: PLR0913 - each is a plain choice of the user
    model: HuggingFaceModel,
    preferences: Preferences,
    *,
    methods: str | Method | Sequence[str | Method] = "all",
    test: Preferences | None = None,
    scorer: Score | None = None,
    reward: bool = True,
    others: Mapping[str, Sequence[ContrastPair]] | None = None,
    instructions: Instructions | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    progress: bool = False,
) -> MethodComparison:
    """Run methods on the same preferences and compare their answers with the base's.

    The preferences are split by prompt into four parts: one for the judging reward model, two for the methods (to teach
    and to distil; methods of one stage have both), and one to measure on. No method sees what judges it. Answers are
    sampled, one to each test prompt; the row "base, again" is a second sample of the base, for what chance does. After
    every method the base must give the same logits, bit for bit.

    Args:
        model: The base; afterwards it is itself.
        preferences: What is learned from, and without `test` also measured on.
        methods: `"all"`, or some by name, or your own `Method` among them.
        test: Preferences to measure on, whose prompts are not among the others.
        scorer: A rule that gives a number for a prompt's text and an answer, or `None` where it cannot; higher is
            better.
        reward: Train a reward model as a judge (needs TRL).
        others: Contrast pairs of other behaviors, by name, on which side effects are measured.
        instructions: The good and the bad one, for methods that use them; without them steerkit's own.
        budget: What every method may spend.
        seed: Of the split, of every training, and of the sampled answers.
        progress: Say on standard error what is being done.

    Raises:
        InputError: A method is not known, or there is no judge.
        DataError: Too few preferences, or test prompts are among the others.
        SteerkitError: TRL is needed and not installed, every method failed, or a method changed the base.

    Warns:
        SteerkitWarning: A method failed; its row says why, and `failures` holds the exception.

    Source: the comparison of Liu et al. 2024 (RAHF), table 1 and figure 4. We differ: LoRA for every method, RLOO in
    the place of PPO, a rule and our own reward model in the place of GPT-4, and the free baselines beside them.
    """
    chosen = resolve_methods(methods)
    check_base({}, model, override=True)
    if scorer is None and not reward:
        raise InputError("nobody judges: give a scorer, or reward=True for a reward model")
    if reward:
        import_trl()
    budget = budget or Budget()
    parts = _parts(preferences, test, seed)
    task = Task(model, parts["teach"], parts["distil"], instructions or Instructions(), budget, seed)
    say = _narrator(progress)
    say(f"reward model on {len(parts['judge'])} preferences" if reward else "no reward model")
    judge = _judge(model, parts["judge"], parts["test"], budget, seed) if reward else None
    remembered = None if judge is None else Remembered(judge)
    contest = _Contest(task, parts["test"], _judges(scorer, remembered), remembered, dict(others or {}))
    rows = [contest.measure(BASE, Entry(model), 0.0)]
    failures: dict[str, Exception] = {}
    for method in chosen:
        say(method.name)
        row, error = contest.run(method)
        rows.append(row)
        if error is not None:
            failures[method.name] = error
    if len(failures) == len(chosen):
        raise SteerkitError(f"every method failed; the first with {next(iter(failures.values()))!r}") \
            from next(iter(failures.values()))  # fmt: skip
    quality = None if judge is None else judge.quality
    return MethodComparison(tuple(rows), contest.texts, contest.base, quality, failures, seed)


@dataclass(eq=False)
class _Contest:
    """Everything that is the same for every method."""

    task: Task
    test: Preferences
    judges: Sequence[Judge]
    reward: Remembered | None
    others: Mapping[str, Sequence[ContrastPair]]

    def __post_init__(self) -> None:
        model = self.task.model
        self.prompts = distinct_prompts(self.test)
        self.preferred = [next(p.chosen for p in self.test if p.prompt == one) for one in self.prompts]
        self.texts = tuple(prompt_text(one) for one in self.prompts)
        self.probe = model.forward(self.prompts[:4])
        self.base = self._answers(Entry(model), self.task.seed)
        self.before = {name: score_choices(model, pairs) for name, pairs in self.others.items()}

    def run(self, method: Method) -> tuple[Compared, Exception | None]:
        """A method's row, and why it failed."""
        self.task.borrowed, started = 0.0, time.perf_counter()
        try:
            entry = as_entry(method(self.task), self.task.model)
            row = self.measure(method.name, entry, time.perf_counter() - started + self.task.borrowed)
        except Exception as error:  # noqa: BLE001 - whatever a method raises is kept, shown and warned of
            self._check_base(method.name)
            warnings.warn(f"the method {method.name!r} failed: {error!r}", SteerkitWarning, stacklevel=3)
            return Compared(method.name, seconds=time.perf_counter() - started, failure=repr(error)), error
        self._check_base(method.name)
        return row, None

    def measure(self, name: str, entry: Entry, seconds: float) -> Compared:
        """What a method's answers are worth."""
        answers = self._answers(entry, self.task.seed + 1)
        against = {
            other: {j.name: win_rate(j, self.prompts, answers, theirs, seed=self.task.seed) for j in self.judges}
            for other, theirs in (("base", self.base), ("preferred", self.preferred))
        }
        scores = None if self.reward is None else self.reward.score(self.prompts, answers)
        effects = {other: self._effect(entry, pairs, self.before[other]) for other, pairs in self.others.items()}
        return Compared(name, entry.parameters, seconds, tuple(answers), against["base"], against["preferred"],
                        scores, effects, entry.note)  # fmt: skip

    def _answers(self, entry: Entry, seed: int) -> list[str]:
        return sample_answers(entry.speaker, entry.prompts(self.prompts), self.task.budget, seed=seed)

    def _effect(self, entry: Entry, pairs: Sequence[ContrastPair], before: ChoiceScores) -> Difference:
        return score_choices(entry.speaker, _prepared(pairs, entry)).minus(before)

    def _check_base(self, name: str) -> None:
        if not torch.equal(self.task.model.forward(self.prompts[:4]), self.probe):
            raise SteerkitError(f"the method {name!r} changed the base model; load it again and see that the method "
                                "puts back what it changes")  # fmt: skip


def sample_answers(speaker: Speaker, prompts: Sequence[Prompt], budget: Budget, *, seed: int) -> list[str]:
    """One answer to each prompt; the same seed gives the same ones, and nothing else is drawn from."""
    sampling: dict[str, Any] = {"do_sample": False}
    if budget.temperature > 0:
        sampling = {"do_sample": True, "temperature": float(budget.temperature), "top_k": 0, "top_p": 1.0}
    found: list[str] = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for start in range(0, len(prompts), BATCH):
            some = list(prompts[start : start + BATCH])
            found += speaker.generate(some, max_new_tokens=budget.max_new_tokens, **sampling)
    return [one.strip() for one in found]


def _parts(preferences: Preferences, test: Preferences | None, seed: int) -> dict[str, Preferences]:
    if preferences.template is not None:
        raise DataError(f"the preferences use the template {preferences.template!r}, but answers are generated with "
                        "the tokenizer's own; load them with template=None")  # fmt: skip
    if test is None:
        return preferences.parts({"judge": 0.25, "teach": 0.3, "distil": 0.3, "test": 0.15}, seed=seed)
    seen = {repr(one.prompt) for one in preferences}
    known = [one.id for one in test if repr(one.prompt) in seen]
    if known:
        raise DataError(f"{len(known)} test preferences have prompts that are learned from, such as {known[0]!r}; "
                        "measure on others")  # fmt: skip
    return {**preferences.parts({"judge": 0.25, "teach": 0.375, "distil": 0.375}, seed=seed), "test": test}


def _judge(model: HuggingFaceModel, part: Preferences, held_out: Preferences, budget: Budget, seed: int) -> RewardModel:
    fit = budget.fit(model.info.hidden_size, seed=seed + 1)
    return train_reward_model(model, part, held_out=held_out, lora=budget.lora, fit=fit, name="our reward model")


def _judges(scorer: Score | None, reward: Remembered | None) -> list[Judge]:
    rule: list[Judge] = [] if scorer is None else [RuleJudge(scorer)]
    return rule if reward is None else [*rule, reward]


class Remembered:
    """A reward model that scores every answer once."""

    def __init__(self, reward: RewardModel) -> None:
        self.name = reward.name
        self._reward = reward
        self._known: dict[tuple[str, str], float] = {}

    def score(self, prompts: Sequence[PromptLike], answers: Sequence[str]) -> Float[Tensor, " item"]:
        """The reward of each answer."""
        asked = [as_prompt(one) for one in prompts]
        keys = [(repr(prompt), answer) for prompt, answer in zip(asked, answers, strict=True)]
        new = {key: i for i, key in enumerate(keys) if key not in self._known}
        if new:
            rewards = self._reward.score([asked[i] for i in new.values()], [answers[i] for i in new.values()])
            self._known.update(zip(new, rewards.tolist(), strict=True))
        return torch.tensor([self._known[key] for key in keys])

    def __call__(self, prompts: Sequence[PromptLike], a: Sequence[str], b: Sequence[str]) -> Float[Tensor, " item"]:
        """How probable it is that each first answer is the better one."""
        return torch.sigmoid(self.score(prompts, a) - self.score(prompts, b))


def _prepared(pairs: Sequence[ContrastPair], entry: Entry) -> Sequence[ContrastPair]:
    """The pairs with the prompts as the method asks them."""
    if entry.prepare is None:
        return pairs
    sides = [entry.prompts([side.prompt for side in (one.positive, one.negative)]) for one in pairs]
    told = [
        replace(one, positive=Side(good, one.positive.answer), negative=Side(bad, one.negative.answer))
        for one, (good, bad) in zip(pairs, sides, strict=True)
    ]
    return replace(pairs, items=told) if isinstance(pairs, Pairs) else told


def _narrator(progress: bool) -> Any:
    from rich.console import Console

    console = Console(stderr=True, quiet=not progress)
    return lambda text: console.print(text, highlight=False)
