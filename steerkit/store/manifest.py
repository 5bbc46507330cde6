"""What a store was made with: the manifest, and how two of them differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from steerkit.errors import StoreError
from steerkit.store.seals import is_sealed
from steerkit.store.storage import Folder, read

SCHEMA_VERSION = 2
NAME = "manifest.json"
REQUIRED = ("schema_version", "kind", "model", "site", "layers", "hidden_size", "dtype", "read", "data", "pairs",
            "rows_per_shard", "index_sha256", "sha256")  # fmt: skip
MODEL_FIELDS = ("fingerprint", "architecture", "num_layers", "hidden_size", "revision", "tokenizer", "template")
"""Of the model's info. The name counts only where a fingerprint is missing: a moved folder is the same model."""
STORE_FIELDS = ("kind", "site", "layers", "hidden_size", "dtype", "read", "max_tokens", "template", "pairs",
                "rows_per_shard", "keep", "statistics", "steerkit_version")  # fmt: skip
CONTRAST = "contrast"
"""Only in a store of differences: what was held against what. Its rows are a difference and a base state, no sides."""

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
    there, here = stored.get(CONTRAST, {}), given.get(CONTRAST, {})
    found += [(f"{CONTRAST}.{f}", there.get(f), here.get(f)) for f in {**there, **here} if there.get(f) != here.get(f)]
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
    rest = {name: manifest.get(name) for name in (*STORE_FIELDS, "index_sha256")}
    rest |= {name: manifest[name] for name in (CONTRAST,) if name in manifest}
    text = json.dumps([model, rest, manifest["data"].get("fingerprint")], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_manifest(folder: Folder) -> dict[str, Any]:
    """The manifest of a store, once it is known to be whole and one that this version can read.

    Raises:
        StoreError: No manifest, not JSON, another schema, a field is missing, or it was changed.
    """
    path = f"{folder.path}/{NAME}"
    try:
        if not folder.exists(NAME):
            raise StoreError(f"{folder.path} is not an activation store: it holds no {NAME}. Give the folder that "
                             "record wrote")  # fmt: skip
        data = read(folder, NAME)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error}; give a folder that can be read") from error
    try:
        manifest = json.loads(data)
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
    if not is_sealed(data, manifest.pop("sha256")):
        raise StoreError(f"{path} is damaged: it was changed after it was written, its sha256 does not fit. Put back a "
                         "copy, or record again with overwrite=True")  # fmt: skip
    return manifest
