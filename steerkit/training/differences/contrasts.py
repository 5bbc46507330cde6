"""What is held against what: the two ways of reading a model whose difference is the lesson, and the base it is for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

import torch

from steerkit.adapters import Adapter, FullWeights
from steerkit.errors import DataError, InputError, MismatchError
from steerkit.training.teaching.instructions import Instructions, Tone

Start = Literal["taught", "base"]
"""What the student begins from: the model as it was taught, or the plain model."""


@dataclass(frozen=True)
class Reading:
    """One way to read a model.

    Args:
        weights: What acts on the model, by name; nothing for the plain model.
        tone: Which instruction comes before the question, or `None` for the question alone.
    """

    weights: tuple[str, ...] = ()
    tone: Tone | None = None


@dataclass(frozen=True, eq=False)
class Contrast:
    r"""Two readings of the same response, $A_{p^+}$ and $A_{p^-}$, and a third: the base that is to be changed.

    Args:
        mode: `"none"` (one untaught model under two instructions, as LORRA), `"scit"` (one taught model under two
            instructions), or `"dual"` (a good and a bad model, no instruction).
        positive: How the better self is read.
        negative: How the worse self is read.
        base: How the student's beginning is read; its weights stay on under the student.
        instructions: The pair of instructions, where a reading has one.
        weights: What acts in the readings, by name.

    Raises:
        InputError: A reading names weights that are not given.
        DataError: A reading has an instruction, and none are given.
    """

    mode: str
    positive: Reading
    negative: Reading
    base: Reading = field(default_factory=Reading)
    instructions: Instructions | None = None
    weights: Mapping[str, Adapter | FullWeights] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for one in (self.positive, self.negative, self.base):
            unknown = [name for name in one.weights if name not in self.weights]
            if unknown:
                raise InputError(f"{unknown[0]!r} acts in a reading and is not given; there are {list(self.weights)}")
            if one.tone is not None and self.instructions is None:
                raise DataError(f"a reading follows the {one.tone} instruction, and no instructions are given")

    @property
    def swapped(self) -> Contrast:
        """The same the other way round: its differences have the other sign."""
        return replace(self, positive=self.negative, negative=self.positive)

    def describe(self) -> dict[str, Any]:
        """All that the differences depend on, as plain values; weights by a hash of their content."""
        told = self.instructions
        return {
            "mode": self.mode,
            **{name: _plain(getattr(self, name)) for name in ("positive", "negative", "base")},
            "instructions": None if told is None else [told.good, told.bad],
            "weights": {name: hash_weights(one) for name, one in self.weights.items()},
        }


def find_contrast(taught: Any = None, *, instructions: Instructions | None = None, start: Start = "taught") -> Contrast:
    """The contrast that a way of teaching gives.

    Args:
        taught: What `teach` gave; without it the untaught model is read under two instructions, which is LORRA.
        instructions: The pair of instructions; without it that of `taught`, or the default one.
        start: `"taught"` distils on top of the taught weights, as the code of RAHF does (the taught model for SCIT, the
            good one for DUAL); `"base"` on top of the plain model.

    Raises:
        InputError: An option is not known.
        MismatchError: The instructions are not those of the teaching.
        DataError: The good and the bad weights are the same.

    Source: Liu et al. 2024 (RAHF), section 3, and `step2/RAHF.py`. We differ: DUAL reads prompts without an
    instruction, as the two models were trained on them and as the student is used.

    Example:
        >>> find_contrast().positive
        Reading(weights=(), tone='good')
    """
    check_start(start)
    mode = "none" if taught is None else taught.mode
    if mode == "dual":
        if instructions is not None:
            raise InputError("mode 'dual' reads two models, not two instructions; leave instructions out")
        good, bad = (taught.weights[name] for name in ("good", "bad"))
        if hash_weights(good) == hash_weights(bad):
            raise DataError("the good and the bad weights are the same, so every difference would be 0; teach them on "
                            "chosen and on rejected answers")  # fmt: skip
        base = Reading(("good",) if start == "taught" else ())
        return Contrast("dual", Reading(("good",)), Reading(("bad",)), base, weights={"good": good, "bad": bad})
    before = None if taught is None else taught.instructions
    if mode == "scit" and instructions is not None and instructions != before:
        raise MismatchError("the instructions are not those that the model was taught with; leave them out")
    acting = {} if mode == "none" else {"taught": taught.weights["taught"]}
    names = tuple(acting)
    base = Reading(names if start == "taught" else ())
    told = instructions or before or Instructions()
    return Contrast(mode, Reading(names, "good"), Reading(names, "bad"), base, told, acting)


def check_start(start: str) -> None:
    """Refuse a beginning that there is not.

    Raises:
        InputError: It is neither `"taught"` nor `"base"`.
    """
    if start not in get_args(Start):
        raise InputError(f"start={start!r} is not known; choose 'taught' or 'base'")


def hash_weights(weights: Adapter | FullWeights) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of every value, and of an adapter's scale."""
    digest = hashlib.sha256()
    if isinstance(weights, Adapter):
        digest.update(f"{weights.config.r} {weights.config.lora_alpha} {weights.config.alpha_pattern}".encode())
    tensors = weights.weights if isinstance(weights, Adapter) else weights.tensors
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _plain(reading: Reading) -> dict[str, Any]:
    return {**asdict(reading), "weights": list(reading.weights)}
