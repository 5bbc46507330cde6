"""Preferences and readings for the tests of differences."""

from __future__ import annotations

from typing import Any

import torch
from tiny import tiny

from steerkit.adapters import Adapter, Lora, attach
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.data.chat import Prompt
from steerkit.data.preference_items import Preference
from steerkit.data.preference_sets import Preferences
from steerkit.training.differences.contrasts import Contrast, Reading, find_contrast
from steerkit.training.differences.online_differences import OnlineDifferences, online_differences
from steerkit.training.teaching.instructions import Instructions
from steerkit.training.teaching.taught import Taught

TOLD = Instructions("Be glad.", "Be grim.")
SAID = (("Yes, it is.", "No."), ("Good day to you!", "Go."), ("A.", "Bad, bad, bad."), ("Sure", "Nope, never"))


def preferences(count: int = 6) -> Preferences:
    items = [
        Preference(
            Prompt([{"role": "user", "content": f"Question {i}{'?' * (i % 3)}"}]), *SAID[i % len(SAID)], id=f"q{i}"
        )
        for i in range(count)
    ]
    return Preferences(items, name="made")


def adapter(model: HuggingFaceModel, seed: int, *, blocks: list[int] | None = None, zero: bool = False) -> Adapter:
    """A LoRA adapter that changes something (or, with `zero`, nothing yet)."""
    torch.manual_seed(seed)
    config = Lora(r=2, dropout=0.0, targets="all-linear", blocks=blocks).config(model)
    with attach(model, {"made": config}) as attached:
        for parameter in attached.parameters("made"):
            if not zero:
                torch.nn.init.normal_(parameter.data, std=0.05)
        return attached.adapter("made", meta={"model": model.info.as_dict()})


def scit(model: HuggingFaceModel, *, seed: int = 1, zero: bool = False) -> Taught:
    return Taught("scit", TOLD, {"taught": adapter(model, seed, zero=zero)})


def dual(model: HuggingFaceModel) -> Taught:
    return Taught("dual", None, {"good": adapter(model, 1), "bad": adapter(model, 2)})


def lorra(**changes: Any) -> Contrast:
    return find_contrast(instructions=TOLD, **changes)


def online(
    contrast: Contrast | None = None, *, model: HuggingFaceModel | None = None, **options: Any
) -> OnlineDifferences:
    model = model or tiny()
    options = {"layers": [1, 2], "responses": "both", **options}
    return online_differences(model, preferences(), contrast or lorra(), **options)


def twice(tone: Any = "good") -> Contrast:
    """The same reading on both sides."""
    return Contrast("none", Reading((), tone), Reading((), tone), instructions=TOLD)
