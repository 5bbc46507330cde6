"""One run after another through a backend, and what every backend must give alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tiny import tiny_hf, tiny_tokenizer
from torch import Tensor

import steerkit as sk
from steerkit.backends.base import Batch, pad
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.backends.loading import BACKENDS, _backend
from steerkit.data.chat import Prompt
from steerkit.data.pairs import ContrastPair, Pairs, Side
from steerkit.points import Point, Site
from steerkit.positions import Pass

OTHERS = tuple(name for name in BACKENDS if name != "huggingface")
TOLERANCE = 1e-5
SCOPES: tuple[Any, ...] = (
    "all",
    "prompt",
    "generation",
    0,
    -1,
    2,
    [0, -2],
    slice(1, 4),
    slice(-3, None),
    slice(0, 9, 2),
)
DECODING: dict[str, dict[str, Any]] = {
    "greedy": {},
    "without a cache": {"use_cache": False},
    "sampled": {"do_sample": True, "temperature": 1.3},
    "beams": {"num_beams": 3},
    "several": {"do_sample": True, "num_return_sequences": 2},
    "several beams": {"num_beams": 4, "num_return_sequences": 2},
}


def plain(architecture: str, *, seed: int = 0) -> HuggingFaceModel:
    """What the others are held against: eager attention, as TransformerLens runs it."""
    return HuggingFaceModel.wrap(eager(architecture, seed=seed), tiny_tokenizer(), name=architecture)


def other(backend: str, architecture: str, *, seed: int = 0) -> Any:
    """The same weights under another backend."""
    return _backend(backend).wrap(eager(architecture, seed=seed), tiny_tokenizer(), name=architecture)


def eager(architecture: str, *, seed: int = 0) -> Any:
    return tiny_hf(architecture, seed=seed, attn_implementation="eager")


def distance(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    assert found.shape == wanted.shape
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-6))


def two_rows() -> Batch:
    return pad([[5, 6, 7, 8, 9, 10, 11, 12], [13, 14, 15]], [6, 2], pad_id=0)


def site_logits(model: Any, point: Point) -> Tensor:
    """Logits after an addition at the second and later tokens of two rows, one of them padded."""
    vector = torch.randn(model.info.width(point.site), generator=torch.Generator().manual_seed(0))
    batch = two_rows()

    def add(hidden: Tensor, pass_: Pass) -> Tensor:
        return torch.where((pass_.position >= 1).unsqueeze(-1), hidden + vector, hidden)

    with model.hook(point, add):
        return model.forward(batch)[batch.real]


def letter_pairs() -> Pairs:
    questions = ("Is the sea dry?", "Do cows fly over the moon?", "Is it?", "Would you mind if we shut you down?")
    made = []
    for i, question in enumerate(questions):
        prompt = Prompt([{"role": "user", "content": f"{question} (A) Yes (B) No"}])
        sides = ("(A)", "(B)") if i % 2 else ("(B)", "(A)")
        made.append(ContrastPair(Side(prompt, sides[0]), Side(prompt, sides[1]), id=f"q{i}"))
    return Pairs(made)


def measured(model: Any, pairs: Pairs, test: Pairs, *, site: Site = "resid_post") -> tuple[dict[str, Tensor], Any]:
    """The numbers of record, extract, score_choices and sweep, and the vector."""
    store = sk.record(model, pairs, site=site, progress=False)
    vector = sk.extract(store)
    layer = vector.layers[len(vector.layers) // 2]
    steered = sk.Steer(model).add(vector, layer=layer, coef=0.5)
    return {
        "recorded": torch.stack([store[one].positive for one in store.layers]),
        "vector": vector.values,
        "scores": sk.score_choices(model, test).items.p_matching,
        "steered scores": sk.score_choices(steered, test).items.p_matching,
        "sweep": sk.sweep(model, vector, test, coefs=(-1, 1), progress=False).items,
    }, vector


def answers(
    model: Any, vector: Any, prompts: Sequence[str], *, positions: Any, tokens: int = 6, **decoding: Any
) -> tuple[list[str], list[tuple[int, int]], Tensor]:
    """What is answered under an addition, what its receipts say, and the steered logits of the prompts."""
    layer = model.info.num_layers // 2
    with sk.Steer(model).add(vector, layer=layer, coef=2.0, positions=positions) as steer:
        torch.manual_seed(3)
        texts = model.generate(list(prompts), max_new_tokens=tokens, **decoding)
        receipts = [(one.passes, one.tokens) for one in steer.receipts]
        batch = model.encode(list(prompts))
        return texts, receipts, model.forward(batch)[batch.real]
