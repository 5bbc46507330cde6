"""Which tokens an edit would change, shown before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import torch

from steerkit.backends.base import pad
from steerkit.data.chat import PromptLike, as_prompts
from steerkit.data.encoding import Encoded, encode
from steerkit.positions import Pass, Positions, select
from steerkit.steering.edits import Edit

AHEAD = 64
"""Tokens of an answer that are looked at to say which of them are selected."""

GREEN, PLAIN = "\033[30;42m", "\033[0m"
STYLE = "background:#b7e4c7;color:#081c15;border-radius:3px"


@dataclass(frozen=True)
class Marked:
    """One prompt under one edit.

    Args:
        prompt: Which of the prompts.
        tokens: As text.
        selected: Which of them the edit changes.
        answer: Which of the first tokens of the answer it changes, counted from 0 after all that is fed.
    """

    prompt: int
    tokens: tuple[str, ...]
    selected: tuple[bool, ...]
    answer: tuple[int, ...]

    @property
    def ahead(self) -> str:
        """What happens to the answer, in words."""
        if len(self.answer) == AHEAD:
            return "and every token of the answer"
        if not self.answer:
            return ""
        shown = ", ".join(map(str, self.answer[:8]))
        return f"and answer tokens {shown}" + (", ..." if len(self.answer) > 8 else "")

    def runs(self) -> list[tuple[str, bool]]:
        """Neighboring tokens of one kind together."""
        joined: list[tuple[str, bool]] = []
        for token, chosen in zip(self.tokens, self.selected, strict=True):
            if joined and joined[-1][1] == chosen and not chosen:
                joined[-1] = (joined[-1][0] + token, chosen)
            else:
                joined.append((token, chosen))
        return joined


@dataclass(frozen=True)
class Preview:
    """The tokens that each edit would change; prints with `[brackets]`, shows in color in a notebook.

    Args:
        parts: For each edit what it is, and its prompts.
    """

    parts: tuple[tuple[str, tuple[Marked, ...]], ...]

    def __str__(self) -> str:
        return self._text("[", "]")

    __repr__ = __str__

    @property
    def ansi(self) -> str:
        """The same in the colors of a terminal."""
        return self._text(GREEN, PLAIN)

    def _text(self, before: str, after: str) -> str:
        lines = []
        for title, prompts in self.parts:
            lines.append(title)
            for marked in prompts:
                body = "".join(f"{before}{text}{after}" if chosen else text for text, chosen in marked.runs())
                count = f"{sum(marked.selected)} of {len(marked.tokens)} tokens"
                lines.append(f"  prompt {marked.prompt}, {count} {marked.ahead}".rstrip() + f":\n    {_visible(body)}")
        return "\n".join(lines) or "no edits"

    def _repr_html_(self) -> str:
        blocks = []
        for title, prompts in self.parts:
            lines = []
            for marked in prompts:
                body = "".join(
                    f'<mark style="{STYLE}">{escape(_visible(text))}</mark>' if chosen else escape(_visible(text))
                    for text, chosen in marked.runs()
                )
                lines.append(f"<pre style='white-space:pre-wrap'>{body} <i>{escape(marked.ahead)}</i></pre>")
            blocks.append(f"<b>{escape(title)}</b>{''.join(lines)}")
        return f'<div class="steerkit">{"".join(blocks)}</div>'


def mark(
    edits: Sequence[tuple[Edit, int | None]], prompts: PromptLike | Sequence[PromptLike], *, tokenizer: Any
) -> Preview:
    """The tokens of some prompts that edits would change; nothing runs.

    Args:
        edits: Each with the row it is for; `None` for every prompt.
        prompts: As `generate` takes them.
        tokenizer: A transformers tokenizer.
    """
    encoded = [encode(prompt, tokenizer) for prompt in as_prompts(prompts)]
    parts = []
    for edit, row in edits:
        chosen = [i for i in range(len(encoded)) if row is None or i == row]
        marked = tuple(_marked(encoded[i], edit.positions, tokenizer=tokenizer, prompt=i) for i in chosen)
        parts.append((repr(edit), marked))
    return Preview(tuple(parts))


def _marked(one: Encoded, positions: Positions, *, tokenizer: Any, prompt: int) -> Marked:
    fed, length = len(one.ids), torch.tensor([one.prompt_length])
    batch = pad([range(fed + AHEAD)], [one.prompt_length], pad_id=0)
    mask = select(positions, Pass(1, fed + AHEAD, length, given=batch.position))
    chosen = [True] * (fed + AHEAD) if mask is None else mask[0].tolist()
    answer = tuple(i for i in range(AHEAD) if chosen[fed + i])
    return Marked(prompt, _texts(one, tokenizer), tuple(chosen[:fed]), answer)


def _texts(one: Encoded, tokenizer: Any) -> tuple[str, ...]:
    """Each token's own piece of the text; a token that stands for no text by its name."""
    names = [str(name) for name in tokenizer.convert_ids_to_tokens(list(one.ids))]
    if not one.starts:
        return tuple(names)
    ends = [*one.starts[1:], len(one.text)]
    for i in range(len(ends) - 2, -1, -1):
        if ends[i] < 0:
            ends[i] = ends[i + 1]
    spans = zip(names, one.starts, ends, strict=True)
    return tuple(one.text[start:end] if 0 <= start < end else name for name, start, end in spans)


def _visible(text: str) -> str:
    return text.replace("\n", "\\n")
