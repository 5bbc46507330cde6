"""A question and two answers: CAA's files (its TruthfulQA and MMLU too) and Anthropic's model-written evaluations."""

from __future__ import annotations

import re

from steerkit.data.chat import Prompt
from steerkit.data.pairs import ContrastPair, Side, letter_index
from steerkit.data.rows import Row

KEYS = (
    ("question", "answer_matching_behavior", "answer_not_matching_behavior"),
    ("question", "matching", "not_matching"),
    ("prompt", "correct", "incorrect"),
)
"""Names of the question, the answer that shows the behavior, and the one that does not."""


def read_question(row: Row) -> ContrastPair:
    """A pair from a question with two answers: the question is the user's message on both sides.

    Answers lose the spaces around them: `" (A)"` and `"(A)"` are the same, and Yes/No answers stay words. A letter must
    be one of the question's choices.

    Raises:
        ItemError: A field is missing or not a string, there are several answers, or the letter is not a choice.

    Source: Rimsky et al. 2024 (`generate_dataset.json`, `test_dataset_ab.json`); Perez et al. 2022 (model-written
    evaluations); keys `matching`, `not_matching`: EasyEdit.
    """
    keys = next((keys for keys in KEYS if set(keys) <= set(row.fields)), KEYS[0])
    question = row.text(keys[0]).strip()
    answers = [_answer(row, field, question) for field in keys[1:]]
    prompt = Prompt([{"role": "user", "content": question}])
    return ContrastPair(Side(prompt, answers[0]), Side(prompt, answers[1]), id=str(row.index))


def _answer(row: Row, field: str, question: str) -> str:
    found = row.value(field)
    if isinstance(found, list):
        if len(found) != 1 or not isinstance(found[0], str) or not found[0].strip():
            raise row.bad(f"field {field!r} lists {len(found)} answers; a pair needs one: write one item for each",
                          "several answers")  # fmt: skip
        answer = found[0].strip()
    else:
        answer = row.text(field).strip()
    index = letter_index(answer)
    if index is not None and not re.search(rf"(?<![A-Za-z0-9])\(?{answer[index]}[).:]", question):
        raise row.bad(f"field {field!r} is {answer!r}, but the question has no choice ({answer[index]}); it ends "
                      f"{question[-60:]!r}", "answer not among the choices")  # fmt: skip
    return answer
