"""Pairs by column names: positive and negative texts, answers, prompts or system messages."""

from __future__ import annotations

from steerkit.data.pairs import ContrastPair, Side
from steerkit.data.preference_rows import read_question, read_side
from steerkit.data.rows import Row

KEYS = (
    ("positive", "negative"),
    ("positive_prompt", "negative_prompt"),
    ("question", "positive_system", "negative_system"),
)


def read_columns(row: Row) -> ContrastPair:
    """A pair from its columns.

    - `positive`, `negative`: two whole texts, as they are.
    - `prompt`, `positive`, `negative`: two answers that follow the prompt as it is, without a space.
    - `question`, `positive`, `negative`: two answers to a user's message, with `system` before it if given.
    - `positive_prompt`, `negative_prompt`: two prompts as they are. After both comes `answer` if given; or each side
      has its own in `positive` and `negative`.
    - `question`, `positive_system`, `negative_system`: one question under two system messages, with answers in the
      same way.

    Where a prompt or a text can be a string it can also be a list of messages; a list that ends with the assistant's
    message is a conversation with its answer.

    Raises:
        ItemError: A field is missing, empty, or neither a string nor messages.

    Source: texts and answers as in repeng and steering-vectors; one answer under two instructions as in RepE (Zou et
    al. 2023) and RAHF (Liu et al. 2024).
    """
    names = set(row.fields)
    if {"positive_prompt", "negative_prompt"} & names:
        sides = [Side(row.prompt(f"{s}_prompt"), _answer(row, s)) for s in _SIDES]
    elif {"positive_system", "negative_system"} & names:
        sides = [Side(read_question(row, f"{s}_system"), _answer(row, s)) for s in _SIDES]
    elif "question" in names:
        sides = [Side(read_question(row, "system" if "system" in names else None), row.text(s)) for s in _SIDES]
    else:
        sides = [read_side(row, s, "prompt") for s in _SIDES]
    return ContrastPair(sides[0], sides[1], id=str(row.index))


_SIDES = ("positive", "negative")


def _answer(row: Row, side: str) -> str:
    """The side's own answer, or the one that both share, or none."""
    if "positive" in row.fields or "negative" in row.fields:
        return row.text(side)
    return row.text("answer") if "answer" in row.fields else ""
