"""What a store was made with: the manifest, and how two of them differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steerkit.errors import StoreError

SCHEMA_VERSION = 1
NAME = "manifest.json"
REQUIRED = ("schema_version", "model", "site", "layers", "hidden_size", "dtype", "read", "data", "pairs",
            "rows_per_shard")  # fmt: skip
MODEL_FIELDS = ("fingerprint", "architecture", "num_layers", "hidden_size", "revision", "tokenizer", "template")
"""Of the model's info. The name counts only where a fingerprint is missing: a moved folder is the same model."""
STORE_FIELDS = ("site", "layers", "hidden_size", "dtype", "read", "template", "pairs", "rows_per_shard",
                "steerkit_version")  # fmt: skip

Difference = tuple[str, Any, Any]
"""A field, what the store says of it, and what is given."""


def model_differences(stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[Difference]:
    """Where two models' infos differ in something that changes activations.

    A revision is compared only where both name one.

    Example:
        >>> model_differences({"fingerprint": "a1"}, {"fingerprint": "b2"})
        [('model.fingerprint', 'a1', 'b2')]
    """
    fields = list(MODEL_FIELDS)
    if not (stored.get("revision") and given.get("revision")):
        fields.remove("revision")
    if not (stored.get("fingerprint") and given.get("fingerprint")):
        fields.append("name")
    return [(f"model.{f}", stored.get(f), given.get(f)) for f in fields if stored.get(f) != given.get(f)]


def differences(stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[Difference]:
    """Where two manifests differ in something that decides what their rows hold."""
    found = model_differences(stored["model"], given["model"])
    if stored["model"].get("dtype") != given["model"].get("dtype"):
        found.append(("model.dtype", stored["model"].get("dtype"), given["model"].get("dtype")))
    if stored["data"].get("fingerprint") != given["data"].get("fingerprint"):
        found.append(("data.fingerprint", stored["data"].get("fingerprint"), given["data"].get("fingerprint")))
    found += [(f, stored.get(f), given.get(f)) for f in STORE_FIELDS if stored.get(f) != given.get(f)]
    return found


def list_differences(found: Sequence[Difference], *, here: str) -> str:
    """One line a field, for a message.

    Example:
        >>> list_differences([("site", "resid_post", "mlp_out")], here="this call")
        "  site: the store has 'resid_post', this call has 'mlp_out'"
    """
    return "\n".join(f"  {name}: the store has {a!r}, {here} has {b!r}" for name, a, b in found)


def identity(manifest: Mapping[str, Any]) -> str:
    """Hash over what decides the rows of a store; every shard repeats it."""
    model = {name: manifest["model"].get(name) for name in (*MODEL_FIELDS, "dtype")}
    rest = {name: manifest.get(name) for name in STORE_FIELDS}
    text = json.dumps([model, rest, manifest["data"].get("fingerprint")], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a store on disk, once it is known to be one that this version can read.

    Raises:
        StoreError: No manifest, not JSON, another schema, or a field is missing.
    """
    path = folder / NAME
    if not path.is_file():
        raise StoreError(f"{folder} is not an activation store: it holds no {NAME}. Give the folder that record wrote")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(f"{path} is damaged ({error}); record again with overwrite=True") from error
    if not isinstance(manifest, dict) or "schema_version" not in manifest:
        raise StoreError(f"{path} is not the manifest of an activation store: it has no schema_version")
    if manifest["schema_version"] != SCHEMA_VERSION:
        raise StoreError(f"{path} has schema_version {manifest['schema_version']!r}; this version of steerkit reads "
                         f"{SCHEMA_VERSION}. Use the steerkit that wrote it "
                         f"({manifest.get('steerkit_version', 'unknown')}), or record again")  # fmt: skip
    missing = [name for name in REQUIRED if name not in manifest]
    if missing:
        raise StoreError(f"{path} lacks {', '.join(missing)}; record again with overwrite=True")
    return manifest
