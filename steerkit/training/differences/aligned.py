"""The same responses after different prompts, token for token: what a contrast is read on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal, get_args

from steerkit.backends.base import Model
from steerkit.data.chat import Prompt
from steerkit.errors import DataError, InputError
from steerkit.training.differences.contrasts import Contrast
from steerkit.training.distilling.samples import Sample, Samples
from steerkit.training.teaching.answers import Answered, end_token, read_answered
from steerkit.training.teaching.instructions import Tone

Responses = Literal["random", "both", "chosen", "rejected"]
"""Which response of each preference is read: one drawn by a coin, both one after the other, or always the same one."""
Span = Literal["response", "generation"]
"""Which tokens are read: the response's own, or also the one before them, on which its first is decided."""


@dataclass(frozen=True)
class Aligned:
    """Responses as samples, by the instruction before them; row `i` of each has the same tokens in scope.

    Args:
        names: What each response is called.
        views: The samples after the prompt alone (`None`) and after the prompts with an instruction.
    """

    names: tuple[str, ...]
    views: Mapping[Tone | None, Samples]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def plain(self) -> Samples:
        """Those without an instruction: what the student sees."""
        return self.views[None]

    def longest(self, index: int) -> int:
        """Tokens of a response with the longest of its prompts."""
        return max(len(samples[index].ids) for samples in self.views.values())


def default_responses(mode: str) -> Responses:
    """One by a coin, as the code of RAHF-SCIT has it; both for DUAL, as that of RAHF-DUAL."""
    return "both" if mode == "dual" else "random"


def check_span(positions: str) -> None:
    """Refuse positions that differences cannot be read at.

    Raises:
        InputError: It is another word.
    """
    if positions not in get_args(Span):
        raise InputError(f"positions={positions!r} is not known; choose one of {', '.join(map(repr, get_args(Span)))}")


def align(
    preferences: Sequence[Any],
    contrast: Contrast,
    model: Model,
    *,
    responses: Responses | None = None,
    positions: Span = "response",
    max_tokens: int | None = None,
    seed: int = 0,
) -> Aligned:
    """Preferences as the same responses after every prompt that the contrast reads.

    In scope are the response's tokens alone: none of the prompt, its template or its special tokens, and not the token
    that ends the response. With `positions="generation"` the last token before them is in scope too. What lies behind
    the last one in scope is cut off.

    Args:
        preferences: With `prompt`, `chosen`, `rejected` and `id`.
        contrast: Says which instructions stand before the prompts.
        model: Says the tokenizer and the context.
        responses: Which responses; left out, `"both"` for DUAL, else `"random"`.
        positions: `"response"` for its own tokens; `"generation"` for the last token of the prompt as well.
        max_tokens: The most tokens in scope of a response, from its first; left out, all.
        seed: Of the coin.

    Raises:
        DataError: There is none; a response is empty, holds a token of the template, or has other tokens after another
            prompt; or one is too long for the context.
        InputError: An option is not valid.
    """
    kind = responses or default_responses(contrast.mode)
    if kind not in get_args(Responses):
        raise InputError(f"responses={responses!r} is not known; choose one of {', '.join(get_args(Responses))}")
    check_span(positions)
    if max_tokens is not None and (isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1):
        raise InputError(f"max_tokens={max_tokens!r} is not valid; give a whole number of at least 1, or None for all")
    if not len(preferences):
        raise DataError("no preferences given; give at least one")
    template = getattr(preferences, "template", None)
    contexts = _contexts([one.prompt for one in preferences], contrast, model.tokenizer, template)
    ends = {chat: end_token(model.tokenizer, chat=chat, template=template)
            for chat in {one.prompt.is_chat for one in preferences}}  # fmt: skip
    coin, names = Random(seed), []
    rows: dict[Tone | None, list[Sample]] = {tone: [] for tone in contexts}
    for index, one in enumerate(preferences):
        name, end = one.id or str(index), ends[one.prompt.is_chat]
        prompts = {tone: some[index] for tone, some in contexts.items()}
        for word in _draw(kind, coin):
            names.append(f"{name}/{word}")
            try:
                read = {tone: read_answered(prompt, getattr(one, word), model.tokenizer, end=end, template=template)
                        for tone, prompt in prompts.items()}  # fmt: skip
                _check(read, model, positions)
            except DataError as error:
                raise DataError(f"preference {name!r}, {word}: {error}") from error
            for tone, answered in read.items():
                rows[tone].append(_sample(answered, positions, max_tokens))
    return Aligned(tuple(names), {tone: Samples(samples) for tone, samples in rows.items()})


def _contexts(
    prompts: Sequence[Prompt], contrast: Contrast, tokenizer: Any, template: str | None
) -> dict[Tone | None, list[Prompt]]:
    found: dict[Tone | None, list[Prompt]] = {None: list(prompts)}
    for tone in {contrast.positive.tone, contrast.negative.tone, contrast.base.tone} - {None}:
        assert tone is not None
        assert contrast.instructions is not None
        found[tone] = contrast.instructions.before(prompts, tone, tokenizer=tokenizer, template=template)
    return found


def _draw(kind: Responses, coin: Random) -> tuple[str, ...]:
    if kind == "both":
        return "chosen", "rejected"
    return ("chosen" if coin.random() < 0.5 else "rejected",) if kind == "random" else (kind,)


def _check(read: Mapping[Tone | None, Answered], model: Model, positions: Span) -> None:
    plain = read[None]
    for tone, one in read.items():
        if positions == "generation" and one.ids[one.start - 1] != plain.ids[plain.start - 1]:
            raise DataError(f"the last token before the response is another one in the prompt with the {tone} "
                            "instruction, so the two cannot be held against each other; use messages, or "
                            "positions='response'")  # fmt: skip
        if one.response != plain.response:
            raise DataError(f"the response has other tokens after the prompt with the {tone} instruction, because the "
                            "tokenizer joins it with what stands before; end the prompt with a line break, or use "
                            "messages")  # fmt: skip
    longest, context = max(map(len, read.values())), model.info.context
    if context is not None and longest > context:
        raise DataError(f"{longest} tokens with instruction, prompt and response; the model's context is {context}. "
                        "Leave long ones out with preferences.fits(...), with room for the instruction, or shorten "
                        "them")  # fmt: skip


def _sample(answered: Answered, positions: Span, max_tokens: int | None) -> Sample:
    first, end = answered.start - (positions == "generation"), len(answered.ids) - 1
    if max_tokens is not None:
        end = min(end, answered.start + max_tokens)
    scope = [first <= at for at in range(end)]
    return Sample(answered.ids[:end], answered.prompt_length, tuple(scope))
