"""Sampled answers to the demo's open questions, read by the rule scorer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch

from steerkit.demo import data_path
from steerkit.demo.scoring import score_answer
from steerkit.steering import Steer
from steerkit.vectors import SteeringVector

NEW_TOKENS = 40


@dataclass(frozen=True)
class OpenScore:
    """What open answers came to.

    Args:
        positive: Share of the positive pole among the answers that parse and stay on topic.
        on_topic: Share of all answers that do.
        questions: What was asked.
        answers: What was answered.
    """

    positive: float
    on_topic: float
    questions: tuple[str, ...]
    answers: tuple[str, ...]


def read_questions(behavior: str, split: str) -> list[dict[str, str]]:
    """The open questions of a behavior, each with what the scorer must know of it."""
    return list(json.loads(data_path(behavior, split, kind="open").read_text("utf-8")))


def score_open(
    model: Any,
    behavior: str,
    *,
    vector: SteeringVector | None = None,
    layer: int = 0,
    coef: float = 0.0,
    split: str = "test",
    count: int | None = None,
) -> OpenScore:
    """Sample one answer to each question, steered or not, and read them by rule.

    Args:
        model: The embedded model.
        behavior: What is asked about and scored.
        vector: Steers at `layer` by `coef`; without it the model is itself.
        layer: Where.
        coef: How much.
        split: Topics seen in training, or held out.
        count: Only so many questions.
    """
    items = read_questions(behavior, split)[:count]
    prompts = [[{"role": "user", "content": item["question"]}] for item in items]
    speaker = model if vector is None else Steer(model).add(vector, layer=layer, coef=coef)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        answers = speaker.generate(prompts, max_new_tokens=NEW_TOKENS, do_sample=True, temperature=1.0, top_k=0)
    verdicts = [score_answer(behavior, item, text) for item, text in zip(items, answers, strict=True)]
    good = [v for v in verdicts if v.parses and v.on_topic]
    positive = sum(bool(v.positive) for v in good) / max(len(good), 1)
    asked = tuple(item["question"] for item in items)
    return OpenScore(positive, len(good) / len(items), asked, tuple(answer.strip() for answer in answers))
