"""Find a direction in a language model, see whether it is real, steer with it, and put it into the weights."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES: dict[str, str] = {
    "ContrastPair": "steerkit.data.pairs",
    "Point": "steerkit.points",
    "Prompt": "steerkit.data.chat",
    "load": "steerkit.backends.loading",
}
"""Each public name and the module it lives in; imported when first used."""

__all__ = ["ContrastPair", "Point", "Prompt", "load"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'steerkit' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
