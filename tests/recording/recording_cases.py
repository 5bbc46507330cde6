"""Pairs to record, and what their activations are by transformers alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.data.chat import Prompt
from steerkit.data.encoding import encode
from steerkit.data.letters import encode_pair
from steerkit.data.pairs import ContrastPair, Pairs, Side
from steerkit.errors import InputError
from steerkit.recording import record
from steerkit.store import ActivationStore


def ask(text: str) -> Prompt:
    return Prompt([{"role": "user", "content": text}])


def choices(count: int = 6) -> Pairs:
    """Questions of different lengths; A and B take turns."""
    items = []
    for i in range(count):
        prompt, (good, bad) = (
            ask(f"Is {i} odd? {'x' * (7 * i % 11)} (A) yes (B) no"),
            ("(A)", "(B)")[:: 1 - 2 * (i % 2)],
        )
        items.append(ContrastPair(Side(prompt, good), Side(prompt, bad), id=f"q{i}"))
    return Pairs(items, name="odd")


def answers() -> Pairs:
    """Answers of different lengths, also of the two sides of one pair."""
    texts = [("I am glad", "I am so very sad"), ("Hooray, hooray!", "Oh no"), ("Joy", "Gloom and doom")]
    return Pairs([ContrastPair(Side(ask("Mood?"), a), Side(ask("Mood?"), b), id=a) for a, b in texts], name="mood")


def systems() -> Pairs:
    """Pairs that differ in their prompt alone."""
    items = []
    for i, text in enumerate(["Hi", "How are you?"]):
        sides = [
            Prompt([{"role": "system", "content": s}, {"role": "user", "content": text}]) for s in ("kind", "rude!")
        ]
        items.append(ContrastPair(Side(sides[0]), Side(sides[1]), id=f"s{i}"))
    return Pairs(items, name="systems")


@contextmanager
def torch_hook(module: Any, fn: Any) -> Iterator[None]:
    handle = module.register_forward_hook(fn)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def by_hand(model: HuggingFaceModel, side: Side) -> torch.Tensor:
    """Every block's output for every token `[layer, pos, hidden]`, one row, by transformers alone."""
    ids = torch.tensor([encode(side.prompt, model.tokenizer, answer=side.answer).ids])
    last: list[torch.Tensor] = []
    with torch_hook(model.parts.blocks[-1], lambda m, a, out: last.append(out if torch.is_tensor(out) else out[0])):
        out = model.hf(input_ids=ids, output_hidden_states=True, use_cache=False)
    return torch.stack([*out.hidden_states[1:-1], last[0]])[:, 0]


def expected(model: HuggingFaceModel, pair: ContrastPair, read: str | int) -> list[torch.Tensor]:
    encoded = encode_pair(pair, model.tokenizer)
    out = []
    for name in ("positive", "negative"):
        hidden = by_hand(model, getattr(pair, name))
        start = getattr(encoded, name).prompt_length
        if read == "mean":
            out.append(hidden[:, start:].mean(1))
        else:
            out.append(hidden[:, {"last": -1, "letter": encoded.shared}.get(str(read), read)])
    return out


def check(
    store: ActivationStore, model: HuggingFaceModel, pairs: Pairs, read: str | int, tolerance: float = 1e-5
) -> None:
    for i, pair in enumerate(pairs):
        positive, negative = expected(model, pair, read)
        for layer in store.layers:
            torch.testing.assert_close(store[layer].positive[i], positive[layer], atol=tolerance, rtol=tolerance)
            torch.testing.assert_close(store[layer].negative[i], negative[layer], atol=tolerance, rtol=tolerance)


def same(a: ActivationStore, b: ActivationStore, tolerance: float = 0.0) -> None:
    assert a.layers == b.layers
    assert a.ids == b.ids
    for layer in a.layers:
        torch.testing.assert_close(a[layer].positive, b[layer].positive, atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(a[layer].negative, b[layer].negative, atol=tolerance, rtol=tolerance)


def files(folder: Path) -> dict[str, bytes]:
    return {str(one.relative_to(folder)): one.read_bytes() for one in sorted(folder.rglob("*")) if one.is_file()}


def refused_mask(model: HuggingFaceModel) -> Any:
    """A model that takes no packed mask, as some do."""

    def refuse(_module: Any, args: Any, kwargs: Any) -> None:
        if kwargs["attention_mask"].ndim == 4:
            raise ValueError("this model takes no 4D mask")

    return model.parts.decoder.register_forward_pre_hook(refuse, with_kwargs=True)


def computed(model: HuggingFaceModel, *args: Any, **kwargs: Any) -> int:
    """How often the model runs before it is refused."""
    count: list[int] = []
    with torch_hook(model.parts.blocks[0], lambda *_: count.append(1)):
        try:
            record(model, *args, **kwargs)
        except InputError:
            return len(count)
    raise AssertionError("not refused")


def sycophancy(data_root: Path, count: int) -> Pairs:
    """The first items of CAA's own file."""
    path = data_root / "data/caa/datasets/generate/sycophancy/generate_dataset.json"
    items = []
    for i, one in enumerate(json.loads(path.read_text())[:count]):
        prompt = ask(one["question"])
        sides = [Side(prompt, one[f"answer_{kind}matching_behavior"].strip()) for kind in ("", "not_")]
        items.append(ContrastPair(sides[0], sides[1], id=str(i)))
    return Pairs(items, name="sycophancy")


def run_program(name: str, words: str) -> Any:
    """Run a program that lies beside the tests, on one thread; what it prints as JSON."""
    here = Path(__file__).parent
    paths = os.pathsep.join(map(str, (here.parents[1], here.parent)))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, str(here / name), words]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)
