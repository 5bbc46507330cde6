"""Preferences as a model's tokens: how many, whether they are usable, and whether they fit its context."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from steerkit.data.chat import Prompt
from steerkit.data.cutting import cut_left
from steerkit.data.encoding import Encoded, encode
from steerkit.data.preference_items import Preference
from steerkit.errors import DataError


def count_tokens(one: Preference, tokenizer: Any, template: str | None) -> tuple[int, int, int]:
    """Tokens of the prompt with its template, of the chosen answer and of the rejected one.

    Raises:
        DataError: The prompt cannot be written with the template.
    """
    chosen, rejected = _encoded(one, tokenizer, template)
    return chosen.prompt_length, len(chosen.ids) - chosen.prompt_length, len(rejected.ids) - rejected.prompt_length


def fitted(
    one: Preference, tokenizer: Any, template: str | None, *, room: int, cut: bool, controls: Collection[str] = ()
) -> tuple[Preference | None, int]:
    """The preference if it has room, else with a shorter prompt if `cut`, else `None`; and how many tokens it had.

    Args:
        one: The preference.
        tokenizer: The model's tokenizer.
        template: A template by name instead of the tokenizer's own.
        room: Most tokens that the prompt may have with the longer answer.
        cut: Shorten the prompt from the left.
        controls: Texts that no answer may hold.

    Raises:
        DataError: The prompt cannot be written with the template; or an answer has no token of its own, holds a control
            token, or has the same tokens as the other.
    """
    both = _encoded(one, tokenizer, template)
    given = max(len(encoded.ids) for encoded in both)
    _check_answers(one, both, controls, end=getattr(tokenizer, "eos_token", None) or "")
    if given <= room:
        return one, given

    def fits(prompt: Prompt) -> bool:
        return max(len(each.ids) for each in _encoded(replace(one, prompt=prompt), tokenizer, template)) <= room

    shorter = cut_left(one.prompt, fits) if cut else None
    return (replace(one, prompt=shorter) if shorter else None), given


def _check_answers(one: Preference, both: Sequence[Encoded], controls: Collection[str], *, end: str) -> None:
    for name, answer, encoded in zip(("chosen", "rejected"), (one.chosen, one.rejected), both, strict=True):
        said = answer if one.prompt.is_chat else answer.rstrip().removesuffix(end)
        held = [control for control in controls if control in said]
        if held:
            raise DataError(f"preference {one.id!r}: the {name} answer holds {held[0]!r}, a control token of the "
                            "tokenizer; an answer is plain text")  # fmt: skip
        if len(encoded.ids) == encoded.prompt_length:
            raise DataError(f"preference {one.id!r}: the {name} answer {answer!r:.60} has no token of its own; it is "
                            "empty or melts into the prompt's last token")  # fmt: skip
    if both[0].ids == both[1].ids:
        raise DataError(f"preference {one.id!r}: both answers are the same tokens ({one.chosen!r:.60})")


def control_tokens(tokenizer: Any) -> list[str]:
    """A tokenizer's control tokens as text; those it only adds for words of its own are none."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return [token.content for token in added.values() if token.special and token.content.strip()]


def _encoded(one: Preference, tokenizer: Any, template: str | None) -> tuple[Encoded, Encoded]:
    chosen, rejected = (
        encode(one.prompt, tokenizer, answer=answer, template=template) for answer in (one.chosen, one.rejected)
    )
    return chosen, rejected
