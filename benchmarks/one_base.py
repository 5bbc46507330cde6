"""Peak memory of a training step: one base with named adapters, against a copy of the base for each role.

`python -m benchmarks.one_base ours | 2 | 4` prints the peak of this process beyond its libraries, in MB. RAHF's code
holds two models for SCIT (the taught one and the student's) and four for DUAL (good, bad, base and student).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from benchmarks.distilling import model_of
from benchmarks.timing import Ratio
from steerkit.adapters import Lora, attach
from steerkit.backends.base import pad
from steerkit.points import Point

HIDDEN, LAST = 768, 9
ROWS = pad([list(range(4, 68))] * 2, [32, 32], pad_id=0)


def peak() -> float:
    """Highest resident size of this process so far, in MB (`getrusage` would count the parent's too)."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def ours() -> None:
    """Good, bad, base and student are one base with other adapters switched on."""
    model = model_of(hidden=HIDDEN)
    form = Lora(dropout=0.0).config(model, blocks=range(LAST + 1))
    names = ("good", "bad", "student")
    with attach(model, dict.fromkeys(names, form)) as attached:
        attached.parameters("student")
        found: dict[str, torch.Tensor] = {}

        def keep(name: str, hidden: torch.Tensor, _pass: object) -> None:
            found[name] = hidden

        for name, on in (("base", ()), ("good", ("good",)), ("bad", ("bad",)), ("student", ("student",))):
            with (
                torch.set_grad_enabled(name == "student"),
                attached.only(*on),
                model.hook(Point(LAST), partial(keep, name)),
            ):
                model.run(ROWS, until=LAST)
        (found["student"] - found["base"] - (found["good"] - found["bad"])).norm(dim=-1).mean().backward()


def copies(count: int) -> None:
    """As many models, the last of which is trained."""
    models = [model_of(hidden=HIDDEN) for _ in range(count)]
    student = models[-1]
    with attach(student, {"student": Lora(dropout=0.0).config(student)}) as attached, attached.only("student"):
        attached.parameters("student")
        states = []
        for i in range(4):
            model = models[min(i, count - 1)]
            with torch.set_grad_enabled(i == 3):
                out = model.hf(input_ids=ROWS.input_ids, output_hidden_states=True, use_cache=False)
            states.append(out.hidden_states[LAST + 1])
        (states[3] - states[2] - (states[0] - states[1])).norm(dim=-1).mean().backward()


def run() -> Iterator[Ratio]:
    """The peak of ours by that of two and of four copies, each in a process of its own."""
    found = {what: _measure(what) for what in ("ours", "2", "4")}
    for count in ("2", "4"):
        value = found["ours"] / found[count]
        name = f"distil: peak memory, one base / {count} copies ({found['ours']:.0f} / {found[count]:.0f} MB)"
        aim = 1.3 / int(count)
        yield Ratio(name, value, value, value, f"<= {aim:.3g}", value <= aim, 1)


def _measure(what: str) -> float:
    words = [sys.executable, "-m", "benchmarks.one_base", what]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    return float(done.stdout)


if __name__ == "__main__":
    before = peak()
    ours() if sys.argv[1] == "ours" else copies(int(sys.argv[1]))
    print(peak() - before)
