"""Operations by name, as they are told to a machine that has no steerkit."""

from __future__ import annotations

from typing import Any

from steerkit.steering.operations.ablate import Ablate
from steerkit.steering.operations.add import Add
from steerkit.steering.operations.clamp import Clamp
from steerkit.steering.operations.preserve_norm import PreserveNorm

NAMES = {Ablate: "ablate", Add: "add", Clamp: "clamp"}


def name_of(operation: Any) -> str | None:
    """The name of an operation; `None` where it is of the user's own, a subclass included.

    Example:
        >>> name_of(PreserveNorm(Add())), name_of(abs)
        ('preserve_norm add', None)
    """
    if type(operation) is PreserveNorm:
        inside = name_of(operation.operation)
        return inside and f"preserve_norm {inside}"
    return NAMES.get(type(operation))
