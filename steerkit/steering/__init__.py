"""Change a model's activations while it runs."""

from __future__ import annotations

from steerkit.steering.edits import Edit
from steerkit.steering.operations import Ablate, Add, Clamp, Operation, PreserveNorm
from steerkit.steering.preview import Preview
from steerkit.steering.receipts import Receipt
from steerkit.steering.steer import Steer

__all__ = ["Ablate", "Add", "Clamp", "Edit", "Operation", "PreserveNorm", "Preview", "Receipt", "Steer"]
