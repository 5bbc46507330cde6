"""Aligning the embedded model by preferences, in a process of its own: `python -m steerkit.demo.aligning SOURCE OUT`.

It needs nothing of what the demo finds out before, so it runs beside that, on half of the cores. Measuring what came of
it is shared out, for both are done at about the same time: LORRA is measured there, where the demo runs, the rest here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from steerkit.adapters import Lora
from steerkit.backends.loading import load
from steerkit.data.preferences import load_preferences
from steerkit.demo.arms import measure
from steerkit.demo.beside import half
from steerkit.demo.preferences import BAD, GOOD
from steerkit.training.alignment import rahf
from steerkit.training.differences.contrasts import Start
from steerkit.training.fitting.fit import Fit
from steerkit.training.rahf_report import Rahf
from steerkit.training.teaching.course import LORA as TEACHING_LORA
from steerkit.training.teaching.course import teach
from steerkit.training.teaching.instructions import Instructions

Mode = Literal["none", "scit", "dual"]
TEACH = Fit(steps=60, lr=2e-3, batch=8, schedule="linear", warmup=0.1)
DISTIL = Fit(steps=60, lr=4e-3, batch=16)
LORA = Lora(targets="all-linear", dropout=0.0)
SMOOTHING: Mapping[str, float] = {"none": 0.0, "scit": 0.2, "dual": 0.0}
"""As in RAHF's code: it ends the push for ever larger margins, which took the mood along."""
LAYERS = (3,)
"""Where this model decides. Like strength, blocks and the beginning it was chosen on training topics: the least mood
moved, for what own answers moved."""
BLOCKS: Mapping[str, Sequence[int] | None] = {"none": None, "scit": (0, 1, 2, 3), "dual": None}
"""That are taught. What SCIT teaches to later ones goes past the layer that is read."""
START: Mapping[str, Start] = {"none": "base", "scit": "base", "dual": "taught"}
"""Taught by SCIT and told nothing, this model always agrees, which is further to go than from the base."""
ALPHA: Mapping[str, float] = {"none": 5.0, "scit": 0.35, "dual": 1.0}
MODES: Mapping[Mode, str] = {"none": "LORRA", "scit": "RAHF-SCIT", "dual": "RAHF-Dual"}


def align(model: Any, mode: Mode, *, discriminate: bool = False) -> Rahf:
    """Align the model by the demo's preferences.

    Args:
        model: The embedded model.
        mode: How it is taught.
        discriminate: Also say how well what was taught tells held-out answers apart.
    """
    preferences = load_preferences("demo", split="train")
    told = None if mode == "dual" else Instructions(GOOD, BAD)
    first, _, third = preferences.split()
    held_out = third if discriminate else None
    taught = teach(model, first, mode=mode, instructions=told, smoothing=SMOOTHING[mode], held_out=held_out,
                   lora=replace(TEACHING_LORA, blocks=BLOCKS[mode]), fit=TEACH, progress=False)  # fmt: skip
    return rahf(model, preferences, mode=mode, alpha=ALPHA[mode], layers=LAYERS, taught=taught, start=START[mode],
                positions="generation", lora=LORA, fit=DISTIL, progress=False)  # fmt: skip


def main() -> None:
    """Align in every way and save what came of it; then measure all but the first, a line of JSON each."""
    import argparse

    from transformers.utils import logging

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(half(torch.get_num_threads()))
    logging.disable_progress_bar()
    model = load(given.source, dtype="float32")
    made = {name: align(model, mode).adapter for mode, name in MODES.items()}
    for name, adapter in made.items():
        adapter.save(given.out / name)
    print("aligned", flush=True)
    for name in list(made)[1:]:
        print(measure(model, name, made[name]).to_json(), flush=True)


if __name__ == "__main__":
    main()
