"""Stores made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from steerkit.backends.base import ModelInfo
from steerkit.store import ActivationStore, Paired

INFO = ModelInfo("tiny", "llama", 4, 8, "float32", "cpu", fingerprint="f00d", tokenizer="70c0", template="7e40")


def make(pairs: int = 12, hidden: int = 8, layers: tuple[int, ...] = (1, 3), **more: object) -> ActivationStore:
    sides = {layer: Paired(torch.randn(pairs, hidden), torch.randn(pairs, hidden)) for layer in layers}
    letters = ["A" if i % 3 == 0 else "B" for i in range(pairs)]
    manifest = {"model": INFO.as_dict(), "data": {"name": "made", "fingerprint": "d1"}, "read": "letter", **more}
    return ActivationStore.from_layers(sides, letters=letters, manifest=manifest)


def edit(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def make_row(store: ActivationStore, name: str) -> torch.Tensor:
    return store[1].positive[store.ids.index(name)]
