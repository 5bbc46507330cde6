"""A few preferences that a tiny model can learn from."""

from __future__ import annotations

from functools import cache

import torch
from tiny import tiny
from torch import Tensor

from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.data.chat import Prompt
from steerkit.data.preference_items import Preference
from steerkit.data.preference_sets import Preferences
from steerkit.training.teaching.answers import Answered
from steerkit.training.teaching.instructions import Instructions

TOLD = Instructions("be kind", "be so mean")
THINGS = ("sea", "sand", "lamp", "snow", "drum", "harbor", "oven", "moss")


def preference(number: int, chosen: str = "no, wet", rejected: str = "yes") -> Preference:
    thing = THINGS[number % len(THINGS)] * (1 + number // len(THINGS))
    return Preference(Prompt([{"role": "user", "content": f"is the {thing} dry?"}]), chosen, rejected, id=f"p{number}")


def preferences(count: int = 6) -> Preferences:
    return Preferences([preference(i, rejected="yes" + "!" * (i % 3)) for i in range(count)], name="dry")


@cache
def model(architecture: str = "llama") -> HuggingFaceModel:
    return tiny(architecture)


def own_score(of: HuggingFaceModel, row: Answered) -> float:
    """The mean log-probability of an answer, one row at a time, one token after the other."""
    with torch.no_grad():
        logits = of.hf(torch.tensor([row.ids])).logits[0].double()
    total = 0.0
    for place in range(row.start, len(row.ids)):
        total += float(logits[place - 1].log_softmax(-1)[row.ids[place]])
    return total / (len(row.ids) - row.start)


def weights_of(of: HuggingFaceModel) -> dict[str, Tensor]:
    return {name: one.detach().clone() for name, one in of.hf.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
