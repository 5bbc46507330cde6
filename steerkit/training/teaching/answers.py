"""Prompts with whole answers as tokens: which tokens the answer has, and the token that ends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from steerkit.data.chat import Prompt
from steerkit.data.encoding import encode, shared_prefix
from steerkit.errors import DataError

_PROBE = "steerkit"


@dataclass(frozen=True)
class Answered:
    """A prompt and an answer that has come to its end, as tokens.

    Args:
        ids: All of them.
        prompt_length: How many belong to the prompt's template.
        start: Index of the answer's first token; what the prompt gives of the answer (its prefill) lies before it.
    """

    ids: tuple[int, ...]
    prompt_length: int
    start: int

    @property
    def response(self) -> tuple[int, ...]:
        """The answer's tokens; the last one ends it."""
        return self.ids[self.start :]

    def __len__(self) -> int:
        return len(self.ids)


def end_token(tokenizer: Any, *, chat: bool = True, template: str | None = None) -> int:
    """The token that ends an answer: what the chat template writes after one, else the tokenizer's end of text.

    Args:
        tokenizer: The model's tokenizer.
        chat: The prompts are conversations.
        template: A prompt template by name instead of the tokenizer's own.

    Raises:
        DataError: There is none: the model could not learn where an answer ends.
    """
    if chat and template is None and getattr(tokenizer, "chat_template", None):
        turns = [{"role": "user", "content": _PROBE}, {"role": "assistant", "content": _PROBE}]
        _, _, after = tokenizer.apply_chat_template(turns, tokenize=False).rpartition(_PROBE)
        ids = tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
        if ids and ids[0] in tokenizer.all_special_ids:
            return int(ids[0])
    end = getattr(tokenizer, "eos_token_id", None)
    if end is None:
        raise DataError("the tokenizer has no end-of-text token, so nothing would say where an answer ends; set "
                        "tokenizer.eos_token to the one that the model was trained with")  # fmt: skip
    return int(end)


def read_answered(prompt: Prompt, answer: str, tokenizer: Any, *, end: int, template: str | None = None) -> Answered:
    """A prompt with a whole answer as tokens.

    Args:
        prompt: What is asked.
        answer: What is said, without the prompt's prefill.
        tokenizer: The model's tokenizer.
        end: The token that ends the answer; one that the answer brings itself is not doubled.
        template: A prompt template by name instead of the tokenizer's own.

    Raises:
        DataError: The answer is empty, or holds a token that ends a turn or begins another.
    """
    if not answer.strip():
        raise DataError(f"an empty answer ({answer!r}) has no token to learn from")
    encoded = encode(prompt, tokenizer, answer=answer, template=template)
    start = encoded.prompt_length
    if prompt.prefill:
        start = max(start, shared_prefix(encoded.ids, encode(prompt, tokenizer, template=template).ids))
    ids = encoded.ids if encoded.ids[-1] == end else (*encoded.ids, end)
    said = ids[start:-1]
    if not said:
        raise DataError(f"the answer {answer!r} has no token of its own")
    special = set(tokenizer.all_special_ids) - {getattr(tokenizer, "unk_token_id", None)}
    held = next((token for token in said if token in special), None)
    if held is not None:
        raise DataError(f"the answer {answer!r:.80} holds {tokenizer.decode([held])!r}, which belongs to the template; "
                        "take it out")  # fmt: skip
    return Answered(ids, encoded.prompt_length, start)
