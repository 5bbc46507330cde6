"""The methods that are compared, each a small object: a name and a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from steerkit.adapters import Adapter, stack
from steerkit.errors import InputError
from steerkit.training.baselines.dpo import train_dpo
from steerkit.training.baselines.hir import train_hir
from steerkit.training.baselines.hook import Hook, choose_hook, preference_vector
from steerkit.training.baselines.preferred_sft import train_preferred_sft
from steerkit.training.baselines.reward import RewardModel, train_reward_model
from steerkit.training.baselines.rloo import train_rloo
from steerkit.training.baselines.task import Entry, Method, Prepare, Task, distinct_prompts
from steerkit.training.differences.aligned import Span
from steerkit.training.differences.contrasts import Start


@dataclass(frozen=True)
class GoodPrompt:
    """The good instruction before every prompt; nothing is trained."""

    name: str = "prompt p+"

    def __call__(self, task: Task) -> Entry:
        """The base, told to be good."""
        return Entry(task.model, _told(task))


@dataclass(frozen=True)
class SteeringHook:
    """A vector of the preferences, added while the model runs; layer and strength are chosen, nothing is trained."""

    name: str = "hook"

    def __call__(self, task: Task) -> Entry:
        """The steered base."""
        found = _hook(task, "generation")
        return Entry(found.on(task.model), note=_where(found))


@dataclass(frozen=True)
class BiasBake:
    """The same vector as a bias of the block's down projection, so at every token; no hook at inference."""

    name: str = "bias bake"

    def __call__(self, task: Task) -> Entry:
        """The base with a bias."""
        from steerkit.interchange.bias_adapter import bias_adapter

        found = _hook(task, "all")
        adapter = bias_adapter(task.model, found.vector, layer=found.layer, coef=found.coef)
        return Entry(adapter.on(task.model), note=_where(found))


@dataclass(frozen=True)
class WeightDifference:
    """The weights of a model of chosen answers less those of one of rejected answers, added to the base.

    Args:
        scale: Multiplies the difference.
        teach_rate: Multiplies the budget's learning rate.
        name: Of the row.

    Source: Fierro and Roger 2025, contrastive weight steering.
    """

    scale: float = 1.0
    teach_rate: float = 1.0
    name: str = "weight difference"

    def __call__(self, task: Task) -> Adapter:
        """Good less bad, in weights."""
        weights = _taught(task, "dual", rate=self.teach_rate).weights
        return stack([weights["good"], weights["bad"]], [1.0, -1.0]).scaled(self.scale)


@dataclass(frozen=True)
class PreferredSFT:
    """Imitate the chosen answers; see `train_preferred_sft`.

    Args:
        rate: Multiplies the budget's learning rate.
        name: Of the row.
    """

    rate: float = 1.0
    name: str = "Preferred-SFT"

    def __call__(self, task: Task) -> Adapter:
        """The adapter."""
        return train_preferred_sft(task.model, task.train, lora=task.budget.lora, fit=task.fit(rate=self.rate))


@dataclass(frozen=True)
class HIR:
    """Imitate both answers, each under its instruction, and ask under the good one; see `train_hir`.

    Args:
        rate: Multiplies the budget's learning rate.
        name: Of the row.
    """

    rate: float = 1.0
    name: str = "HIR"

    def __call__(self, task: Task) -> Entry:
        """The adapter, told to be good."""
        adapter = train_hir(task.model, task.train, instructions=task.instructions, lora=task.budget.lora,
                            fit=task.fit(rate=self.rate))  # fmt: skip
        return Entry(adapter.on(task.model), _told(task), adapter.size)


@dataclass(frozen=True)
class DPO:
    """Prefer the chosen answers; see `train_dpo`.

    Args:
        beta: How closely the policy is held to the base.
        rate: Multiplies the budget's learning rate: this loss sums over tokens where that of imitation takes the mean.
        name: Of the row.
    """

    beta: float = 0.1
    rate: float = 0.3
    name: str = "DPO"

    def __call__(self, task: Task) -> Adapter:
        """The adapter."""
        return train_dpo(task.model, task.train, beta=self.beta, lora=task.budget.lora,
                         fit=task.fit(rate=self.rate))  # fmt: skip


@dataclass(frozen=True)
class RLOO:
    """Reinforcement learning on a reward model that is trained on the first part; not PPO; see `train_rloo`.

    Args:
        beta: How closely the policy is held to the base.
        answers: To each prompt, which are held against each other.
        rate: Multiplies the budget's learning rate.
        name: Of the row.
    """

    beta: float = 0.05
    answers: int = 4
    rate: float = 1.0
    name: str = "RLOO"

    def __call__(self, task: Task) -> Adapter:
        """The adapter."""
        prompts = distinct_prompts(task.distil)
        return train_rloo(
            task.model, prompts, reward=_reward(task), answers=self.answers, beta=self.beta,
            max_new_tokens=task.budget.max_new_tokens, lora=task.budget.lora, fit=task.fit(rate=self.rate),
        )  # fmt: skip


