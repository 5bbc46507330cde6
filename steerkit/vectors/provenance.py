"""What a vector knows of where it comes from, and whether a model is the one it was made with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from steerkit.errors import MismatchError, VectorError

PER_LAYER = ("residual_norm", "gap", "sigma", "head_gap")
SHARED = ("model", "template", "read", "version", "residual_norm", "heads")
CHECKED = (("fingerprint", "weights"), ("tokenizer", "tokenizer"), ("template", "chat template"))


def plain(meta: Mapping[str, Any]) -> dict[str, Any]:
    """A copy that JSON can hold, with integer layers.

    Raises:
        VectorError: An entry is not a plain value, or not finite.
    """
    copy: dict[str, Any] = {}
    for key, value in meta.items():
        try:
            copy[str(key)] = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise VectorError(f"meta[{key!r}] cannot be kept as JSON: {error}") from error
    for key in PER_LAYER:
        if key in copy:
            copy[key] = {int(layer): _numbers(value) for layer, value in copy[key].items()}
    return copy


def _numbers(value: Any) -> float | list[float]:
    return [float(one) for one in value] if isinstance(value, list) else float(value)


def label(meta: Mapping[str, Any]) -> str:
    """Where a vector comes from, in a few words."""
    if "made_from" in meta:
        return str(meta["made_from"])
    if "method" not in meta:
        return "made by hand"
    data = meta.get("data")
    name = data.get("name") if isinstance(data, Mapping) else data
    return f"{meta['method']} of {name}" if name else str(meta["method"])


def term(meta: Mapping[str, Any]) -> str:
    """The same as a part of a longer expression."""
    return f"({label(meta)})"


def shared(mine: Mapping[str, Any], theirs: Mapping[str, Any], *, sign: str) -> dict[str, Any]:
    """What holds for the sum or difference of two vectors.

    Raises:
        MismatchError: They were made with different models.
    """
    first, second = ((meta.get("model") or {}).get("fingerprint") for meta in (mine, theirs))
    if first and second and first != second:
        raise MismatchError(
            f"the vectors were made with different models (fingerprints {first} and {second}); make both with one "
            "model, or leave the provenance behind by SteeringVector(v.values, layers=v.layers, site=v.site)"
        )
    if not mine and not theirs:
        return {}
    kept = {key: mine[key] for key in SHARED if key in mine and mine[key] == theirs.get(key)}
    return {**kept, "made_from": f"{term(mine)} {sign} {term(theirs)}"}


def check_made_with(meta: Mapping[str, Any], info: Mapping[str, Any], *, what: str = "vector") -> None:
    """Refuse another model, tokenizer or chat template than a vector was made with, where both are known.

    Raises:
        MismatchError: With both values, and how to go on.
    """
    made = meta.get("model") or {}
    for key, word in CHECKED:
        before, now = made.get(key), info.get(key)
        if before and now and before != now:
            there, here = made.get("name") or "its model", info.get("name") or "this model"
            raise MismatchError(
                f"the {what} was made with another {word}: {key} {before} ({there}), here {now} ({here}); make it "
                "again with this model, or pass override=True to use it as it is"
            )


def spans(layers: Sequence[int]) -> str:
    """Layers as ranges.

    Example:
        >>> spans([0, 1, 2, 7])
        'layers 0-2, 7'
    """
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    words = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    return f"layer{'s' if len(layers) > 1 else ''} {words}"
