"""Which of two answers is the better one: judges, and how their verdicts are kept free of the order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.data.chat import PromptLike, as_prompt
from steerkit.data.pairs import prompt_text
from steerkit.errors import DataError
from steerkit.evaluation.generations import Score


@runtime_checkable
class Judge(Protocol):
    """Anything that compares answers: a rule, a reward model, a language model that is asked."""

    @property
    def name(self) -> str:
        """What win rates by it are called; say whose judgment it is."""
        ...

    def __call__(self, prompts: Sequence[PromptLike], a: Sequence[str], b: Sequence[str]) -> Float[Tensor, " item"]:
        """How probable it is that each first answer is the better one, in [0, 1]; 0.5 is a tie."""
        ...


@dataclass(frozen=True)
class RuleJudge:
    """The answer with the higher score wins; equal scores are a tie.

    An answer that cannot be scored loses against one that can; two of them are a tie.

    Args:
        score: From a prompt's text and an answer to a number, or to `None` where it cannot be scored.
        name: What win rates by it are called.

    Example:
        >>> RuleJudge(lambda prompt, answer: len(answer))(["Hello", "Hello"], ["Hi", "Hey"], ["Hi", "Yo"]).tolist()
        [0.5, 1.0]
    """

    score: Score
    name: str = "rule"

    def __call__(self, prompts: Sequence[PromptLike], a: Sequence[str], b: Sequence[str]) -> Float[Tensor, " item"]:
        """1, 0.5 or 0 for each first answer."""
        texts = [prompt_text(as_prompt(one)) for one in prompts]
        marks = [
            tuple(self.score(text, answer) for answer in both)
            for text, both in zip(texts, zip(a, b, strict=True), strict=True)
        ]
        return torch.tensor([_better(first, second) for first, second in marks], dtype=torch.float64)


def _better(first: float | None, second: float | None) -> float:
    low, high = (float("-inf") if one is None else float(one) for one in (first, second))
    return 0.5 if low == high else float(low > high)


@dataclass(frozen=True, eq=False)
class Verdicts:
    """What a judge says of pairs of answers, asked in both orders.

    Args:
        preference: For each pair, how probable it is that the first answer is the better one: the mean of both orders.
        order_effect: Mean of what changing the order changes, $|p(a, b) + p(b, a) - 1|$; 0 for a fair judge.
    """

    preference: Float[Tensor, " item"]
    order_effect: float


def judge_pairs(judge: Judge, prompts: Sequence[PromptLike], a: Sequence[str], b: Sequence[str]) -> Verdicts:
    """Ask a judge about every pair in both orders.

    Args:
        judge: Compares two answers.
        prompts: What was asked.
        a: One answer to each prompt.
        b: Another answer to each.

    Raises:
        DataError: Not one answer a prompt, no prompts, or the judge gives something that is no probability.

    Source: both orders, as Zheng et al. 2023 (MT-Bench) ask GPT-4. We differ: a disagreement is not made a tie, the two
    probabilities are averaged.

    Example:
        >>> first = RuleJudge(lambda prompt, answer: None)
        >>> judge_pairs(first, ["Hello"], ["Hi"], ["Yo"]).preference.tolist()
        [0.5]
    """
    if not prompts or not len(prompts) == len(a) == len(b):
        raise DataError(f"{len(prompts)} prompts, {len(a)} and {len(b)} answers; give two answers to each prompt")
    there = _asked(judge, prompts, a, b)
    back = _asked(judge, prompts, b, a)
    return Verdicts((there + 1 - back) / 2, float((there + back - 1).abs().mean()))


def _asked(judge: Judge, prompts: Sequence[PromptLike], a: Sequence[str], b: Sequence[str]) -> Tensor:
    found = judge(prompts, a, b)
    if not isinstance(found, Tensor) or found.shape != (len(prompts),):
        shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise DataError(f"the judge {judge.name!r} gave {shape} for {len(prompts)} pairs; it must give one number each")
    found = found.detach().double().cpu()
    bad = (~((found >= 0) & (found <= 1))).nonzero().flatten().tolist()
    if bad:
        raise DataError(f"the judge {judge.name!r} gave {float(found[bad[0]])} for pair {bad[0]}; a preference is a "
                        "probability in [0, 1]")  # fmt: skip
    return found
