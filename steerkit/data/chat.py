"""Prompts: text as it is, or messages that go through the tokenizer's chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from steerkit.errors import DataError

Message = Mapping[str, str]
"""One turn: `{"role": "user", "content": "..."}`."""

PLAIN = "plain"
LLAMA_2_CAA = "llama-2-caa"
TEMPLATES = (PLAIN, LLAMA_2_CAA)
"""Templates known by name; any other model uses its tokenizer's own."""


@dataclass(frozen=True)
class Prompt:
    """What a model is fed: a string as it is, or messages for the chat template, and how its answer begins.

    Args:
        content: A string (used as it is), or messages.
        prefill: The first characters of the answer, given to the model: CAA asks `(` and reads the letter.

    Raises:
        DataError: A message lacks its role or content, or nothing is given.

    Example:
        >>> Prompt([{"role": "user", "content": "Is the sea dry?"}], prefill="(").is_chat
        True
    """

    content: str | tuple[Message, ...]
    prefill: str = ""

    def __init__(self, content: str | Sequence[Message], prefill: str = "") -> None:
        object.__setattr__(self, "content", content if isinstance(content, str) else tuple(content))
        object.__setattr__(self, "prefill", prefill)
        self._check()

    def _check(self) -> None:
        if not isinstance(self.prefill, str):
            raise DataError(f"prefill={self.prefill!r} is not a string")
        if isinstance(self.content, str):
            return
        check_messages(self.content)

    @property
    def is_chat(self) -> bool:
        """The prompt is made of messages."""
        return not isinstance(self.content, str)

    def with_prefill(self, prefill: str) -> Prompt:
        """The same prompt with another beginning of the answer."""
        return replace(self, prefill=prefill)


def check_messages(messages: Sequence[object]) -> None:
    """Refuse what is not a list of messages.

    Raises:
        DataError: There is none, or one lacks its role or content as a string.
    """
    if not messages:
        raise DataError("a prompt without messages; give at least one {'role': ..., 'content': ...}")
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise DataError(f"message {i} is {message!r:.80}; it needs the keys 'role' and 'content'")
        for key in ("role", "content"):
            if not isinstance(message[key], str):
                raise DataError(f"message {i} has a {key} of type {type(message[key]).__name__}, not a string")


PromptLike = str | Prompt | Sequence[Message]
"""What the public calls take as one prompt."""


def as_prompt(prompt: PromptLike) -> Prompt:
    """A `Prompt` from any form of one.

    Example:
        >>> as_prompt("Once upon a time").content
        'Once upon a time'
    """
    return prompt if isinstance(prompt, Prompt) else Prompt(prompt)


def as_prompts(prompts: PromptLike | Sequence[PromptLike]) -> list[Prompt]:
    """A list of `Prompt` from one prompt or several; a bare list of messages is one prompt.

    Raises:
        DataError: Nothing is given.

    Example:
        >>> len(as_prompts(["a", "b"]))
        2
    """
    if isinstance(prompts, str | Prompt):
        return [as_prompt(prompts)]
    several: list[Any] = list(prompts)
    if not several:
        raise DataError("no prompts given; give a string, messages, or a list of them")
    if all(isinstance(one, Mapping) for one in several):
        return [Prompt(several)]
    return [as_prompt(one) for one in several]


@dataclass(frozen=True)
class Rendered:
    """A prompt as the text that is fed: the template, then what the answer begins with.

    Args:
        text: All of it.
        template_end: Characters of the template; the rest is the answer.
        special_tokens: The tokenizer adds its own special tokens (the template has not written them).
    """

    text: str
    template_end: int
    special_tokens: bool


def render(prompt: Prompt, tokenizer: Any, *, answer: str = "", template: str | None = None) -> Rendered:
    """The text of a prompt and the beginning of its answer, by the chat template where there are messages.

    A string is used as it is, and the answer follows without a space; where the string itself begins with the
    tokenizer's beginning-of-text token, no second one is added. Messages go through the tokenizer's chat template; a
    tokenizer without one gets `"plain"`, the form of CAA's base models: `Input: ...`, `Response: ...`.

    Args:
        prompt: What is asked.
        tokenizer: A transformers tokenizer.
        answer: What follows the prompt's own prefill. After messages it loses spaces at both ends.
        template: `"plain"` or `"llama-2-caa"` instead of the tokenizer's own.

    Raises:
        DataError: The template is unknown, or the tokenizer's template cannot write these messages.

    Source: Rimsky et al. 2024, `utils/tokenize.py`. We differ: a system prompt stands inside `[INST]`, where Llama 2
    was trained to find it; CAA's code put it before.
    """
    if template is not None and template not in TEMPLATES:
        raise DataError(f"template={template!r} is not known; choose one of {', '.join(TEMPLATES)}, or leave it out "
                        "for the tokenizer's own")  # fmt: skip
    answer = prompt.prefill + answer
    if isinstance(prompt.content, str):
        bos = getattr(tokenizer, "bos_token", None)
        begun = isinstance(bos, str) and bos != "" and prompt.content.startswith(bos)
        return Rendered(prompt.content + answer, len(prompt.content), special_tokens=not begun)
    if template is None and getattr(tokenizer, "chat_template", None):
        return _render_own(prompt.content, tokenizer, answer.strip())
    write = _llama_2_caa if template == LLAMA_2_CAA else _plain
    head = write(prompt.content)
    return Rendered(head + (f" {answer.strip()}" if answer.strip() else ""), len(head), special_tokens=True)


def _render_own(messages: tuple[Message, ...], tokenizer: Any, answer: str) -> Rendered:
    turns = [dict(message) for message in messages]
    try:
        head = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        whole = head
        if answer:
            answered = [*turns, {"role": "assistant", "content": answer}]
            whole = tokenizer.apply_chat_template(answered, tokenize=False, continue_final_message=True)
    except Exception as error:
        raise DataError(f"the tokenizer's chat template cannot write these messages: {error}") from error
    for message in messages:
        if message["role"] == "system" and message["content"].strip() not in head:
            raise DataError(f"the tokenizer's chat template leaves the system message {message['content']!r} out; "
                            "put it into the user's message")  # fmt: skip
    return Rendered(whole, _template_end(head, whole, answer), special_tokens=False)


def _template_end(head: str, whole: str, answer: str) -> int:
    """Where the template ends: with the prompt for generation, or later if it writes more before an answer.

    Some templates put an empty block of thoughts before the answer. One space before the answer is the answer's own, as
    tokenizers join them.
    """
    begins = whole.rfind(answer) if answer else len(whole)
    if begins < 0:
        raise DataError(
            f"the tokenizer's chat template changes the answer {answer!r}; give it as the template writes it"
        )
    if whole.startswith(head) and not whole[len(head) : begins].strip():
        return len(head)
    return begins - (whole[:begins].endswith(" "))


def _plain(messages: tuple[Message, ...]) -> str:
    names = {"user": "Input", "assistant": "Response"}
    lines = [
        f"{names[m['role']]}: {m['content'].strip()}" if m["role"] in names else m["content"].strip() for m in messages
    ]
    return "\n".join(lines) + "\nResponse:"


def _llama_2_caa(messages: tuple[Message, ...]) -> str:
    system, text = "", ""
    for message in messages:
        content = message["content"].strip()
        if message["role"] == "system":
            system = f"<<SYS>>\n{content}\n<</SYS>>\n\n"
        elif message["role"] == "user":
            text += f"[INST] {system}{content} [/INST]"
            system = ""
        else:
            text += f" {content} "
    return text
