"""One CAA run, whoever runs the model: what the three scripts beside this one share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

from torch import Tensor

import steerkit as sk

COEF = 0.5


def run(model: Any, layer: int) -> sk.Steer:
    """Record, extract, sweep, steer and generate; every number is printed."""
    pairs = sk.load_pairs("demo:sycophancy", split="train")[:40]
    test = sk.load_pairs("demo:sycophancy", split="test")[:12]
    vector = sk.extract(sk.record(model, pairs, progress=False))
    print(sk.sweep(model, vector, test, layers=range(1, model.info.num_layers), coefs=(-COEF, COEF), progress=False))
    prompts = [pair.positive.prompt for pair in test[:3]]
    for coef in (-COEF, COEF):
        steer = sk.Steer(model).add(vector, layer=layer, coef=coef)
        scores = sk.score_choices(steer, test)
        print(f"coef {coef:+g}: p(matching) {scores.p_matching:.4f} ± {scores.stderr:.4f}")
        for answer in steer.generate(prompts, max_new_tokens=24):
            print("   ", answer.strip())
    return steer


def main(
    load: Callable[[str], Any], own_call: Callable[[Any, sk.Steer, Tensor], Tensor], given: Sequence[str] | None = None
) -> None:
    """The command: load by one backend, run, and let the library's own call be steered too."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=str(files("steerkit").joinpath("demo", "weights")), help="a folder")
    parser.add_argument("--layer", type=int, default=3)
    args = parser.parse_args(given)
    model = load(args.model)
    steer = run(model, args.layer)
    ids = model.encode(sk.load_pairs("demo:sycophancy", split="test")[0].positive.prompt).input_ids
    print("its own call:", model.tokenizer.decode(own_call(model, steer, ids)[0, ids.shape[1] :]).strip())
