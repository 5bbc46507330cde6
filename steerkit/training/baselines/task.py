"""What a compared method is given, and what it gives back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, TypeVar, runtime_checkable

from steerkit.adapters import Adapter, Lora
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.data.chat import Prompt
from steerkit.data.preference_sets import Preferences
from steerkit.errors import InputError
from steerkit.training.fitting.fit import Fit
from steerkit.training.teaching.instructions import Instructions

Made = TypeVar("Made")
LR, WIDTH = 1e-3, 128
"""The learning rate of the embedded model and its width; for others it goes with the inverse of the root."""


@dataclass(frozen=True)
class Budget:
    r"""What every method may spend, so that a comparison is fair.

    Args:
        steps: Steps of the optimizer in each stage of a method.
        batch: Sequences a step; of reinforcement learning, sampled answers.
        lr: Learning rate, which rises in the first tenth and falls to 0; a method may take a multiple of it. Left out,
            $0.0113 / \sqrt{d}$ at hidden size $d$: 1e-3 for 128, 1.8e-4 for 4096.
        lora: The form of every adapter.
        max_new_tokens: The most tokens of an answer, in training and in the comparison.
        temperature: Of the compared answers; 0 takes the likeliest token.

    Raises:
        InputError: A number is out of range.
    """

    steps: int = 60
    batch: int = 16
    lr: float | None = None
    lora: Lora = field(default_factory=lambda: Lora(targets="all-linear"))
    max_new_tokens: int = 64
    temperature: float = 1.0

    def __post_init__(self) -> None:
        self.fit(WIDTH)
        for name, least in (("max_new_tokens", 1), ("temperature", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
                raise InputError(f"{name}={value!r} is not valid; give a number of at least {least}")

    def fit(self, hidden_size: int, *, seed: int = 0, rate: float = 1.0) -> Fit:
        """The same as settings of a training of a model of that width."""
        lr = LR * (WIDTH / hidden_size) ** 0.5 if self.lr is None else self.lr
        return Fit(steps=self.steps, batch=self.batch, lr=lr * rate, schedule="linear", warmup=0.1, seed=seed)


@runtime_checkable
class Speaker(Protocol):
    """What answers and can be scored: a model, a `Steer`, an `Adapted`, a `Distilled`."""

    def generate(self, prompts: Any, *, max_new_tokens: int = 64, **decoding: Any) -> list[str]:
        """See `steerkit.backends.base.Model.generate`."""
        ...

    def forward(self, prompts: Any, *, columns: Sequence[int] | None = None) -> Any:
        """See `steerkit.backends.base.Model.forward`."""
        ...


Prepare = Callable[[Sequence[Prompt]], list[Prompt]]
"""What a method does to prompts before they are asked, such as putting an instruction before them."""


@dataclass(frozen=True)
class Entry:
    """What a method enters the comparison with.

    Args:
        speaker: What answers.
        prepare: What must be done to prompts first; `None` leaves them as they are.
        parameters: Numbers that were trained.
        note: Anything worth a line, such as the layer that was chosen.
    """

    speaker: Speaker
    prepare: Prepare | None = None
    parameters: int = 0
    note: str = ""

    def prompts(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """The prompts as they are asked."""
        return list(prompts) if self.prepare is None else self.prepare(prompts)


@runtime_checkable
class Method(Protocol):
    """Any way of making a model give better answers: a name, and a call that does it.

    The call gives an `Entry`, an `Adapter`, or any `Speaker`.
    """

    @property
    def name(self) -> str:
        """What its row is called."""
        ...

    def __call__(self, task: Task) -> Any:
        """Do it, on the preferences of the task and no others."""
        ...


@dataclass(eq=False)
class Task:
    """What a method is given. Nothing in it was seen by the judges, and none of it is asked in the comparison.

    Args:
        model: The base; it must be itself afterwards.
        teach: Preferences of the first stage (teaching, reward model, vector).
        distil: Preferences of the second; their prompts are others.
        instructions: The good and the bad one.
        budget: What may be spent.
        seed: Of everything random.
    """

    model: HuggingFaceModel
    teach: Preferences
    distil: Preferences
    instructions: Instructions
    budget: Budget
    seed: int = 0
    borrowed: float = field(default=0.0, init=False)
    """Seconds that others spent on what the method at hand shares with them."""
    _shared: dict[str, tuple[Any, float]] = field(default_factory=dict, init=False)

    @cached_property
    def train(self) -> Preferences:
        """Both parts, for methods of one stage."""
        return replace(self.teach, items=(*self.teach, *self.distil), name=f"{self.teach.name}+distil")

    def fit(self, *, rate: float = 1.0) -> Fit:
        """The budget as settings of a training, with the seed of the task; `rate` multiplies the learning rate."""
        return self.budget.fit(self.model.info.hidden_size, seed=self.seed, rate=rate)

    def shared(self, name: str, make: Callable[[], Made]) -> Made:
        """What several methods need is made once; each is charged for it."""
        if name not in self._shared:
            started = time.perf_counter()
            made = make()
            self._shared[name] = made, time.perf_counter() - started
            return made
        found, seconds = self._shared[name]
        self.borrowed += seconds
        return found  # type: ignore[no-any-return]


def distinct_prompts(preferences: Preferences) -> list[Prompt]:
    """Every prompt once, in the order of their coming."""
    return list({repr(one.prompt): one.prompt for one in preferences}.values())


def as_entry(found: Any, model: HuggingFaceModel) -> Entry:
    """What a method gave, as an entry.

    Raises:
        InputError: It is nothing that answers.
    """
    if isinstance(found, Entry):
        return found
    if isinstance(found, Adapter):
        return Entry(found.on(model), parameters=found.size)
    if isinstance(found, Speaker):
        return Entry(found)
    raise InputError(f"the method gave a {type(found).__name__}; it must give an Entry, an Adapter, or something that "
                     "generates and has a forward pass, such as a Steer")  # fmt: skip
