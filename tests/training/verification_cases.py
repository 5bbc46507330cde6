"""Weights whose faults are known, and a model to try them on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from tiny import tiny
from torch import Tensor

from steerkit.adapters import Adapter, Lora, attach
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.data.chat import Prompt
from steerkit.data.pairs import ContrastPair, Side
from steerkit.interchange.bias_adapter import bias_adapter
from steerkit.points import Point
from steerkit.positions import Positions
from steerkit.steering import Steer

LAYER = 2
QUESTION = [{"role": "user", "content": "What is it?"}]
PROMPTS = [
    Prompt(QUESTION, prefill="a word"),
    Prompt("And so", prefill=" we went on and on"),
    Prompt("x", prefill="yz"),
]


def vector(seed: int = 1) -> Tensor:
    return torch.randn(32, generator=torch.Generator().manual_seed(seed))


def hook(model: HuggingFaceModel, *, coef: float = 1.0, positions: Positions = "all") -> Steer:
    return Steer(model).add(vector(), layer=LAYER, coef=coef, positions=positions)


def constant(model: HuggingFaceModel, *, coef: float = 1.0, seed: int = 1) -> Adapter:
    """Exactly the hook at all positions."""
    return bias_adapter(model, vector(seed), layer=LAYER, coef=coef)


def random_adapter(model: HuggingFaceModel, *, size: float, seed: int = 0) -> Adapter:
    """Random weights in every linear layer up to the edited one."""
    with attach(model, {"made": Lora(r=2, targets="all-linear").config(model, blocks=range(LAYER + 1))}) as attached:
        blank = attached.adapter("made")
    source = torch.Generator().manual_seed(seed)
    weights = {name: size * torch.randn(one.shape, generator=source) for name, one in blank.weights.items()}
    return Adapter(blank.config, weights, {"model": model.info.as_dict()})


def zero_adapter(model: HuggingFaceModel) -> Adapter:
    return random_adapter(model, size=0.0)


def pairs(count: int = 6) -> list[ContrastPair]:
    made = []
    for i in range(count):
        prompt = Prompt([{"role": "user", "content": f"Is {i} odd? (A) (B)"}])
        made.append(ContrastPair(Side(prompt, "(A)"), Side(prompt, "(B)"), id=str(i)))
    return made


class Stuck(Adapter):
    """An adapter that does not let itself be scaled."""

    def on(self, model: HuggingFaceModel, *, scale: float = 1.0, override: bool = False) -> Any:
        return super().on(model, override=override)


class OnSome:
    """A shift of the rows whose prompt fulfills a condition: weights that learned the form of a prompt.

    Args:
        model: The base.
        value: What is added, at every token of such a row.
        layer: Where.
        least: The fewest tokens of such a prompt.
        most: The most.
    """

    active = False

    def __init__(
        self, model: HuggingFaceModel, value: Tensor, *, layer: int, least: int = 0, most: int = 10**6
    ) -> None:
        self.model, self.value, self.layer, self.ends = model, value, layer, (least, most)
        self.stack = ExitStack()

    def __enter__(self) -> OnSome:
        self.stack.enter_context(self.model.hook(Point(self.layer), self._add))
        return self

    def __exit__(self, *error: Any) -> None:
        self.stack.close()

    def _add(self, hidden: Tensor, pass_: Any) -> Tensor:
        chosen = (pass_.prompt_length >= self.ends[0]) & (pass_.prompt_length <= self.ends[1])
        return hidden + chosen[:, None, None] * self.value

    def forward(self, prompts: Any, *, columns: Sequence[int] | None = None) -> Tensor:
        with self:
            return self.model.forward(prompts, columns=columns)

    def generate(self, prompts: Any, *, max_new_tokens: int = 64, **decoding: Any) -> list[str]:
        with self:
            return self.model.generate(prompts, max_new_tokens=max_new_tokens, **decoding)


__all__ = ["LAYER", "PROMPTS", "OnSome", "Stuck", "constant", "hook", "pairs", "random_adapter", "tiny", "vector",
           "zero_adapter"]  # fmt: skip
