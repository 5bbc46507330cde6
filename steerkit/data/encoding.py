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
        starts: For each token the character of `text` where it begins (-1 for tokens that stand for no text); empty
            for slow tokenizers, which have no offsets.
        ends: For each token the character after its last one.
    """

    ids: tuple[int, ...]
    prompt_length: int
    text: str
    starts: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()

    def token_at(self, character: int) -> int:
        """Index of the token that holds a character of the text; the last one where several share it.

        Raises:
            DataError: No token holds it: the text is shorter, the tokenizer dropped it, or it has no offsets.
        """
        held = [i for i, (a, b) in enumerate(zip(self.starts, self.ends, strict=True)) if 0 <= a <= character < b]
        if not held:
            why = "the tokenizer dropped it" if self.starts else "a slow tokenizer gives no offsets"
            why = why if 0 <= character < len(self.text) else f"the text has {len(self.text)} characters"
            raise DataError(f"no token holds character {character} of {self.text!r}: {why}")
        return held[-1]


def encode(prompt: Prompt, tokenizer: Any, *, answer: str = "", template: str | None = None) -> Encoded:
    """A prompt and the beginning of its answer as tokens.

    The template's end is found by character offsets, not by token arithmetic: the last token that begins inside the
    template belongs to it, also where the tokenizer joins the template's last character with the space after it.

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
    spans = [(int(a), int(b)) if b > a else (-1, -1) for a, b in out["offset_mapping"][: len(ids)]]
    starts, ends = tuple(a for a, _ in spans), tuple(b for _, b in spans)
    return Encoded(tuple(ids), _template_tokens(starts, rendered.template_end), rendered.text, starts, ends)


def _template_tokens(starts: Sequence[int], template_end: int) -> int:
    """Tokens up to the last that begins inside the template; without one, the special tokens before the text."""
    inside = [i for i, start in enumerate(starts) if 0 <= start < template_end]
    if inside:
        return inside[-1] + 1
    first = next((i for i, start in enumerate(starts) if start >= 0), len(starts))
    return max(first, 1)


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
