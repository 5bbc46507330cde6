"""Whether a vector has the shape of a model at its site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steerkit.errors import VectorError
from steerkit.points import Site
from steerkit.vectors.provenance import spans


def check_shape(info: Mapping[str, Any], *, site: Site, layers: Sequence[int], width: int, heads: int) -> None:
    """Refuse a model whose activations at a vector's site and layers have another width, or are not there.

    Args:
        info: The model, as `ModelInfo.as_dict()`.
        site: Of the vector.
        layers: Likewise, sorted.
        width: Of its rows.
        heads: How many heads a row holds; 0 where that is not known.

    Raises:
        VectorError: With what the vector has and what the model has.
    """
    name = info["name"]
    if site == "z":
        _check_heads(info, width=width, heads=heads)
    elif info["hidden_size"] != width:
        raise VectorError(f"the vector has hidden size {width}, {name} has {info['hidden_size']}; make the vector with "
                          "this model")  # fmt: skip
    if layers[-1] >= info["num_layers"]:
        raise VectorError(f"the vector has layers up to {layers[-1]}, {name} has layers 0 to "
                          f"{info['num_layers'] - 1}; take those it has with .select(...)")  # fmt: skip
    without = (info.get("lacks") or {}).get(site, ())
    missing = [layer for layer in layers if layer in without]
    if missing:
        raise VectorError(f"the vector has {spans(layers)} at {site}, but block {missing[0]} of {name} has no site "
                          f"{site!r}; leave it out with .select(...)")  # fmt: skip


def _check_heads(info: Mapping[str, Any], *, width: int, heads: int) -> None:
    there, size = info.get("heads") or 0, info.get("head_size") or 0
    if not there:
        raise VectorError(f"the vector belongs to the heads' outputs (site 'z'); {info['name']} has no attention heads")
    if width != there * size or (heads and heads != there):
        mine = f"{heads} heads of {width // heads}" if heads else f"a width of {width}"
        raise VectorError(f"the vector has {mine} at z, {info['name']} has {there} heads of {size}; make the vector "
                          "with this model")  # fmt: skip
