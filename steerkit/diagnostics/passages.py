"""Prompts as tokens with a scope: what two models are compared on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool
from torch import Tensor

from steerkit.backends.base import Batch, Model, pad
from steerkit.data.chat import PromptLike, as_prompts
from steerkit.data.encoding import Encoded, encode
from steerkit.data.pairs import ContrastPair
from steerkit.data.preference_items import Preference
from steerkit.errors import DataError
from steerkit.positions import Pass, Positions, check_positions, select

LOGITS = 1 << 28
"""Logits of one forward pass that are held at a time, where a single row is not more."""


@runtime_checkable
class Scoped(Protocol):
    """One sequence of tokens: how many belong to the prompt, and which tokens a shift is wanted at."""

    @property
    def ids(self) -> tuple[int, ...]:
        """The tokens."""
        ...

    @property
    def prompt_length(self) -> int:
        """How many of them belong to the prompt's template."""
        ...

    @property
    def scope(self) -> tuple[bool, ...]:
        """By token, whether it is in scope."""
        ...


@dataclass(frozen=True)
class Passage:
    """One sequence; see `Scoped`."""

    ids: tuple[int, ...]
    prompt_length: int
    scope: tuple[bool, ...]


@dataclass(frozen=True)
class Masks:
    """The tokens of a batch, each in one of three groups; padding is in none.

    Args:
        scope: Where the shift is wanted.
        prompt: Of the prompt's template, and not in scope.
        later: Of the answer, and not in scope.
    """

    scope: Bool[Tensor, "batch pos"]
    prompt: Bool[Tensor, "batch pos"]
    later: Bool[Tensor, "batch pos"]


Passages = PromptLike | Sequence[PromptLike] | Sequence[ContrastPair] | Sequence[Preference] | Sequence[Scoped]
"""Prompts (an answer stands in `prefill`), pairs or preferences (both sides are read), or tokens with a scope."""


def read_passages(given: Passages, model: Model, *, positions: Positions = "generation") -> list[Passage]:
    """Prompts, pairs or scoped sequences as tokens with a scope.

    Args:
        given: What is compared on.
        model: Its tokenizer writes prompts as tokens; its context is the most tokens of a sequence.
        positions: Which tokens are in scope; sequences that have a scope keep their own.

    Raises:
        DataError: None is given, or one is longer than the model's context.
        PositionError: `positions` is not a valid form.
    """
    check_positions(positions)
    found = [_passage(one, positions) for one in _sequences(given, model.tokenizer)]
    longest = max((len(one.ids) for one in found), default=0)
    if not found:
        raise DataError("no prompts given; give at least one")
    if model.info.context is not None and longest > model.info.context:
        where = next(i for i, one in enumerate(found) if len(one.ids) == longest)
        raise DataError(f"sequence {where} has {longest} tokens; the model's context is {model.info.context}. Shorten "
                        "it or leave it out")  # fmt: skip
    return found


def _kind(given: Any) -> type | None:
    """The kind that all are of; `None` for prompts."""
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        return None
    return next(
        (kind for kind in (Scoped, ContrastPair, Preference) if all(isinstance(one, kind) for one in given)), None
    )


def _sequences(given: Any, tokenizer: Any) -> list[Scoped | Encoded]:
    kind = _kind(given)
    if kind is Scoped:
        return list(given)
    if kind is not None:
        template = getattr(given, "prompt_template", None)
        pairs = [one.pair if isinstance(one, Preference) else one for one in given]
        sides = [side for pair in pairs for side in (pair.positive, pair.negative)]
        return [encode(side.prompt, tokenizer, answer=side.answer, template=template) for side in sides]
    return [encode(prompt, tokenizer) for prompt in as_prompts(given)]


def _passage(one: Scoped | Encoded, positions: Positions) -> Passage:
    if isinstance(one, Scoped):
        return Passage(tuple(one.ids), one.prompt_length, tuple(one.scope))
    count = len(one.ids)
    mask = select(positions, Pass(1, count, prompt_length=torch.tensor([one.prompt_length])))
    scope = (True,) * count if mask is None else tuple(mask[0].tolist())
    return Passage(one.ids, one.prompt_length, scope)


def chunks(lengths: Sequence[int], *, rows: int, vocab: int) -> Iterator[list[int]]:
    """Which sequences go together, by length: at most `rows`, and fewer where their logits would be too many."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < min(start + rows, len(order)) and (stop + 1 - start) * lengths[order[stop]] * vocab <= LOGITS:
            stop += 1
        yield order[start:stop]
        start = stop


def batches(passages: Sequence[Passage], *, rows: int, vocab: int) -> Iterator[tuple[Batch, Masks]]:
    """The passages by length, a few at a time; see `chunks`."""
    for chosen in chunks([len(one.ids) for one in passages], rows=rows, vocab=vocab):
        yield _batch([passages[i] for i in chosen])


def _batch(some: Sequence[Passage]) -> tuple[Batch, Masks]:
    batch = pad([one.ids for one in some], [one.prompt_length for one in some], pad_id=0)
    scope = torch.zeros_like(batch.real)
    scope[batch.real] = torch.tensor([flag for one in some for flag in one.scope])
    return batch, group(batch, scope)


def group(batch: Batch, scope: Bool[Tensor, "batch pos"]) -> Masks:
    """The tokens of a batch by group."""
    inside = batch.position < batch.prompt_length.unsqueeze(-1)
    outside = batch.real & ~scope
    return Masks(scope, outside & inside, outside & ~inside)


def with_answers(given: Passages, writer: Any, model: Model, *, max_new_tokens: int, rows: int) -> Passages:
    """Prompts, each that has no prefill with the greedy answer of a model as its prefill; all else as it is.

    Args:
        given: What is compared on.
        writer: What answers: a model, or a `Steer` or an adapter on one.
        model: Its context bounds the answers.
        max_new_tokens: The most tokens of an answer; 0 adds none.
        rows: Prompts at a time.
    """
    if _kind(given) is not None:
        return given
    asked = as_prompts(given)  # type: ignore[arg-type]
    open_ended = [i for i, one in enumerate(asked) if not one.prefill]
    for start in range(0, len(open_ended) if max_new_tokens else 0, rows):
        some = open_ended[start : start + rows]
        room = max_new_tokens
        if model.info.context is not None:
            longest = max(len(encode(asked[i], model.tokenizer).ids) for i in some)
            room = min(room, model.info.context - longest)
        if room < 1:
            continue
        answers = writer.generate([asked[i] for i in some], max_new_tokens=room, do_sample=False)
        for i, answer in zip(some, answers, strict=True):
            asked[i] = asked[i].with_prefill(answer)
    return asked
