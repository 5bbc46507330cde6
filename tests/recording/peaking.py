"""A program that records many pairs on a tiny model and says how far its memory rose above what the pairs take."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from tiny import tiny

from steerkit.data.chat import Prompt
from steerkit.data.pairs import ContrastPair, Pairs, Side
from steerkit.recording import record
from steerkit.store import ActivationStore


def kilobytes(name: str) -> int:
    """A line of /proc/self/status, such as VmHWM (the peak of what lay in memory) or VmRSS (what lies there now)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))


def short(count: int) -> Pairs:
    """Pairs of a few tokens, so that many of them take little time."""
    prompts = [Prompt(f"{i}?") for i in range(count)]
    return Pairs([ContrastPair(Side(one, "(A)"), Side(one, "(B)"), id=str(i)) for i, one in enumerate(prompts)])


def run(folder: Path, count: int, options: dict[str, Any]) -> dict[str, int]:
    """Warm up on some pairs, forget the peak, then record all of them; kB."""
    model = tiny("llama", num_hidden_layers=1)
    few = short(200)
    record(model, few, path=folder / "warm", progress=False, **options)
    pairs = Pairs([few[i % 200] for i in range(count)])
    assert pairs.fingerprint  # computed once and kept by the pairs
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew from what lies in memory now
    before = kilobytes("VmRSS")
    store = record(model, pairs, path=folder / "store", progress=False, **options)
    peak = kilobytes("VmHWM") - before
    assert len(store) == count
    found = next(iter(ActivationStore.open(folder / "store").iterate(batch=64)))
    assert len(found[0]) == 64
    return {"peak": peak, "with a batch read": kilobytes("VmHWM") - before}


if __name__ == "__main__":
    torch.set_num_threads(1)
    given = json.loads(sys.argv[1])
    print(json.dumps(run(Path(given["folder"]), given["count"], given["options"])))
