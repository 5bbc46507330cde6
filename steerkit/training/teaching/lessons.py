"""Preferences as a model reads them: both answers under both instructions, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from steerkit.backends.base import Model
from steerkit.data.chat import Prompt
from steerkit.errors import DataError
from steerkit.training.teaching.answers import Answered, end_token, read_answered
from steerkit.training.teaching.instructions import Instructions


@dataclass(frozen=True)
class Lesson:
    """One preference in tokens. Without instructions the good and the bad rows are the same.

    Args:
        id: What the preference is called.
        chosen_good: The chosen answer after the prompt with the good instruction.
        chosen_bad: The chosen answer after the prompt with the bad one.
        rejected_good: The rejected answer after the prompt with the good instruction.
        rejected_bad: The rejected answer after the prompt with the bad one.
    """

    id: str
    chosen_good: Answered
    chosen_bad: Answered
    rejected_good: Answered
    rejected_bad: Answered

    @property
    def rows(self) -> tuple[Answered, Answered, Answered, Answered]:
        """All four."""
        return self.chosen_good, self.chosen_bad, self.rejected_good, self.rejected_bad

    @property
    def lengths(self) -> tuple[int, int]:
        """Tokens of the chosen and of the rejected answer, with the one that ends it."""
        return len(self.chosen_good.response), len(self.rejected_good.response)


def read_lessons(
    preferences: Sequence[Any], instructions: Instructions | None, model: Model, *, template: str | None = None
) -> list[Lesson]:
    """Every preference in tokens.

    Args:
        preferences: With `prompt`, `chosen`, `rejected` and `id`.
        instructions: What is put before the prompts; without them the prompts stay as they are.
        model: Says the tokenizer and the context.
        template: A prompt template by name; left out, the preferences' own, or else the tokenizer's.

    Raises:
        DataError: There is none; an answer is empty, holds a token of the template, is the same as the other one, has
            other tokens under another instruction, or is too long for the context; or nothing marks an answer's end.
    """
    if not len(preferences):
        raise DataError("no preferences given; give at least one")
    named = template if template is not None else getattr(preferences, "template", None)
    prompts = [one.prompt for one in preferences]
    good, bad = list(prompts), list(prompts)
    if instructions is not None:
        good = instructions.before(prompts, "good", tokenizer=model.tokenizer, template=named)
        bad = instructions.before(prompts, "bad", tokenizer=model.tokenizer, template=named)
    return list(_read_each(preferences, zip(good, bad, strict=True), model, named))


def _read_each(preferences: Sequence[Any], contexts: Any, model: Model, template: str | None) -> Iterator[Lesson]:
    ends: dict[bool, int] = {}
    for index, (one, (good, bad)) in enumerate(zip(preferences, contexts, strict=True)):
        name = one.id or str(index)
        chat = one.prompt.is_chat
        if chat not in ends:
            ends[chat] = end_token(model.tokenizer, chat=chat, template=template)
        try:
            rows = [_read(where, said, model, ends[chat], template) for said in (one.chosen, one.rejected)
                    for where in (good, bad)]  # fmt: skip
        except DataError as error:
            raise DataError(f"preference {name!r}: {error}") from error
        lesson = Lesson(name, *rows)
        _check(lesson, model)
        yield lesson


def _read(prompt: Prompt, answer: str, model: Model, end: int, template: str | None) -> Answered:
    return read_answered(prompt, answer, model.tokenizer, end=end, template=template)


def _check(lesson: Lesson, model: Model) -> None:
    """Refuse what would be scored wrongly.

    Raises:
        DataError: See `read_lessons`.
    """
    for word, good, bad in (
        ("chosen", lesson.chosen_good, lesson.chosen_bad),
        ("rejected", lesson.rejected_good, lesson.rejected_bad),
    ):
        if good.response != bad.response:
            raise DataError(f"preference {lesson.id!r}: the {word} answer has other tokens under the other "
                            "instruction, because the tokenizer joins it with what stands before; end the prompt with "
                            "a line break or use messages")  # fmt: skip
    if lesson.chosen_good.response == lesson.rejected_good.response:
        raise DataError(f"preference {lesson.id!r}: the chosen and the rejected answer are the same tokens; leave it "
                        "out")  # fmt: skip
    longest, context = max(map(len, lesson.rows)), model.info.context
    if context is not None and longest > context:
        raise DataError(f"preference {lesson.id!r} has {longest} tokens with its instruction, prompt, answer and end; "
                        f"the model's context is {context}. Leave long ones out, or cut their prompts, with "
                        f"preferences.fits(tokenizer, {context}, on_long='skip' or 'cut', reserve=...), where reserve "
                        "holds the instruction and the end")  # fmt: skip
