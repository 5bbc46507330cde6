"""How long, how fast and on how much at a time: the settings of a training."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from steerkit.errors import InputError

Schedule = Literal["constant", "linear", "cosine"]
"""How the learning rate goes on after the warm-up: stays, or falls to 0 at the last step, straight or as a cosine."""

WHOLE = {"steps": 1, "batch": 1, "accumulate": 1, "seed": 0, "checkpoint_every": 1}
"""Whole numbers with the least that is valid."""

TINY = 5e-324
RANGES = {"lr": (TINY, math.inf), "warmup": (0.0, 1.0), "weight_decay": (0.0, math.inf), "clip": (TINY, math.inf)}
RANGE_WORDS = {"lr": "above 0", "warmup": "from 0 to below 1", "weight_decay": "of at least 0", "clip": "above 0"}


@dataclass(frozen=True)
class Fit:
    """The settings of a training by AdamW.

    Args:
        steps: Steps of the optimizer.
        lr: Highest learning rate.
        batch: Sequences a step, over all pieces and processes together.
        accumulate: In how many pieces each process takes its part of the batch; it saves memory and changes nothing
            else (with dropout, other numbers are drawn).
        schedule: How the learning rate goes on after the warm-up.
        warmup: Share of the steps in which the learning rate rises from 0, from 0 to below 1.
        weight_decay: AdamW's.
        clip: Longest gradient, over all parameters together; `None` for any length.
        recompute: Keep no activations within the blocks and compute them again in the backward pass (gradient
            checkpointing): less memory, a third more time, the same numbers.
        seed: Of the order of the sequences, of dropout, and of new weights.
        checkpoint_every: Steps between two checkpoints; `None` for one at the end alone.

    Raises:
        InputError: A number is out of range.

    Example:
        >>> fit = Fit(steps=4, lr=1.0, schedule="linear", warmup=0.5)
        >>> [fit.lr_at(step) for step in range(4)]
        [0.5, 1.0, 1.0, 0.5]
    """

    steps: int = 300
    lr: float = 3e-4
    batch: int = 16
    accumulate: int = 1
    schedule: Schedule = "constant"
    warmup: float = 0.0
    weight_decay: float = 0.0
    clip: float | None = 1.0
    recompute: bool = False
    seed: int = 0
    checkpoint_every: int | None = None

    def __post_init__(self) -> None:
        for name, least in WHOLE.items():
            whole = getattr(self, name)
            given = not (whole is None and name == "checkpoint_every")
            if given and (isinstance(whole, bool) or not isinstance(whole, int) or whole < least):
                raise InputError(f"{name}={whole!r} is not valid; give a whole number of at least {least}")
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            given = not (value is None and name == "clip")
            if given and (isinstance(value, bool) or not isinstance(value, int | float) or not low <= value < high):
                raise InputError(f"{name}={value!r} is not valid; give a number {RANGE_WORDS[name]}")
        if self.schedule not in get_args(Schedule):
            known = ", ".join(map(repr, get_args(Schedule)))
            raise InputError(f"schedule={self.schedule!r} is not known; choose one of {known}")
        if not isinstance(self.recompute, bool):
            raise InputError(f"recompute={self.recompute!r} is not valid; give True or False")

    def lr_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        rising = math.ceil(self.warmup * self.steps)
        if step < rising:
            return self.lr * (step + 1) / rising
        if self.schedule == "constant":
            return self.lr
        gone = (step - rising) / (self.steps - rising)
        return self.lr * (1 - gone if self.schedule == "linear" else (1 + math.cos(math.pi * gone)) / 2)

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain values."""
        return asdict(self)

    @property
    def decisive(self) -> dict[str, Any]:
        """Those that the trained weights depend on, bit for bit."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "checkpoint_every"}
