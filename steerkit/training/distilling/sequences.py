"""Texts as the sequences a student sees: answers that were given, and answers that a model writes first."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import torch

from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.data.chat import Prompt, PromptLike, as_prompt
from steerkit.data.encoding import Encoded, encode
from steerkit.data.pairs import ContrastPair, check_choice
from steerkit.errors import DataError
from steerkit.training.fitting.ranks import Ranks

Answers = Literal["steered", "base"]
"""Who answers prompts without an answer: the steered model, or the model as it is."""

ROWS = 32
"""Prompts that are answered at a time."""
KEPT = "answers.json"


@runtime_checkable
class Preferred(Protocol):
    """A prompt with two answers."""

    prompt: Prompt
    chosen: str
    rejected: str


Texts = PromptLike | Sequence[PromptLike | ContrastPair | Preferred]
"""Prompts, contrast pairs (both sides are seen) or preferences (both answers are), also mixed."""


@dataclass(frozen=True)
class Request:
    """What is to be read, checked and sorted.

    Args:
        given: Prompts with their answers.
        asked: Prompts that a model answers.
        template: A prompt template by name.
    """

    given: tuple[tuple[Prompt, str], ...]
    asked: tuple[Prompt, ...]
    template: str | None = None

    def encoded(self, model: HuggingFaceModel, answers: Sequence[str] = ()) -> list[Encoded]:
        """All sequences as tokens, each once.

        Raises:
            DataError: One is longer than the model's context.
        """
        texts = [*self.given, *(zip(self.asked, answers, strict=True) if answers else ())]
        found: dict[tuple[Any, int], Encoded] = {}
        for number, (prompt, answer) in enumerate(texts):
            one = encode(prompt, model.tokenizer, answer=answer, template=self.template)
            if model.info.context is not None and len(one.ids) > model.info.context:
                raise DataError(f"sequence {number} has {len(one.ids)} tokens; the model's context is "
                                f"{model.info.context}. Shorten it or leave it out: {one.text!r:.80}")  # fmt: skip
            found.setdefault((one.ids, one.prompt_length), one)
        return list(found.values())

    def check(self, model: HuggingFaceModel, *, max_new_tokens: int) -> None:
        """Refuse what is too long, before anything runs.

        Raises:
            DataError: A sequence, or a prompt with room for its answer, is longer than the model's context.
        """
        self.encoded(model)
        context = model.info.context
        for number, prompt in enumerate(self.asked if context is not None else ()):
            tokens = len(encode(prompt, model.tokenizer, template=self.template).ids)
            if context is not None and tokens + max_new_tokens > context:
                raise DataError(f"prompt {number} has {tokens} tokens; with max_new_tokens={max_new_tokens} it exceeds "
                                f"the model's context of {context}. Shorten it, or give fewer new tokens")  # fmt: skip


def read_request(texts: Texts | None) -> Request:
    """Texts in any form, sorted into those with answers and those without.

    Raises:
        DataError: None is given, or one has no such form.
    """
    if texts is None or (not isinstance(texts, str | Prompt) and not len(texts)):
        raise DataError("no prompts given; distilling an edit needs texts to do it on: prompts, pairs or preferences")
    given: list[tuple[Prompt, str]] = []
    asked: list[Prompt] = []
    for one in _several(texts):
        if isinstance(one, ContrastPair):
            given += [(side.prompt, side.answer) for side in (one.positive, one.negative)]
        elif isinstance(one, Preferred):
            given += [(one.prompt, one.chosen), (one.prompt, one.rejected)]
        else:
            asked.append(_prompt(one))
    return Request(tuple(given), tuple(asked), getattr(texts, "prompt_template", None))


def _several(texts: Any) -> Sequence[Any]:
    """A bare list of messages is one prompt."""
    alone = isinstance(texts, str | Prompt) or all(isinstance(one, Mapping) for one in texts)
    return [texts] if alone else list(texts)


def _prompt(one: Any) -> Prompt:
    if not isinstance(one, str | Prompt | Sequence):
        raise DataError(f"a prompt of type {type(one).__name__}; give text, messages, pairs or preferences")
    prompt = as_prompt(one)
    if isinstance(prompt.content, str) and not prompt.content.strip():
        raise DataError("an empty prompt; give some text, or leave it out")
    return prompt


def check_answering(answers: object, max_new_tokens: object) -> None:
    """Refuse options that are not valid.

    Raises:
        DataError: One is not.
    """
    check_choice("answers", answers, get_args(Answers))
    if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        raise DataError(f"max_new_tokens={max_new_tokens!r} is not valid; give an integer of at least 1")


def write_answers(
    asked: Sequence[Prompt], writer: Any, *, max_new_tokens: int, seed: int, folder: Path | None, key: Mapping[str, Any]
) -> list[str]:
    """Sampled answers, the same for the same seed; those that lie in the folder already are taken from there.

    Args:
        asked: The prompts.
        writer: Who answers: a model, or a `Steer`.
        max_new_tokens: The most tokens of an answer.
        seed: Of the draws.
        folder: Where the answers are kept, so that a training that goes on later sees the same ones.
        key: What else decides the answers, as plain values.
    """
    ranks = Ranks.join()
    if not ranks.first:
        return ranks.from_first([])
    contents = [[p.content if isinstance(p.content, str) else [dict(m) for m in p.content], p.prefill] for p in asked]
    wanted = json.dumps([contents, dict(key), max_new_tokens, seed], sort_keys=True)
    name = hashlib.sha256(wanted.encode()).hexdigest()[:16]
    path = None if folder is None else folder / KEPT
    if path is not None and path.exists():
        kept = json.loads(path.read_text("utf-8"))
        if kept["request"] == name:
            return ranks.from_first(list(kept["answers"]))
    answers = _write(asked, writer, max_new_tokens=max_new_tokens, seed=seed)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"request": name, "answers": answers}, ensure_ascii=False, indent=1), "utf-8")
    return ranks.from_first(answers)


def _write(asked: Sequence[Prompt], writer: Any, *, max_new_tokens: int, seed: int) -> list[str]:
    order = sorted(range(len(asked)), key=lambda i: len(str(asked[i].content)))
    answers = [""] * len(asked)
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for start in range(0, len(order), ROWS):
            some = order[start : start + ROWS]
            prompts = [asked[i] for i in some]
            for i, text in zip(
                some, writer.generate(prompts, max_new_tokens=max_new_tokens, do_sample=True), strict=True
            ):
                answers[i] = text
    return answers
