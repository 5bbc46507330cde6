"""What an adapter knows of where it comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steerkit.backends.huggingface import check_plain
from steerkit.errors import InputError, VectorError
from steerkit.vectors.provenance import check_made_with

NAME = "provenance.json"


def check_base(meta: Mapping[str, Any], model: object, *, override: bool) -> None:
    """Refuse another base than the weights were made with.

    Raises:
        MismatchError: The fingerprints differ, and `override` is not given.
        InputError: `model` is not what `load` returns.
    """
    plain = check_plain(model, "adapters work")
    if not override:
        check_made_with(meta, plain.info.as_dict(), what="adapter")


def write_meta(folder: Path, meta: Mapping[str, Any]) -> None:
    """Write it beside the weights.

    Raises:
        InputError: It holds something that JSON cannot.
    """
    try:
        text = json.dumps(dict(meta), indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"the adapter's provenance cannot be kept as JSON: {error}") from error
    (folder / NAME).write_text(text + "\n", encoding="utf-8")


def read_meta(folder: Path) -> dict[str, Any]:
    """Read it; empty for a foreign adapter, which has none.

    Raises:
        InputError: It is damaged.
    """
    path = folder / NAME
    if not path.is_file():
        return {}
    try:
        meta = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}; delete it to use the adapter without its provenance") from error
    if not isinstance(meta, dict):
        raise VectorError(f"{path} is not a JSON object; delete it to use the adapter without its provenance")
    return meta
