"""Preferences as tokens: what a foreign trainer is fed, exactly as steerkit feeds it."""

from __future__ import annotations

from collections.abc import Sequence

from steerkit.adapters.provenance import check_base
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.data.chat import Prompt
from steerkit.data.encoding import encode
from steerkit.errors import DataError
from steerkit.training.teaching.answers import end_token, read_answered

Row = tuple[list[int], list[int]]
"""The tokens before an answer, and those of the answer with its end."""


def answer_rows(model: HuggingFaceModel, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[Row]:
    """Prompts and whole answers as tokens, to be learned from.

    Raises:
        DataError: There is none; or an answer is empty, holds a token of the template, or is longer than the model's
            context with its prompt.
    """
    check_base({}, model, override=True)
    if not prompts:
        raise DataError("no preferences to learn from; give at least one")
    rows: list[Row] = []
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        end = end_token(model.tokenizer, chat=prompt.is_chat)
        read = read_answered(prompt, answer, model.tokenizer, end=end)
        _check_length(model, len(read), number)
        rows.append((list(read.ids[: read.start]), list(read.response)))
    return rows


def scored_rows(model: HuggingFaceModel, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[Row]:
    """Prompts and answers as tokens, to be scored: whatever a model said, also nothing.

    The token that ends an answer is the last one, but where padding is the same token: transformers' classifiers read
    the last token that is not padding.

    Raises:
        DataError: Not one answer a prompt, or one is longer than the model's context with its prompt.
    """
    check_base({}, model, override=True)
    if not prompts or len(prompts) != len(answers):
        raise DataError(f"{len(prompts)} prompts and {len(answers)} answers; give one answer for each prompt")
    rows: list[Row] = []
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        encoded = encode(prompt, model.tokenizer, answer=answer)
        before, after = list(encoded.ids[: encoded.prompt_length]), list(encoded.ids[encoded.prompt_length :])
        end = end_token(model.tokenizer, chat=prompt.is_chat)
        if end != model.pad_id and (not after or after[-1] != end):
            after.append(end)
        _check_length(model, len(before) + len(after), number)
        rows.append((before, after))
    return rows


def prompt_rows(model: HuggingFaceModel, prompts: Sequence[Prompt], *, room: int) -> list[list[int]]:
    """Prompts as tokens, each with room for an answer.

    Raises:
        DataError: There is none, or one leaves no room for `room` tokens in the model's context.
    """
    check_base({}, model, override=True)
    if not prompts:
        raise DataError("no prompts to answer; give at least one")
    rows = [list(encode(prompt, model.tokenizer).ids) for prompt in prompts]
    for number, row in enumerate(rows):
        _check_length(model, len(row) + room, number)
    return rows


def _check_length(model: HuggingFaceModel, tokens: int, number: int) -> None:
    context = model.info.context
    if context is not None and tokens > context:
        raise DataError(f"prompt {number} and its answer have {tokens} tokens, the model's context is {context}; "
                        'leave long ones out with preferences.fits(tokenizer, context, on_long="skip")')  # fmt: skip
