"""What a store says of itself, and whether it fits a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from steerkit.backends.base import ModelInfo
from steerkit.errors import InputError, MismatchError
from steerkit.store.index import count_letters, positions_of
from steerkit.store.manifest import list_differences, model_differences
from steerkit.store.shards import human_size
from steerkit.tables import Cell, Table

if TYPE_CHECKING:
    from steerkit.store.activations import ActivationStore


def check_model(manifest: Mapping[str, Any], model: Any, *, where: str) -> None:
    """Hold what a manifest says of its model against the model that the store is used with.

    Raises:
        MismatchError: It is another one.
        InputError: It is no model.
    """
    info = model.info if isinstance(getattr(model, "info", None), ModelInfo) else model
    given = info.as_dict() if isinstance(info, ModelInfo) else info
    if not isinstance(given, Mapping):
        raise InputError(f"model is of type {type(model).__name__}; give a model, or its info")
    found = model_differences(manifest["model"], given)
    if found:
        raise MismatchError(
            f"{where} was recorded with the model {manifest['model'].get('name')!r}, not with "
            f"{given.get('name')!r}:\n{list_differences(found, here='this model')}\n"
            "Record again with this model, or open it with override=True"
        )


def token_count(store: ActivationStore) -> int:
    """How many tokens a store of several a row shows."""
    total = 0
    for number in store.numbers:
        for side in (0, 1):
            first, end = positions_of(store.index[2 * int(number) + side])
            total += end - first
    return total


def describe(store: ActivationStore) -> Table:
    """A store as a table."""
    m = store.manifest
    title = f"{len(store)} pairs, {len(store.layers)} layers x {store.hidden_size}"
    kept = "statistics alone" if m.get("keep") == "statistics" else f"{human_size(store.nbytes)} in {m['dtype']}"
    rows: list[list[Cell]] = [
        ["model", m["model"].get("name") or "unknown"],
        ["data", m["data"].get("name") or "unknown"],
        ["pairs", str(len(store)) if len(store) == m["pairs"] else f"{len(store)} of {m['pairs']}"],
        ["positive letters", count_letters(store.letters)],
        ["layers", name_layers(store.layers)],
        ["site", _site(store)],
        ["read", _read(m)],
        ["template", m.get("template") or "the tokenizer's own"],
        ["size", kept],
        ["where", "memory" if store.path is None else str(store.path)],
    ]
    if m.get("statistics"):
        rows.insert(-1, ["statistics", str(m["statistics"])])
    return Table(["ActivationStore", title], rows)


def _site(store: ActivationStore) -> str:
    heads = store.num_heads
    return f"{store.site}, {heads} heads of {store.hidden_size // heads}" if heads else store.site


def _read(manifest: Mapping[str, Any]) -> str:
    rule = "unknown" if manifest["read"] is None else str(manifest["read"])
    limit = f", at most {manifest['max_tokens']} tokens a side" if manifest.get("max_tokens") else ""
    pooled = f", pooled: {manifest['pool']}" if manifest.get("pool") else ""
    return rule + limit + pooled


def name_layers(layers: Sequence[int]) -> str:
    """Layers for people: runs are written as ranges.

    Example:
        >>> name_layers([1, 2, 3, 7])
        'layers 1 to 3, 7'
    """
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return "layers " + ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in runs)
