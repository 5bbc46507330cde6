"""Activation stores: what `record` fills, and `extract` and the diagnostics read."""

from __future__ import annotations

from steerkit.store.activations import ActivationStore
from steerkit.store.paired import Paired

__all__ = ["ActivationStore", "Paired"]
