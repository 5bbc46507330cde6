"""Aligning the embedded model by preferences, in a process of its own: `python -m steerkit.demo.aligning SOURCE OUT`.

It needs nothing of what the demo finds out before, so it runs beside that, on half of the cores.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from steerkit.adapters import Adapter, Lora
from steerkit.backends.loading import load
from steerkit.data.preferences import load_preferences
from steerkit.demo.preferences import BAD, GOOD
from steerkit.errors import SteerkitError
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


class Aligning:
    """A process that aligns the model in every way, and says each time when it is done."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process, self._folder = process, folder

    def adapters(self) -> Iterator[tuple[str, Adapter]]:
        """What each way is called, and what came of it, as soon as it is there.

        Raises:
            SteerkitError: The process failed.
        """
        assert self._process.stdout is not None
        for name in MODES.values():
            if self._process.stdout.readline().strip() != name:
                raise SteerkitError(f"{name}: aligning the model ended with code {self._process.wait()}; what it said "
                                    "stands above")  # fmt: skip
            yield name, Adapter.load(self._folder / name)


@contextmanager
def aligning(source: str | Path, folder: Path) -> Iterator[Aligning]:
    """Begin to align, and leave half of the cores to it; at the end it is stopped, done or not.

    Args:
        source: Of the model.
        folder: Where the adapters go, each into a folder of its name.
    """
    threads = torch.get_num_threads()
    half = max(threads // 2, 1)
    words = [sys.executable, "-m", "steerkit.demo.aligning", str(source), str(folder), "--threads", str(half)]
    torch.set_num_threads(max(threads - half, 1))
    try:
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield Aligning(process, folder)
            finally:
                process.terminate()
    finally:
        torch.set_num_threads(threads)


def main() -> None:
    """Align in every way, save what came of it, and say so."""
    import argparse

    from transformers.utils import logging

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("out", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    logging.disable_progress_bar()
    model = load(given.source, dtype="float32")
    for mode, name in MODES.items():
        align(model, mode).adapter.save(given.out / name)
        print(name, flush=True)


if __name__ == "__main__":
    main()
