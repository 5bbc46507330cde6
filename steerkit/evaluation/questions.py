"""Pairs as questions with two answers: what is fed, and which tokens tell the answers apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from steerkit.backends.base import ModelInfo
from steerkit.data.letters import encode_pair
from steerkit.data.pairs import ContrastPair
from steerkit.errors import DataError

Scoring = Literal["letter", "sequence"]


@dataclass(frozen=True)
class Question:
    """One pair as tokens.

    Args:
        id: The pair's name in results.
        letter: The positive answer's multiple-choice letter; empty without one.
        shared: The tokens that both answers begin with: the template, and perhaps the beginning of an answer such as
            `(`. Its last token predicts the first token that differs.
        prompt_length: How many of them belong to the template.
        positive: The rest of the positive answer, at least one token.
        negative: The rest of the negative answer, at least one token.
    """

    id: str
    letter: str
    shared: tuple[int, ...]
    prompt_length: int
    positive: tuple[int, ...]
    negative: tuple[int, ...]

    @property
    def is_letter(self) -> bool:
        """The answers differ in one token; what follows it (a bracket) is the same."""
        return self.positive[1:] == self.negative[1:]

    @property
    def prefix(self) -> tuple[int, ...]:
        """The tokens before the template's last one: no edit of `"generation"` touches them."""
        return self.shared[: self.prompt_length - 1]

    @property
    def tail(self) -> tuple[int, ...]:
        """The template's last token and what both answers begin with: these are steered."""
        return self.shared[self.prompt_length - 1 :]


def read_questions(
    pairs: Sequence[ContrastPair], tokenizer: Any, info: ModelInfo, *, template: str | None = None
) -> list[Question]:
    """Pairs as questions, checked before anything is computed.

    Args:
        pairs: Pairs with one prompt and two answers each.
        tokenizer: The model's tokenizer.
        info: The model; its context is the most tokens a question may have.
        template: A prompt template by name; `None` takes the pairs' own, or else the tokenizer's.

    Raises:
        DataError: No pairs, a pair without two answers to one prompt, one that is too long, or one whose answers melt
            into the last token of the prompt.
    """
    if len(pairs) == 0:
        raise DataError("no pairs given; give at least one pair with two answers")
    named = template or getattr(pairs, "prompt_template", None)
    return [_read(pair, index, tokenizer, info, named) for index, pair in enumerate(pairs)]


def _read(pair: ContrastPair, index: int, tokenizer: Any, info: ModelInfo, template: str | None) -> Question:
    name = pair.id or str(index)
    if pair.positive.prompt != pair.negative.prompt:
        raise DataError(f"pair {name!r} has two different prompts; scoring a choice needs one prompt and two answers")
    if not pair.positive.answer.strip() or not pair.negative.answer.strip():
        raise DataError(f"pair {name!r} lacks an answer ({pair.positive.answer!r} and {pair.negative.answer!r}); "
                        "scoring a choice needs two, such as '(A)' and '(B)'")  # fmt: skip
    both = encode_pair(pair, tokenizer, template=template)
    shared, length = both.shared, both.positive.prompt_length
    positive, negative = both.positive.ids[shared:], both.negative.ids[shared:]
    longest = shared + max(len(positive), len(negative))
    if info.context is not None and longest > info.context:
        raise DataError(f"pair {name!r} has {longest} tokens; the model's context is {info.context}. Shorten it or "
                        "leave it out")  # fmt: skip
    if shared < length or length != both.negative.prompt_length:
        raise DataError(f"pair {name!r}: the answers {pair.positive.answer!r} and {pair.negative.answer!r} melt "
                        "into the last token of the prompt; end the prompt without a space and begin the answers with "
                        "it")  # fmt: skip
    if not positive or not negative:
        raise DataError(f"pair {name!r}: one answer is the beginning of the other ({pair.positive.answer!r} and "
                        f"{pair.negative.answer!r}); they cannot be told apart by their tokens")  # fmt: skip
    return Question(name, pair.positive_letter or "", both.positive.ids[:shared], length, positive, negative)


def choose_scoring(questions: Sequence[Question]) -> Scoring:
    """`"letter"` where all answers differ in one token, else `"sequence"`."""
    return "letter" if all(question.is_letter for question in questions) else "sequence"
