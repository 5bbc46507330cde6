"""What a store and a vector must have in common."""

from __future__ import annotations

from steerkit.errors import InputError, VectorError
from steerkit.store import ActivationStore
from steerkit.vectors import SteeringVector


def common_layers(store: ActivationStore, vector: SteeringVector) -> list[int]:
    """The layers that both have, once it is sure that they belong together.

    Raises:
        VectorError: They come from different sites or hidden sizes.
        InputError: They have no layer in common, or the store holds no pairs.
    """
    if store.site != vector.site:
        raise VectorError(f"the store was recorded at {store.site}, the vector belongs to {vector.site}")
    if store.hidden_size != vector.hidden_size:
        width = "width" if store.site == "z" else "hidden size"
        raise VectorError(f"the store has {width} {store.hidden_size}, the vector {vector.hidden_size}")
    if len(store) == 0:
        raise InputError("the store holds no pairs; record some first")
    layers = [layer for layer in store.layers if layer in vector.layers]
    if not layers:
        raise InputError(f"the store has layers {list(store.layers)}, the vector {list(vector.layers)}: none in common")
    return layers
