"""Prompts and answers as tokens, with the places that matter: the template's end, where answers begin to differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from steerkit.data.chat import Prompt, render
from steerkit.errors import DataError


@dataclass(frozen=True)
class Encoded:
    """A prompt with (the beginning of) an answer, as tokens.

    Args:
        ids: The tokens that are fed.
        prompt_length: How many of them belong to the prompt's template; its last one predicts the first answer token.
        text: What was tokenized.
        starts: For each token the character of `text` where it begins (-1 for tokens that stand for no text).
    """

    ids: tuple[int, ...]
    prompt_length: int
    text: str
    starts: tuple[int, ...] = ()

    def token_at(self, character: int) -> int:
        """Index of the token that holds a character of the text.

        Raises:
            DataError: No token holds it.
        """
        held = [i for i, start in enumerate(self.starts) if 0 <= start <= character]
        if not held or character >= len(self.text):
            raise DataError(f"no token holds character {character} of {self.text!r}")
        return held[-1]


def encode(prompt: Prompt, tokenizer: Any, *, answer: str = "", template: str | None = None) -> Encoded:
    """A prompt and the beginning of its answer as tokens.

    The template's end is found by character offsets, not by token arithmetic: the last token that begins inside the
    template belongs to it.

    Args:
        prompt: What is asked.
        tokenizer: A transformers tokenizer; slow ones have no offsets, and the template is tokenized apart for them.
        answer: What follows the prompt's own prefill.
        template: A template by name instead of the tokenizer's own.

    Raises:
        DataError: The text holds no token, or the template cannot be written.
    """
    rendered = render(prompt, tokenizer, answer=answer, template=template)
    fast = bool(getattr(tokenizer, "is_fast", False))
    out = tokenizer(rendered.text, add_special_tokens=rendered.special_tokens, return_offsets_mapping=fast)
    ids = [int(token) for token in out["input_ids"]]
    eos = getattr(tokenizer, "eos_token_id", None)
    if rendered.special_tokens and len(ids) > 1 and ids[-1] == eos and not rendered.text.endswith(tokenizer.eos_token):
        ids = ids[:-1]
    if not ids:
        raise DataError(f"the prompt {rendered.text!r} holds no token; give some text")
    if not fast:
        return Encoded(tuple(ids), _shared_tokens(ids, rendered, tokenizer), rendered.text)
    spans = out["offset_mapping"][: len(ids)]
    starts = tuple(int(a) if b > a or a > 0 else -1 for a, b in spans)
    length = sum(1 for start in starts if start < rendered.template_end)
    return Encoded(tuple(ids), max(length, 1), rendered.text, starts)


def _shared_tokens(ids: Sequence[int], rendered: Any, tokenizer: Any) -> int:
    head = tokenizer(rendered.text[: rendered.template_end], add_special_tokens=rendered.special_tokens)["input_ids"]
    return max(shared_prefix(list(ids), [int(token) for token in head]), 1)


def shared_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences share from the start.

    Example:
        >>> shared_prefix([1, 2, 3], [1, 2, 4])
        2
    """
    same = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        same += 1
    return same