@dataclass(frozen=True)
class RAHF:
    """Representation alignment: teach on the first part, distil the differences on the second.

    Args:
        mode: As in `teach`; `"none"` is LORRA: the two instructions alone make the differences.
        alpha: How far along the differences.
        rate: Multiplies the budget's learning rate in the second stage.
        teach_rate: The same in the first.
        start: What the student begins as; see `rahf`.
        positions: Which tokens have a target; see `rahf`.
        name: Of the row.
    """

    mode: Literal["none", "scit", "dual"]
    alpha: float = 5.0
    rate: float = 1.0
    teach_rate: float = 2.0
    start: Start = "taught"
    positions: Span = "response"
    name: str = ""

    def __call__(self, task: Task) -> Entry:
        """The distilled weights; they need no instruction."""
        from steerkit.training.differences.contrasts import find_contrast
        from steerkit.training.differences.difference_teacher import DifferenceTeacher
        from steerkit.training.differences.online_differences import online_differences
        from steerkit.training.distilling.distillation import distill

        taught = None if self.mode == "none" else _taught(task, self.mode, rate=self.teach_rate)
        contrast = find_contrast(taught, instructions=task.instructions if taught is None else None, start=self.start)
        differences = online_differences(task.model, task.distil, contrast, positions=self.positions, seed=task.seed)
        teacher = DifferenceTeacher(task.model, differences, alpha=self.alpha)
        found = distill(task.model, teacher, lora=task.budget.lora, fit=task.fit(rate=self.rate), progress=False)
        layers = ", ".join(map(str, teacher.layers))
        return Entry(found, parameters=found.adapter.size, note=f"layers {layers}, alpha {self.alpha:g}")


METHODS: Mapping[str, Callable[[], Method]] = {
    "prompt": GoodPrompt,
    "hook": SteeringHook,
    "bias": BiasBake,
    "difference": WeightDifference,
    "preferred-sft": PreferredSFT,
    "hir": HIR,
    "dpo": DPO,
    "rloo": RLOO,
    "lorra": lambda: RAHF("none", alpha=5.0, name="LORRA"),
    "rahf-scit": lambda: RAHF("scit", alpha=1.0, rate=4.0, start="base", positions="generation", name="RAHF-SCIT"),
    "rahf-dual": lambda: RAHF("dual", alpha=1.0, rate=0.1, name="RAHF-Dual"),
}
"""The methods that have a name; any other `Method` is given as it is. Strengths and rates of the last three were
chosen on the demo's training topics; RAHF-SCIT as published is `RAHF("scit")`."""


def resolve_methods(methods: str | Method | Sequence[str | Method]) -> list[Method]:
    """Methods by name or as they are; `"all"` is every one that has a name.

    Raises:
        InputError: A name is not known, something has no name or no call, or two rows would have one name.

    Example:
        >>> [one.name for one in resolve_methods(["dpo", RAHF("none", alpha=2.0, name="LORRA, alpha 2")])]
        ['DPO', 'LORRA, alpha 2']
    """
    if isinstance(methods, str) and methods == "all":
        return [make() for make in METHODS.values()]
    given = [methods] if isinstance(methods, str) or not isinstance(methods, Sequence) else list(methods)
    found: list[Method] = []
    for one in given:
        if isinstance(one, str) and one not in METHODS:
            raise InputError(f"the method {one!r} is not known; choose 'all', some of {', '.join(map(repr, METHODS))}, "
                             "or give an object with a name and a call")  # fmt: skip
        made = METHODS[one]() if isinstance(one, str) else one
        if isinstance(made, type) or not isinstance(made, Method) or not made.name:
            raise InputError(f"{made!r:.80} is no method; give an object with a name that takes a task")
        found.append(made)
    names = [one.name for one in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not found:
        raise InputError(f"{'two methods are called ' + repr(twice[0]) if twice else 'no methods'}; give at least one, "
                         "and each a name of its own")  # fmt: skip
    return found


def _told(task: Task) -> Prepare:
    tokenizer, pair = task.model.tokenizer, task.instructions
    return lambda prompts: pair.before(prompts, "good", tokenizer=tokenizer)


def _hook(task: Task, positions: Literal["generation", "all"]) -> Hook:
    vector = task.shared("vector", lambda: preference_vector(task.model, task.teach))
    return task.shared(f"hook {positions}", lambda: choose_hook(task.model, vector, task.distil, positions=positions))


def _where(found: Hook) -> str:
    return f"layer {found.layer}, coef {found.coef:g}"


def _reward(task: Task) -> RewardModel:
    """The reward model that may be optimized: on the first part, so it is not the judge."""
    return task.shared(
        "reward", lambda: train_reward_model(task.model, task.teach, lora=task.budget.lora, fit=task.fit())
    )


def _taught(task: Task, mode: Literal["scit", "dual"], *, rate: float) -> Any:
    from steerkit.training.teaching.course import teach

    told = None if mode == "dual" else task.instructions
    return task.shared(
        f"taught {mode} {rate:g}",
        lambda: teach(task.model, task.teach, mode=mode, instructions=told, held_out=None, lora=task.budget.lora,
                      fit=task.fit(rate=rate), progress=False),
    )  # fmt: skip
