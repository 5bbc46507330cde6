"""A layer-by-coefficient sweep against one forward pass per cell, as CAA's code does it."""

from __future__ import annotations

from collections.abc import Iterator

import steerkit as sk
from benchmarks.subjects import choices, llama, random_vector
from benchmarks.timing import Ratio, ratio
from steerkit.data.encoding import encode

COEFS = (-1.0, -0.5, 0.0, 0.5, 1.0)


def run(*, runs: int = 5) -> Iterator[Ratio]:
    """16 layers, 120-token prompts, 5 coefficients."""
    model, items = llama(), choices(8)
    vector = random_vector(model)
    prompts = [item.positive.prompt for item in items]
    assert all(encode(prompt, model.tokenizer).prompt_length == 120 for prompt in prompts)

    def packed() -> None:
        sk.sweep(model, vector, items, coefs=COEFS, path="packed", progress=False)

    def naive() -> None:
        sk.sweep(model, vector, items[:1], coefs=COEFS, path="naive", progress=False)

    def forwards() -> None:
        for prompt in prompts:
            model.forward([prompt])

    one = ratio("sweep: naive loop / packed, per item", packed, naive, runs=runs, inverse=True)
    factor = len(items)
    scaled = [value * factor for value in (one.value, one.low, one.high)]
    yield Ratio(one.name, *scaled, ">= 100", scaled[0] >= 100, runs)
    yield ratio("sweep: packed / one forward per item", packed, forwards, runs=runs, at_most=3)
