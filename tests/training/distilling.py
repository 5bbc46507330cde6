"""A small distillation as a program: alone, or as one of the processes that torchrun starts."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))

import torch
from distillation_cases import pairs, tiny, vector_for

from steerkit.adapters import Lora
from steerkit.training.distilling.distillation import distill
from steerkit.training.distilling.losses import Objective
from steerkit.training.fitting.fit import Fit
from steerkit.training.fitting.ranks import Ranks


def main(folder: Path) -> None:
    """Train and write the losses; every process its own file."""
    torch.set_num_threads(1)
    model = tiny("llama")
    found = distill(
        model,
        vector_for(model, 1, 2),
        layer=[1, 2],
        prompts=[*pairs(), "What now?"],
        max_new_tokens=3,
        objective=Objective(output=0.5, guard=0.5),
        lora=Lora(r=2, dropout=0.0),
        fit=Fit(steps=5, batch=5, lr=3e-3, checkpoint_every=2),
        path=folder / "made",
        progress=False,
    )
    numbers = {name: found.curve.series(name) for name in found.curve.names if name != "seconds"}
    weights = {name: one.double().sum().item() for name, one in found.adapter.weights.items()}
    written = {"curve": numbers, "weights": weights, "processes": Ranks.join().size}
    (folder / f"rank{Ranks.join().rank}.json").write_text(json.dumps(written))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
