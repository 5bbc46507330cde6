"""Real pretrained weights: a mood vector in LoRA weights moves the words of a chat model as the hook does."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import steerkit as sk

sys.path.insert(0, str(Path(__file__).parent))
from mood import HELD_OUT, QUESTIONS, chat, mood, pairs

LAYER, COEF = 3, 2.0
NEW_TOKENS, REPEATS = 20, 48
FRACTION = 1 / 3
FIT = sk.Fit(steps=100, lr=3e-3, batch=8, schedule="linear", warmup=0.05)
UNTRAINED = sk.Fit(steps=1, lr=1e-9, batch=1)


@dataclass(frozen=True)
class Words:
    """Cheerful less gloomy words an answer. The questions are the same for all, so the error is that of sampling."""

    mean: float
    error: float

    def less(self, other: Words) -> Words:
        return Words(self.mean - other.mean, (self.error**2 + other.error**2) ** 0.5)

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ± {self.error:.3f}"


def words(speaker: Any) -> Words:
    torch.manual_seed(0)
    prompts = [chat(question) for question in HELD_OUT] * REPEATS
    scores = mood(speaker.generate(prompts, max_new_tokens=NEW_TOKENS, do_sample=True)).view(REPEATS, len(HELD_OUT))
    return Words(float(scores.mean()), float(scores.var(0).mean() / scores.numel()) ** 0.5)


def follows(weights: Words, hook: Words) -> bool:
    """The hook moves the words beyond chance, and the weights the same way, by nearly as much."""
    clear = abs(hook.mean) > 6 * hook.error
    return clear and abs(weights.mean - hook.mean) <= FRACTION * abs(hook.mean)


def distilled(model: Any, vector: sk.SteeringVector, fit: sk.Fit) -> sk.Distilled:
    texts = [*pairs(), *[chat(question) for question in QUESTIONS] * 4]
    return sk.distill(model, vector, prompts=texts, layer=LAYER, coef=COEF, max_new_tokens=NEW_TOKENS, fit=fit,
                      progress=False)  # fmt: skip


@pytest.mark.slow
def test_the_mood_vector_in_the_weights_moves_the_words_as_the_hook_does(data_root: Path) -> None:
    """One adapter, trained upwards on other questions: its scale does what the sign of the coefficient does."""
    model = sk.load(data_root / "models" / "CraftGPT-5M-chat", dtype="float32")
    train, _ = sk.record(model, pairs(), read="mean", progress=False).split(test=0.25, seed=0)
    vector = sk.extract(train)
    base = words(model)
    up, down = (words(sk.Steer(model).add(vector, layer=LAYER, coef=c)).less(base) for c in (COEF, -COEF))
    assert up.mean > 0 > down.mean
    tuned = distilled(model, vector, FIT)
    print(f"\nbase {base}\nhook {up}, {down}; {tuned.missing:.3f} of the shift missing in training")
    for scale, hook in ((1.0, up), (-1.0, down)):
        moved = words(tuned.on(scale=scale)).less(base)
        print(f"weights at scale {scale:+g}: {moved}, {moved.mean / hook.mean:.2f} of the hook's")
        assert follows(moved, hook)
    assert torch.equal(tuned.on(scale=0).forward(chat(HELD_OUT[0])), model.forward(chat(HELD_OUT[0])))
    nothing = words(distilled(model, vector, UNTRAINED)).less(base)
    print(f"an adapter that was not trained: {nothing}")
    assert not follows(nothing, up)
    assert not follows(nothing, down)
