"""Marks of turns in plain text: where the user speaks, and where the assistant answers."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Turns:
    """How a family of prompts marks its turns.

    Args:
        user: What stands before the user's words.
        assistant: What stands before the assistant's.
        shown: The assistant's mark, as an error shows it.
    """

    user: re.Pattern[str]
    assistant: re.Pattern[str]
    shown: str


def _by_name(user: str, assistant: str) -> Turns:
    """Marks at the beginning of a line."""
    user_mark, assistant_mark = (re.compile(rf"(?:^|\n)\s*{re.escape(mark)}") for mark in (user, assistant))
    return Turns(user_mark, assistant_mark, shown=assistant)


def _anywhere(user: str, assistant: str) -> Turns:
    return Turns(re.compile(re.escape(user)), re.compile(re.escape(assistant)), shown=assistant)


TURNS: tuple[Turns, ...] = (
    _by_name("Human:", "Assistant:"),
    _by_name("### Human:", "### Assistant:"),
    _by_name("### Instruction:", "### Response:"),
    _anywhere("[INST]", "[/INST]"),
    _anywhere("<|user|>", "<|assistant|>"),
    _anywhere("<|im_start|>user", "<|im_start|>assistant"),
    _anywhere("<|start_header_id|>user", "<|start_header_id|>assistant"),
    _anywhere("<start_of_turn>user", "<start_of_turn>model"),
)
"""Families of marks; a new one is one row. `Human:`/`Assistant:` is Anthropic's HH-RLHF."""


def turns_of(text: str) -> Turns | None:
    r"""The family whose user's mark stands in a text first, or the assistant's where no user speaks; else `None`.

    Example:
        >>> turns_of("\n\nHuman: Is the sea dry?\n\nAssistant:").shown
        'Assistant:'
        >>> turns_of("Is the sea dry?") is None
        True
    """
    found = [
        (match.start(), turns) for turns in TURNS if (match := turns.user.search(text) or turns.assistant.search(text))
    ]
    return min(found, key=lambda one: one[0])[1] if found else None


def last_match(mark: re.Pattern[str], text: str) -> re.Match[str] | None:
    """Where a mark stands last.

    Example:
        >>> last_match(re.compile("a"), "banana").start()
        5
    """
    found = None
    for found in mark.finditer(text):  # noqa: B007
        pass
    return found


def loses_assistant(text: str) -> Turns | None:
    r"""The family of a text in which the user speaks last, so that no assistant's mark asks for the answer.

    Example:
        >>> loses_assistant("\n\nHuman: Is the sea dry?").shown
        'Assistant:'
    """
    turns = turns_of(text)
    asked = last_match(turns.user, text) if turns else None
    if turns is None or asked is None or turns.assistant.search(text, asked.end()):
        return None
    return turns


def shared_prompt(one: str, other: str) -> str:
    r"""What two whole texts share before their answers: up to the last assistant's mark, else whole words.

    Without marks the answers must begin with different words: what they share counts as the prompt's.

    Example:
        >>> shared_prompt("The sea is wet.", "The sea is dry.")
        'The sea is'
        >>> shared_prompt("Human: Hi\n\nAssistant: Hello", "Human: Hi\n\nAssistant: Help")
        'Human: Hi\n\nAssistant:'

    Source: TRL's `extract_prompt`. We differ: it cuts inside words and knows no marks, so that answers which begin
    alike lose their beginning.
    """
    same = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    shared = one[:same]
    turns = turns_of(shared)
    mark = last_match(turns.assistant, shared) if turns else None
    if mark:
        return shared[: mark.end()]
    words = last_match(re.compile(r"\s+"), shared)
    return shared[: words.start()] if words else ""
