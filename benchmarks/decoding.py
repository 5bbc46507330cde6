"""Steered decoding, recording and sweeping on the machine's own device: CUDA in bfloat16 where there is one.

`python -m benchmarks.decoding` prints these rows alone. On CUDA, `generate` compiles each step over a static cache into
CUDA graphs; a hooked model's compiled code steps aside, so the row of a steered static cache shows what that costs. A
vector in the weights costs nothing: it is the exit where speed counts.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import torch

import steerkit as sk
from benchmarks.subjects import choices, llama, random_vector
from benchmarks.timing import Ratio, ratio
from steerkit.backends.huggingface import HuggingFaceModel

CUDA = torch.cuda.is_available()
TOKENS, LAYER = (128, 8) if CUDA else (24, 8)
PROMPT = "What is true of the sea, and why?"


def subject() -> HuggingFaceModel:
    """16 blocks; on CUDA of width 2048 in bfloat16, so that a step is more than the launching of its kernels."""
    if not CUDA:
        return llama()
    model = llama(hidden=2048, vocab=32000)
    return HuggingFaceModel(model.hf.to("cuda", torch.bfloat16), model.tokenizer, name=model.info.name)


def run(*, runs: int = 9) -> Iterator[Ratio]:
    """Steered by unsteered in each way of decoding; recording by its forward passes; a sweep by one pass per item."""
    model = subject()
    where = f"{torch.cuda.get_device_name(0)}, bfloat16" if CUDA else "CPU"
    vector = random_vector(model)
    steer = sk.Steer(model).add(vector, layer=LAYER, coef=0.1)
    with tempfile.TemporaryDirectory() as folder:
        sk.bake_bias(model, vector, folder, layer=LAYER, coef=0.1)
        baked = sk.load(folder, tokenizer=model.tokenizer, dtype=model.hf.dtype, device=model.device)
    for batch in (1, 16):
        yield from _generation(model, steer, batch, where, runs)
        yield _baked(model, baked, batch, where, runs)
    yield from _reading(model, where, runs)


def _generation(model: HuggingFaceModel, steer: sk.Steer, batch: int, where: str, runs: int) -> Iterator[Ratio]:
    ways: list[tuple[str, dict[str, Any], float | None]] = [
        ("dynamic cache", {}, 0.97),
        ("static cache, uncompiled", {"cache_implementation": "static", "disable_compile": True}, 0.97),
    ]
    if CUDA:
        ways.append(("static cache, unsteered in CUDA graphs", {"cache_implementation": "static"}, None))
    for name, options, aim in ways:
        yield ratio(
            f"{where}, batch {batch}, {name}: steered tokens/s / unsteered",
            _generate(steer, batch, options), _generate(model, batch, options),
            runs=runs, at_least=aim, inverse=True,
        )  # fmt: skip


def _baked(model: HuggingFaceModel, baked: HuggingFaceModel, batch: int, where: str, runs: int) -> Ratio:
    """The same vector as a bias of the weights; on CUDA both in CUDA graphs."""
    options = {"cache_implementation": "static"}
    return ratio(
        f"{where}, batch {batch}, static cache: vector baked into a bias, tokens/s / unsteered",
        _generate(baked, batch, options), _generate(model, batch, options), runs=runs, at_least=0.9, inverse=True,
    )  # fmt: skip


def _generate(subject: Any, batch: int, options: dict[str, Any]) -> Callable[[], object]:
    given = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False, **options}
    return _finished(lambda: subject.generate([PROMPT] * batch, **given))


def _reading(model: HuggingFaceModel, where: str, runs: int) -> Iterator[Ratio]:
    pairs, vector = choices(32), random_vector(model)
    sides = [side.prompt for pair in pairs for side in (pair.positive, pair.negative)]

    def forwards(prompts: list[Any]) -> Callable[[], object]:
        return _finished(lambda: [model.forward(prompts[at : at + 16]) for at in range(0, len(prompts), 16)])

    yield ratio(
        f"{where}, record 32 pairs / their forward passes",
        _finished(lambda: sk.record(model, pairs, batch_size=16, progress=False)), forwards(sides),
        runs=runs, at_most=1.0,
    )  # fmt: skip
    items = choices(4)
    yield ratio(
        f"{where}, sweep of 80 cells, packed / one forward pass per item",
        _finished(lambda: sk.sweep(model, vector, items, coefs=(-1, -0.5, 0, 0.5, 1), path="packed", progress=False)),
        forwards([item.positive.prompt for item in items]), runs=runs,
    )  # fmt: skip


def _finished(work: Callable[[], object]) -> Callable[[], object]:
    """The work until the device has done it."""

    def wait() -> object:
        result = work()
        if CUDA:
            torch.cuda.synchronize()
        return result

    return wait


if __name__ == "__main__":
    if not CUDA:
        torch.set_num_threads(1)
    for line in run():
        print(*line.row(), sep=" | ", file=sys.stdout, flush=True)
