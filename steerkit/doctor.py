"""What is installed, what a model looks like inside, and a live proof that steering reaches it."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from steerkit.backends.layouts import LAYOUTS, WRAPPERS, path_in
from steerkit.backends.loading import load
from steerkit.errors import InputError
from steerkit.steering import Steer
from steerkit.tables import Cell, html_table, text_table
from steerkit.testing.backend import measure_backend
from steerkit.testing.checks import Conformance
from steerkit.testing.paths import measure_paths

PACKAGES = ("steerkit", "torch", "transformers", "peft", "datasets", "transformer-lens", "nnsight", "scikit-learn",
            "plotly", "numpy")  # fmt: skip


KIND = ("blocks", "class", "attention", "MLP", "heads into", "sites")


@dataclass(frozen=True)
class Diagnosis:
    """What `doctor` found.

    Args:
        machine: Versions and devices.
        model: The model and the layout found for it; empty without one.
        kinds: For each kind of block: which blocks, their class, the paths of their parts, and their sites.
        conformance: The suites that were run on it; only in full.
        live: Change of the next-token logits by one steered block, and what is left of it afterwards.
    """

    machine: dict[str, Cell]
    model: dict[str, Cell]
    kinds: tuple[tuple[str, ...], ...] = ()
    conformance: tuple[Conformance, ...] = ()
    live: tuple[float, float] | None = None

    @property
    def healthy(self) -> bool:
        """Every check passed, hooks reach the model, and nothing of them stays."""
        sound = all(suite.passed for suite in self.conformance)
        return sound and (self.live is None or (self.live[0] > 0 and self.live[1] == 0))

    def _live_rows(self) -> list[list[Cell]]:
        if self.live is None:
            return []
        moved, left = self.live
        return [["a steered block moves the logits by", moved], ["left of it afterwards", left]]

    def _tables(self) -> list[tuple[list[str], list[list[Cell]]]]:
        tables: list[tuple[list[str], list[list[Cell]]]] = [(["machine", ""], [[*row] for row in self.machine.items()])]
        if self.model:
            tables.append((["model", ""], [[*row] for row in self.model.items()]))
        if self.kinds:
            tables.append(([*KIND], [[*kind] for kind in self.kinds]))
        if self.live is not None:
            tables.append((["live check", ""], self._live_rows()))
        return tables

    def __repr__(self) -> str:
        parts = [text_table(columns, rows) for columns, rows in self._tables()]
        parts += [repr(suite) for suite in self.conformance]
        parts.append("all is well" if self.healthy else "something is wrong: see the lines marked FAILED")
        return "\n\n".join(parts)

    def _repr_html_(self) -> str:
        tables = [html_table(columns, rows) for columns, rows in self._tables()]
        return "".join([*tables, *(suite._repr_html_() for suite in self.conformance)])

    def to_json(self) -> str:
        """All of it for machines."""
        checks = [
            {"check": c.name, "difference": c.difference, "allowed": c.allowed, "passed": c.passed}
            for suite in self.conformance
            for c in suite.checks
        ]
        live = None if self.live is None else {"moved": self.live[0], "left": self.live[1]}
        kinds = [dict(zip(KIND, kind, strict=True)) for kind in self.kinds]
        found = {"machine": self.machine, "model": self.model, "kinds": kinds, "checks": checks}
        return json.dumps({**found, "live": live, "healthy": self.healthy})


def examine(source: Any = None, *, backend: str | None = None, full: bool = False) -> Diagnosis:
    """Look at this machine and, if one is named, at a model.

    The model is loaded, its layout checked, and one block steered with a random vector to prove that hooks fire, change
    the output and leave nothing behind.

    Args:
        source: What `load` takes, or a loaded model; without it only the machine is looked at.
        backend: Who runs the model; see `load`.
        full: Also hold it to the whole contract of a backend, and its fast paths against the plain one.

    Raises:
        InputError: `full` or `backend` without a model, or a backend that is not known.
        ModelError: The model cannot be loaded, or its layout is not true of it.
    """
    machine = _machine()
    if source is None:
        if full or backend is not None:
            raise InputError("which model? Give one with full or backend: 'demo', a folder, or a hub id")
        return Diagnosis(machine, {"architectures known": ", ".join(sorted({*LAYOUTS, *WRAPPERS}))})
    model = source if hasattr(source, "hook") else load(source, backend=backend)
    suites = (measure_backend(model), measure_paths(model)) if full else ()
    return Diagnosis(machine, _model(model), _kinds(model), suites, _live(model))


def _machine() -> dict[str, Cell]:
    found: dict[str, Cell] = {"python": platform.python_version(), "system": platform.platform(terse=True)}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    found["threads"] = torch.get_num_threads()
    cuda = torch.cuda.is_available()
    found["accelerator"] = torch.cuda.get_device_name(0) if cuda else "none"
    return found


def _model(model: Any) -> dict[str, Cell]:
    info, layout = model.info, model.parts.layout
    return {
        "name": info.name,
        "run by": type(model).__name__,
        "architecture": info.architecture,
        "layout": layout.note or "by its row in the table",
        "blocks": f"{info.num_layers}, at {layout.decoder}.{layout.blocks}",
        "hidden size": info.hidden_size,
        "heads": f"{info.heads} x {info.head_size}" if info.heads else "none",
        "dtype, device": ", ".join(filter(None, (info.dtype, info.device, info.quantization))),
        "context": info.context,
        "sliding window": info.window,
        "packs": "yes" if info.packs else "no: continuations go over a cached prefix",
        "chat template": "yes" if info.template else "no: messages become plain text",
        "fingerprint": info.fingerprint,
    }


def _kinds(model: Any) -> tuple[tuple[str, ...], ...]:
    parts, layout = model.parts, model.parts.layout
    rows: dict[tuple[str, ...], list[int]] = {}
    for layer, block in enumerate(parts.blocks):
        paths = [path_in(block, path) or "-" for path in (layout.attn, layout.mlp, layout.heads)]
        kind = (type(block).__name__, *paths, ", ".join(parts.sites(layer)))
        rows.setdefault(kind, []).append(layer)
    return tuple((_spans(layers), *kind) for kind, layers in rows.items())


def _spans(layers: list[int]) -> str:
    """`0-3, 8`: runs of numbers by their ends."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and runs[-1][-1] == layer - 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _live(model: Any) -> tuple[float, float]:
    base = model.forward("steerkit")
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(model.info.hidden_size, generator=generator)
    steer = Steer(model).add(vector, layer=model.info.num_layers // 2, coef=1.0)
    moved = steer.forward("steerkit") - base
    left = model.forward("steerkit") - base
    return float(moved.float().abs().max()), float(left.float().abs().max())
