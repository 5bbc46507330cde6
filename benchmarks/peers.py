"""Against installed peers in a folder of their own: they do not install beside transformers 5."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import steerkit as sk
from benchmarks.subjects import choices, llama
from benchmarks.timing import Ratio, ratio
from steerkit.data.encoding import encode

FOLDER = Path(__file__).parent.parent / ".venv-peers"
PEERS = ("steering-vectors==0.12.2", "repeng==0.4.0", "gguf==0.19.0")
TOKENS = 48


def _install() -> None:
    """Without their dependencies, which would pull older versions of ours."""
    if not (FOLDER / "steering_vectors").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(FOLDER)]
        subprocess.run([*pip, *PEERS], check=True)
    sys.path.append(str(FOLDER))


def run(*, runs: int = 7) -> Iterator[Ratio]:
    """The same pairs, model, layers and batch size; results are first shown to agree."""
    _install()
    yield _record_against_steering_vectors(runs)
    yield from _generate_against_peers(runs)


def _record_against_steering_vectors(runs: int) -> Ratio:
    from steering_vectors import train_steering_vector

    model, pairs = llama(), choices(64)
    texts = [
        tuple(encode(side.prompt, model.tokenizer, answer=side.answer).text for side in (pair.positive, pair.negative))
        for pair in pairs
    ]

    def theirs() -> Any:
        return train_steering_vector(
            model.hf, model.tokenizer, texts, read_token_index=-2, batch_size=16, move_to_cpu=True
        )

    def ours() -> Any:
        return sk.extract(sk.record(model, pairs, batch_size=16, progress=False))

    mine, other = ours(), theirs()
    for layer, value in other.layer_activations.items():
        assert torch.allclose(mine[layer], value, atol=1e-4), f"layer {layer} differs"
    return ratio("record and extract: steerkit / steering-vectors", ours, theirs, runs=runs, at_most=0.6)


def _generate_against_peers(runs: int) -> Iterator[Ratio]:
    np.float_ = np.float64  # type: ignore[attr-defined]  # repeng names it, numpy 2 has dropped it
    from repeng import ControlModel, ControlVector
    from steering_vectors import SteeringVector

    model, layer = llama(), 8
    direction = 0.1 * torch.randn(model.info.hidden_size)
    prompts = ["What is true of the sea, and why?"]
    options: dict[str, Any] = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False}
    tokens = model.encode(prompts)
    given = {"input_ids": tokens.input_ids, "attention_mask": tokens.real.long(), "pad_token_id": 0, **options}
    steer = sk.Steer(model).add(direction, layer=layer, positions="all")

    def ours() -> Any:
        return steer.generate(prompts, **options)

    def steering_vectors() -> Any:
        with SteeringVector({layer: direction}, "decoder_block").apply(model.hf):
            return model.hf.generate(**given)

    assert ours() == model.tokenizer.batch_decode(
        steering_vectors()[:, tokens.input_ids.shape[1] :], skip_special_tokens=True
    )
    yield _ratio("generate: steerkit / steering-vectors", ours, steering_vectors, runs)
    wrapped = ControlModel(model.hf, [layer])
    vector = ControlVector("llama", {layer: direction.numpy()})

    def repeng() -> Any:
        wrapped.set_control(vector)
        return wrapped.generate(**given)

    other = llama()
    steer = sk.Steer(other).add(direction, layer=layer, positions="all")
    yield _ratio("generate: steerkit / repeng", ours, repeng, runs)


def _ratio(name: str, ours: Callable[[], Any], theirs: Callable[[], Any], runs: int) -> Ratio:
    return ratio(name, ours, theirs, runs=runs, at_most=1.03)
