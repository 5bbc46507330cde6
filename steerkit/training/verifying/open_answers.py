"""What models say on their own: how long it is, and how much of it they say again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.backends.base import Model
from steerkit.data.chat import Prompt
from steerkit.data.encoding import encode
from steerkit.evaluation.generations import Generator
from steerkit.evaluation.intervals import Difference, paired_difference
from steerkit.tables import Cell, Table, Tabular

GRAM = 3
"""Tokens in a row that count as a repetition where they come again."""


@dataclass(frozen=True, repr=False, eq=False)
class OpenAnswers(Tabular):
    """Greedy answers to the same prompts.

    Args:
        texts: By name of the model, an answer a prompt.
        length: Tokens of each answer.
        repeated: Share of each answer's runs of three tokens that came before in it; 0 for short ones.
    """

    texts: Mapping[str, tuple[str, ...]]
    length: Mapping[str, Float[Tensor, " prompt"]]
    repeated: Mapping[str, Float[Tensor, " prompt"]]

    def longer(self, name: str, other: str) -> Difference:
        """How many more tokens one says than another, prompt by prompt."""
        return paired_difference(self.length[name], self.length[other])

    def loops(self, name: str, other: str) -> Difference:
        """How much more one repeats itself than another, prompt by prompt."""
        return paired_difference(self.repeated[name], self.repeated[other])

    def table(self) -> Table:
        """What is shown of it."""
        rows: list[list[Cell]] = [
            [name, float(self.length[name].mean()), float(self.repeated[name].mean()), *of[:1]]
            for name, of in self.texts.items()
        ]
        return Table(["model", "tokens", "repeated", "for example"], rows, "Greedy answers")

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            name: {"length": self.length[name].tolist(), "repeated": self.repeated[name].tolist(), "texts": list(of)}
            for name, of in self.texts.items()
        }


def repetition(ids: Sequence[int]) -> float:
    """Share of the runs of three tokens that came before.

    Example:
        >>> repetition([1, 2, 3, 4, 5]), repetition([1, 1, 1, 1, 1, 1])
        (0.0, 0.75)
    """
    grams = [tuple(ids[i : i + GRAM]) for i in range(len(ids) - GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def answer_openly(
    models: Mapping[str, Generator], prompts: Sequence[Prompt], model: Model, *, max_new_tokens: int, rows: int
) -> OpenAnswers:
    """Let every model answer, greedily.

    Args:
        models: By name.
        prompts: What is asked; one that leaves no room for an answer is left out.
        model: Whose tokenizer counts, and whose context bounds the answers.
        max_new_tokens: The most tokens of an answer.
        rows: Prompts at a time.
    """
    lengths = [len(encode(one, model.tokenizer).ids) for one in prompts]
    room = len(prompts) * [max_new_tokens]
    if model.info.context is not None:
        room = [min(max_new_tokens, model.info.context - length) for length in lengths]
    asked = [i for i in sorted(range(len(prompts)), key=lengths.__getitem__) if room[i] > 0]
    texts: dict[str, list[str]] = {name: [""] * len(prompts) for name in models}
    for start in range(0, len(asked), rows):
        some = asked[start : start + rows]
        for name, one in models.items():
            most = min(room[i] for i in some)
            found = one.generate([prompts[i] for i in some], max_new_tokens=most, do_sample=False)
            for i, text in zip(some, found, strict=True):
                texts[name][i] = text
    ids = {name: [_ids(text, model) for text in of] for name, of in texts.items()}
    return OpenAnswers(
        {name: tuple(of) for name, of in texts.items()},
        {name: torch.tensor([float(len(one)) for one in of]) for name, of in ids.items()},
        {name: torch.tensor([repetition(one) for one in of]) for name, of in ids.items()},
    )


def _ids(text: str, model: Model) -> list[int]:
    return [int(one) for one in model.tokenizer(text, add_special_tokens=False)["input_ids"]] if text else []
