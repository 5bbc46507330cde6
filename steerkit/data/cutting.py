"""Prompts made shorter from the left, so that the question's end and the assistant's tag stay."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from steerkit.data.chat import Prompt
from steerkit.data.turns import last_match, turns_of

UNSPACED = 16
"""So many characters stay of a question whose last word must be cut."""


def cut_left(prompt: Prompt, fits: Callable[[Prompt], bool]) -> Prompt | None:
    r"""The prompt without as much of its beginning as must go, or `None` where cutting does not help.

    The oldest turns go first, then words of the last question. What stays: a system message, the mark of the user's
    turn, the last word of the question (the last characters of one written without spaces), and all that follows it,
    the assistant's tag included.

    Args:
        prompt: What is too long.
        fits: Whether a prompt is short enough; a shorter one must fit where a longer one does.

    Example:
        >>> cut_left(Prompt("Human: Hi\n\nAssistant: Yes?\n\nHuman: Is the sea dry?\n\nAssistant:"),
        ...          lambda cut: len(cut.content) < 40).content
        '\n\nHuman: Is the sea dry?\n\nAssistant:'
    """
    turns, question, rebuild = _split_chat(prompt) if prompt.is_chat else _split_text(prompt)
    for shorter in turns:
        if fits(shorter):
            return shorter
    return _fewest_cut(question, rebuild, fits)


Parts = tuple[list[Prompt], str, Callable[[str], Prompt]]
"""Prompts with fewer and fewer turns, the last question, and the prompt that has only (the end of) this question."""


def _split_chat(prompt: Prompt) -> Parts:
    messages = [] if isinstance(prompt.content, str) else list(prompt.content)
    spoken = next((i for i, m in enumerate(messages) if m["role"] != "system"), len(messages))
    system, said = messages[:spoken], messages[spoken:]
    asked = [i for i, message in enumerate(said) if message["role"] == "user"]
    if not asked:
        return [], "", lambda _: prompt
    turns = [replace(prompt, content=(*system, *said[i:])) for i in asked]
    last, after = said[asked[-1]], said[asked[-1] + 1 :]

    def rebuild(question: str) -> Prompt:
        return replace(prompt, content=(*system, {**last, "content": question}, *after))

    return turns, last["content"], rebuild


def _split_text(prompt: Prompt) -> Parts:
    text = str(prompt.content)
    family = turns_of(text)
    asked = last_match(family.user, text) if family else None
    answers = last_match(family.assistant, text) if family else None
    begins = asked.end() if asked else 0
    ends = answers.start() if answers and answers.start() >= begins else len(text)
    turns = [replace(prompt, content=text[mark.start() :]) for mark in family.user.finditer(text)] if family else []
    mark = text[asked.start() : begins] if asked else ""
    space = re.match(r"\s*", text[begins:ends])
    before = mark + (space.group() if space and mark else "")
    return turns, text[begins:ends], lambda question: replace(prompt, content=before + question + text[ends:])


def _fewest_cut(question: str, rebuild: Callable[[str], Prompt], fits: Callable[[Prompt], bool]) -> Prompt | None:
    """Cut before a word; where the last word is too long, inside it."""
    starts = [found.start() for found in re.finditer(r"\S+", question)]
    if starts and not fits(rebuild(question[starts[-1] :])):
        starts = list(range(starts[-1], len(question.rstrip()) - UNSPACED + 1))
    if not starts or not fits(rebuild(question[starts[-1] :])):
        return None
    low, high = 0, len(starts) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(rebuild(question[starts[middle] :])) else (middle + 1, high)
    return rebuild(question[starts[low] :])
