"""What is installed, what a model looks like inside, and a live proof that steering reaches it."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from steerkit.backends.layouts import LAYOUTS
from steerkit.backends.loading import load
from steerkit.points import SITES
from steerkit.steering import Steer
from steerkit.tables import Cell, html_table, text_table
from steerkit.testing import Conformance, check_backend

PACKAGES = ("steerkit", "torch", "transformers", "peft", "datasets", "transformer-lens", "nnsight", "scikit-learn",
            "plotly", "numpy")  # fmt: skip


@dataclass(frozen=True)
class Diagnosis:
    """What `doctor` found.

    Args:
        machine: Versions and devices.
        model: The model and the layout found for it; empty without one.
        conformance: The checks that were run on it.
        live: Change of the next-token logits by one steered block, and what is left of it afterwards.
    """

    machine: dict[str, Cell]
    model: dict[str, Cell]
    conformance: Conformance | None = None
    live: tuple[float, float] | None = None

    @property
    def healthy(self) -> bool:
        """Every check passed, hooks reach the model, and nothing of them stays."""
        sound = self.conformance is None or self.conformance.passed
        return sound and (self.live is None or (self.live[0] > 0 and self.live[1] == 0))

    def _live_rows(self) -> list[list[Cell]]:
        if self.live is None:
            return []
        moved, left = self.live
        return [["a steered block moves the logits by", moved], ["left of it afterwards", left]]

    def __repr__(self) -> str:
        parts = [text_table(["machine", ""], [[k, v] for k, v in self.machine.items()])]
        if self.model:
            parts.append(text_table(["model", ""], [[k, v] for k, v in self.model.items()]))
        if self.conformance is not None:
            parts.append(repr(self.conformance))
        if self.live is not None:
            parts.append(text_table(["live check", ""], self._live_rows()))
        parts.append("all is well" if self.healthy else "something is wrong: see the lines marked FAILED")
        return "\n\n".join(parts)

    def _repr_html_(self) -> str:
        tables = [html_table(["machine", ""], [[k, v] for k, v in self.machine.items()])]
        tables.append(html_table(["model", ""], [[k, v] for k, v in self.model.items()]))
        if self.conformance is not None:
            tables.append(self.conformance._repr_html_())
        return "".join([*tables, html_table(["live check", ""], self._live_rows())])

    def to_json(self) -> str:
        """All of it for machines."""
        checks = [] if self.conformance is None else [
            {"check": c.name, "difference": c.difference, "allowed": c.allowed, "passed": c.passed}
            for c in self.conformance.checks
        ]  # fmt: skip
        live = None if self.live is None else {"moved": self.live[0], "left": self.live[1]}
        return json.dumps(
            {"machine": self.machine, "model": self.model, "checks": checks, "live": live, "healthy": self.healthy}
        )


def examine(source: Any = None) -> Diagnosis:
    """Look at this machine and, if one is named, at a model.

    The model is loaded, its layout checked, the contract of a backend held against it, and one block steered with a
    random vector to prove that hooks fire, change the output and leave nothing behind.

    Args:
        source: What `load` takes, or a loaded model; without it only the machine is looked at.

    Raises:
        ModelError: The model cannot be loaded, or its layout is not true of it.
        ConformanceError: A check failed.
    """
    machine = _machine()
    if source is None:
        return Diagnosis(machine, {"architectures known": ", ".join(sorted(LAYOUTS))})
    model = source if hasattr(source, "hook") else load(source)
    return Diagnosis(machine, _model(model), check_backend(model), _live(model))


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
    info, parts, layout = model.info, model.parts, model.parts.layout
    sites = [site for site in SITES if any(parts.has(layer, site) for layer in range(info.num_layers))]
    return {
        "name": info.name,
        "architecture": info.architecture,
        "blocks": f"{info.num_layers}, at {layout.decoder}.{layout.blocks}",
        "attention, MLP": f"{layout.attn}, {layout.mlp}",
        "sites": ", ".join(sites),
        "hidden size": info.hidden_size,
        "dtype, device": f"{info.dtype}, {info.device}",
        "context": info.context,
        "sliding window": info.window,
        "chat template": "yes" if info.template else "no: messages become plain text",
        "fingerprint": info.fingerprint,
    }


def _live(model: Any) -> tuple[float, float]:
    base = model.forward("steerkit")
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(model.info.hidden_size, generator=generator)
    steer = Steer(model).add(vector, layer=model.info.num_layers // 2, coef=1.0)
    moved = steer.forward("steerkit") - base
    left = model.forward("steerkit") - base
    return float(moved.float().abs().max()), float(left.float().abs().max())
