"""How a vector changes the activations: one operation a file."""

from __future__ import annotations

from steerkit.steering.operations.ablate import Ablate
from steerkit.steering.operations.add import Add
from steerkit.steering.operations.base import Operation
from steerkit.steering.operations.clamp import Clamp
from steerkit.steering.operations.naming import name_of
from steerkit.steering.operations.preserve_norm import PreserveNorm

__all__ = ["Ablate", "Add", "Clamp", "Operation", "PreserveNorm", "name_of"]
