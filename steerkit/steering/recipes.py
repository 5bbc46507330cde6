"""The edits of a `Steer` as one safetensors file: their vectors, and what is done with them as JSON in the header."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steerkit.errors import SteeringError
from steerkit.positions import Positions
from steerkit.steering.edits import Edit
from steerkit.steering.operations import Ablate, Add, Clamp, PreserveNorm
from steerkit.vectors import SteeringVector

FORMAT = "steerkit.edits/1"
OPERATIONS = {"add": Add, "ablate": Ablate, "clamp": Clamp}
KEPT = "preserve_norm "
"""Before the name of an operation that keeps the length."""


def write(path: str | Path, edits: Sequence[Edit]) -> Path:
    """Write edits to one file, whole or not at all.

    Args:
        path: Of the file; one that is there is replaced in one step.
        edits: At least one; their operations are steerkit's own.

    Raises:
        SteeringError: There are none, or an operation is not one that a file can name.
    """
    from safetensors.torch import save_file

    if not edits:
        raise SteeringError("there are no edits to save; add one first")
    told = [_describe(edit) for edit in edits]
    values = [edit.vector.values if isinstance(edit.vector, SteeringVector) else edit.vector for edit in edits]
    tensors = {str(i): one.detach().float().cpu().contiguous().clone() for i, one in enumerate(values)}
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    written = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        save_file(tensors, written, metadata={"format": FORMAT, "edits": json.dumps(told)})
        written.replace(target)
    finally:
        written.unlink(missing_ok=True)
    return target


def read(path: str | Path) -> tuple[Edit, ...]:
    """The edits of a file that `write` wrote.

    Raises:
        SteeringError: There is no such file, or it holds no edits of this format.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise SteeringError(f"there is no file {path}; give the path that Steer.save wrote")
    try:
        with safe_open(path, framework="pt") as file:
            fields = file.metadata() or {}
            if fields.get("format") != FORMAT:
                found = fields.get("format", "no steerkit file")
                raise SteeringError(f"{path} holds {found!r}; this version reads {FORMAT!r}")
            told = json.loads(fields["edits"])
            return tuple(_restore(one, file.get_tensor(str(i))) for i, one in enumerate(told))
    except SafetensorError as error:
        raise SteeringError(f"{path} is not a safetensors file ({error}); nothing else is read here") from error


def _describe(edit: Edit) -> dict[str, Any]:
    vector = edit.vector
    of = (
        {"layers": vector.layers, "site": vector.site, "meta": vector.meta}
        if isinstance(vector, SteeringVector)
        else None
    )
    return {
        "vector": of,
        "layer": edit.layer if isinstance(edit.layer, str | int) else list(edit.layer),
        "coef": edit.coef.tolist() if isinstance(edit.coef, Tensor) else edit.coef,
        "operation": _name(edit.operation),
        "positions": _positions(edit.positions),
        "site": edit.site,
        "unit": edit.unit,
        "override": edit.override,
    }


def _restore(told: dict[str, Any], values: Tensor) -> Edit:
    of, coef = told["vector"], told["coef"]
    vector = values if of is None else SteeringVector(values, layers=of["layers"], site=of["site"], meta=of["meta"])
    positions = told["positions"]
    return Edit(
        vector,
        layer=told["layer"],
        coef=torch.tensor(coef) if isinstance(coef, list) else coef,
        operation=_operation(told["operation"]),
        positions=slice(*positions["slice"]) if isinstance(positions, dict) else positions,
        site=told["site"],
        unit=told["unit"],
        override=told["override"],
    )


def _name(operation: Any) -> str:
    if isinstance(operation, PreserveNorm):
        return KEPT + _name(operation.operation)
    for name, kind in OPERATIONS.items():
        if type(operation) is kind:
            return name
    raise SteeringError(f"{operation!r} is an operation of your own, which a file cannot name; save its vector, and "
                        "apply it again in code")  # fmt: skip


def _operation(name: str) -> Any:
    if name.startswith(KEPT):
        return PreserveNorm(_operation(name.removeprefix(KEPT)))
    if name not in OPERATIONS:
        raise SteeringError(f"the operation {name!r} is not known; known are {', '.join(OPERATIONS)}")
    return OPERATIONS[name]()


def _positions(positions: Positions) -> Any:
    if isinstance(positions, slice):
        return {"slice": [positions.start, positions.stop, positions.step]}
    return positions if isinstance(positions, str | int) else [int(one) for one in positions]
