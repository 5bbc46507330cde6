"""Tokens per second of steered generation, as a share of the unsteered model's."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

import steerkit as sk
from benchmarks.subjects import llama, random_vector
from benchmarks.timing import Ratio, ratio

TOKENS = 48


def run(*, runs: int = 15) -> Iterator[Ratio]:
    """One edited layer of 16; batches of 1 and 16; the same with another coefficient in every row.

    A turn of batch 1 is short and what it costs in Python varies most, so it has more turns.
    """
    model = llama()
    vector = random_vector(model)
    for batch in (1, 16):
        prompts = ["What is true of the sea, and why?"] * batch

        def generate(subject: object, prompts: list[str] = prompts) -> Callable[[], object]:
            options = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False}
            return lambda: subject.generate(prompts, **options)  # type: ignore[attr-defined]

        one = sk.Steer(model).add(vector, layer=8, coef=0.1)
        rows = sk.Steer(model).add(vector, layer=8, coef=torch.linspace(-0.1, 0.1, batch))
        for name, steer in (("one coefficient", one), ("one per row", rows)):
            yield ratio(
                f"generate, batch {batch}, {name}: steered tokens/s / unsteered",
                generate(steer), generate(model), runs=3 * runs if batch == 1 else runs, at_least=0.97, inverse=True,
            )  # fmt: skip
