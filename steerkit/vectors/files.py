"""One vector as one safetensors file, with its provenance as JSON in the header."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from steerkit.errors import VectorError

FORMAT = "steerkit.vector/1"


def write(path: str | Path, values: Tensor, header: Mapping[str, Any]) -> Path:
    """Write the file whole or not at all; a file that was there before is replaced in one step."""
    from safetensors.torch import save_file

    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    fields = {"format": FORMAT, **{key: json.dumps(value) for key, value in header.items()}}
    written = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        save_file({"values": values}, written, metadata=fields)
        written.replace(target)
    finally:
        written.unlink(missing_ok=True)
    return target


def read(path: str | Path) -> tuple[Tensor, dict[str, Any]]:
    """The values and the header of a file that `write` wrote.

    Raises:
        VectorError: There is no such file, or it holds no steerkit vector of this format.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise VectorError(f"there is no file {path}; give the path that SteeringVector.save wrote")
    try:
        with safe_open(path, framework="pt") as file:
            fields = file.metadata() or {}
            values = file.get_tensor("values") if list(file.keys()) == ["values"] else None
    except SafetensorError as error:
        raise VectorError(f"{path} is not a safetensors file ({error}); nothing else is read here") from error
    if values is None or fields.get("format") != FORMAT:
        raise VectorError(f"{path} holds {fields.get('format', 'no steerkit vector')!r}; this version reads {FORMAT!r}")
    return values, {key: json.loads(fields[key]) for key in ("layers", "site", "meta")}
