"""Does a cache change what a steered model says?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from steerkit.backends.base import Batch, Model
from steerkit.data.chat import as_prompts
from steerkit.data.encoding import encode
from steerkit.points import Point
from steerkit.testing.checks import distance
from steerkit.testing.running import adding, batch_of

PROMPTS = ("The sea is", "A dog")
NEW_TOKENS = 4
GREEDY = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}


def measure_generation(model: Model, row: list[int]) -> Iterator[tuple[str, float, float | None]]:
    """Name, difference, and what is allowed (`None`: as for logits) of answers under a hook.

    Args:
        model: The model.
        row: Tokens to run.
    """
    yield "steered, token by token over a cache = uncached", _stepped(model, row), None
    if model.info.dtype == "float32":
        yield "steered generate = a greedy loop (tokens off)", _answers(model), 0.0


def _edit(model: Model) -> tuple[Point, Any]:
    """From the third token on, so that prompts and answers are both touched."""
    return Point(model.info.num_layers // 2), adding(since=2)


def _stepped(model: Model, row: list[int]) -> float:
    half = len(row) // 2
    with model.hook(*_edit(model)):
        whole = model.forward(batch_of([row]))
        prefix = model.prefill(batch_of([row[:half]]))
        steps = []
        for i in range(half, len(row)):
            one = Batch(torch.tensor([[row[i]]]), torch.tensor([[i]]), torch.tensor([half]))
            steps.append(model.forward(one, prefix=prefix))
    return distance(torch.cat(steps, dim=1), whole[:, half:])


def _answers(model: Model) -> float:
    """How many tokens of the answers differ: a batch with a cache, against each prompt alone without one."""
    rows = [encode(prompt, model.tokenizer).ids for prompt in as_prompts(PROMPTS)]
    with model.hook(*_edit(model)):
        said = model.generate(list(PROMPTS), max_new_tokens=NEW_TOKENS, **GREEDY)
        alone = [_greedy(model, list(row)) for row in rows]
    wanted = [model.tokenizer.decode(row, skip_special_tokens=True) for row in alone]
    return float(sum(one != other for one, other in zip(said, wanted, strict=True)))


def _greedy(model: Model, row: list[int]) -> list[int]:
    ends = _ends(model)
    answer: list[int] = []
    for _ in range(NEW_TOKENS):
        logits: Tensor = model.forward(batch_of([row + answer]))[0, -1]
        answer.append(int(logits.argmax()))
        if answer[-1] in ends:
            break
    return answer


def _ends(model: Model) -> set[int]:
    config = getattr(getattr(model, "hf", None), "generation_config", None)
    ends = getattr(config, "eos_token_id", None)
    ends = model.tokenizer.eos_token_id if ends is None else ends
    return set(ends) if isinstance(ends, list) else {ends}
