"""A layer-by-coefficient sweep against one forward pass per cell, as CAA's code does it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

import steerkit as sk
from benchmarks.subjects import choices, llama, random_vector
from benchmarks.timing import Ratio, ratio
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.data.encoding import encode
from steerkit.data.pairs import ContrastPair
from steerkit.vectors import SteeringVector

COEFS = (-1.0, -0.5, 0.0, 0.5, 1.0)
LAYERS, TOKENS = 16, 120
SIZES = ((64, 32000), (256, 32000), (256, 4000))
"""Width and vocabulary. The operations bound the ratio: 80 passes of 121 tokens with all their logits against one of
121 tokens and 64 tails of 2 that join at their layers, with the logits of 65; so it grows with the vocabulary (Llama 2
has 32,000) and shrinks with width. Where no aim is named, it is what the operations allow, less a tenth.
"""
ON_GPU = ((2048, 32000),)
"""What is too slow for the naive way on a processor."""
AIM = 100
"""On every core with the first size, and on a GPU: there what a call costs counts beside its operations."""
ITEMS = 50
"""As many as a test set of CAA."""


def one_by_one(model: HuggingFaceModel, vector: SteeringVector, items: Sequence[ContrastPair]) -> torch.Tensor:
    """What CAA's code does: for every item, layer and coefficient a pass with all logits, and all probabilities."""
    letters = [model.tokenizer.convert_tokens_to_ids(letter) for letter in "AB"]
    found = []
    for item in items:
        for layer in vector.layers:
            for coef in COEFS:
                row = encode(item.positive.prompt, model.tokenizer, answer="(")
                push = _push(coef * vector[layer].to(model.hf.device), first=row.prompt_length - 1)
                handle = model.hf.model.layers[layer].register_forward_hook(push)
                with torch.no_grad():
                    p = (
                        model.hf(input_ids=torch.tensor([row.ids], device=model.hf.device))
                        .logits[0, -1]
                        .softmax(-1)[letters]
                    )
                found.append((p / p.sum()).cpu())
                handle.remove()
    return torch.stack(found)


def _push(delta: torch.Tensor, *, first: int) -> Callable[..., torch.Tensor]:
    """A hook that adds from a token on."""

    def add(_module: Any, _inputs: Any, hidden: torch.Tensor) -> torch.Tensor:
        return torch.cat([hidden[:, :first], hidden[:, first:] + delta], dim=1)

    return add


def run(*, runs: int = 3) -> Iterator[Ratio]:
    """16 layers, 120-token prompts, 5 coefficients, all 80 cells; on one thread, on all of them, and on a GPU."""
    before, every = torch.get_num_threads(), os.cpu_count() or 1
    for threads in sorted({1, every}):
        torch.set_num_threads(threads)
        for size in SIZES:
            yield from _of(size, "cpu", runs=runs, aim=AIM if threads == every and size == SIZES[0] else None)
    torch.set_num_threads(before)
    if torch.cuda.is_available():
        for size in (*SIZES, *ON_GPU):
            yield from _of(size, "cuda", runs=runs, aim=AIM if size in SIZES else None)


def operations(work: Callable[[], object]) -> int:
    """Multiplications and additions of matrices."""

    def attention(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))

    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with FlopCounterMode(display=False, custom_mapping={on_cpu: attention}) as counter:
        work()
    return int(counter.get_total_flops())


def _of(size: tuple[int, int], device: str, *, runs: int, aim: float | None) -> Iterator[Ratio]:
    width, vocabulary = size
    model, items = llama(layers=LAYERS, hidden=width, vocab=vocabulary, device=device), choices(ITEMS, tokens=TOKENS)
    vector = random_vector(model)
    prompts = [item.positive.prompt for item in items]
    assert all(encode(prompt, model.tokenizer).prompt_length == TOKENS for prompt in prompts)

    def packed() -> Any:
        return sk.sweep(model, vector, items, coefs=COEFS, path="packed", progress=False)

    def naive() -> torch.Tensor:
        return one_by_one(model, vector, items[:1])

    def forwards() -> None:
        with torch.no_grad():
            for prompt in prompts:
                ids = torch.tensor([encode(prompt, model.tokenizer).ids], device=model.hf.device)
                model.hf(input_ids=ids).logits[0, -1].cpu()

    _agree(packed(), naive(), items[0])
    where = f"threads {torch.get_num_threads()}" if device == "cpu" else torch.cuda.get_device_name()
    what = f"sweep, {LAYERS} x {width}, vocabulary {vocabulary}, {where}"
    fewer = operations(naive) * len(items) / operations(packed)
    one = ratio(f"{what}: one forward per cell / packed", packed, naive, runs=runs, inverse=True)
    scaled = [value * len(items) for value in (one.value, one.low, one.high)]
    goal = 0.9 * fewer if aim is None else aim
    yield Ratio(one.name, *scaled, f">= {goal:.3g} ({fewer:.3g} times the operations)", scaled[0] >= goal, runs)
    yield ratio(f"{what}: packed / one forward per item", packed, forwards, runs=runs, at_most=3)


def _agree(grid: Any, naive: torch.Tensor, item: ContrastPair) -> None:
    """Both ways find the same p(matching), so that the same work is compared."""
    matching = 0 if item.positive.letter == "A" else 1
    ours = grid.items[..., 0].reshape(-1).float()
    assert torch.allclose(ours, naive[:, matching], atol=1e-4), (ours - naive[:, matching]).abs().max()
