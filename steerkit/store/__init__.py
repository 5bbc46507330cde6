"""Activation stores: what `record` fills, and `extract` and the diagnostics read."""

from __future__ import annotations

from steerkit.store.activations import ActivationStore
from steerkit.store.index import PairRow
from steerkit.store.paired import Paired
from steerkit.store.ragged import Ragged, RaggedPaired
from steerkit.store.verification import Problem, Verification, verify
from steerkit.store.workers import Worker
from steerkit.store.writer import StoreWriter

__all__ = [
    "ActivationStore",
    "PairRow",
    "Paired",
    "Problem",
    "Ragged",
    "RaggedPaired",
    "StoreWriter",
    "Verification",
    "Worker",
    "verify",
]
