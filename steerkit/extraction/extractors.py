"""What an extraction method is, the methods by name, and how one is run over a store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit import __version__
from steerkit.errors import InputError, StoreError, VectorError
from steerkit.extraction.mean_difference import MeanDifference
from steerkit.extraction.pca import PCA
from steerkit.extraction.probes import LinearDiscriminant, LogisticProbe
from steerkit.store import ActivationStore, Paired
from steerkit.vectors import SteeringVector


@runtime_checkable
class Extractor(Protocol):
    """Anything that turns one layer's pairs into one vector."""

    def __call__(self, acts: Paired) -> Float[Tensor, " hidden"]:
        """The vector of one layer, in the units of the activations, pointing to the positive side."""
        ...


EXTRACTORS: Mapping[str, Callable[[], Extractor]] = {
    "mean_difference": MeanDifference,
    "pca": PCA,
    "logistic": LogisticProbe,
    "lda": LinearDiscriminant,
}
"""The methods that have a name; any other callable is given as it is."""


def extract(
    store: ActivationStore,
    method: str | Callable[[Paired], Tensor] = "mean_difference",
    *,
    layers: int | Sequence[int] | None = None,
) -> SteeringVector:
    r"""Turn the pairs of a store into a steering vector, layer by layer, pointing from negative to positive.

    Args:
        store: Activations of contrast pairs.
        method: `"mean_difference"` (CAA), `"pca"`, `"logistic"`, `"lda"`, or any callable that takes a `Paired` and
            returns one vector.
        layers: Only these; all of the store's without it.

    Returns:
        The vector, in the units of the activations. Its `meta` says where it comes from, the mean norm of the
        activations (`residual_norm`) and how far the two sides lie apart along it on average (`gap`).

    Raises:
        InputError: There is no method of that name.
        LayerError: The store does not hold a layer.
        StoreError: An activation is not finite; its layer, side and pair are named.
        VectorError: The two sides of all pairs are identical at a layer, or the method gives something that is no
            vector.

    Example:
        >>> store = ActivationStore.from_layers({5: Paired(torch.ones(4, 2), torch.zeros(4, 2))})
        >>> extract(store).at(5)
        tensor([1., 1.])
    """
    found = _resolve(method)
    view = store if layers is None else store.select(layers)
    rows: list[Tensor] = []
    norms: dict[int, float] = {}
    gaps: dict[int, float] = {}
    for layer in view.layers:
        acts = view[layer]
        _check_acts(acts, view, layer)
        row = _check_row(_run(found, acts, layer), acts, method, layer)
        rows.append(row)
        norms[layer] = float(torch.linalg.vector_norm(torch.cat([acts.positive, acts.negative]), dim=-1).mean())
        length = float(row.norm())
        gaps[layer] = float(acts.difference.double().mean(0) @ row.double()) / length if length > 0 else 0.0
    meta = {**_provenance(view, method), "residual_norm": norms, "gap": gaps}
    return SteeringVector(torch.stack(rows), layers=view.layers, site=view.site, meta=meta)


def _resolve(method: str | Callable[[Paired], Any]) -> Callable[[Paired], Any]:
    if isinstance(method, str):
        if method not in EXTRACTORS:
            names = ", ".join(map(repr, EXTRACTORS))
            raise InputError(f"method={method!r} is not known; choose {names}, or give a callable")
        return EXTRACTORS[method]()
    if isinstance(method, type) or not callable(method):
        hint = f"; give an instance, {method.__name__}()" if isinstance(method, type) else ""
        raise InputError(f"method={method!r} is not a name or a callable that takes a Paired{hint}")
    return method


def _run(method: Callable[[Paired], Any], acts: Paired, layer: int) -> Any:
    try:
        return method(acts)
    except VectorError as error:
        raise VectorError(f"at layer {layer}: {error}") from error


def _check_acts(acts: Paired, store: ActivationStore, layer: int) -> None:
    if len(acts) == 0:
        raise StoreError("the store holds no pairs; record some first")
    for side, values in (("positive", acts.positive), ("negative", acts.negative)):
        bad = (~values.isfinite().all(-1)).nonzero().flatten().tolist()
        if bad:
            raise StoreError(
                f"layer {layer} holds NaN or infinity on the {side} side of {len(bad)} of {len(acts)} pairs, first in "
                f"pair {store.ids[bad[0]]!r}; float16 may have overflowed: record in bfloat16 or float32"
            )
    if torch.equal(acts.positive, acts.negative):
        raise VectorError(
            f"the two sides of all {len(acts)} pairs are identical at layer {layer}, so there is no direction; read "
            "where the sides differ (record(read=...)), or leave the layer out with layers="
        )


def _check_row(row: Any, acts: Paired, method: object, layer: int) -> Tensor:
    hidden = acts.positive.shape[1]
    name = _method_name(method)
    if not isinstance(row, Tensor):
        raise VectorError(f"{name} returned {type(row).__name__} at layer {layer}; it must return a tensor [{hidden}]")
    if tuple(row.shape) != (hidden,) or not row.is_floating_point():
        raise VectorError(
            f"{name} returned shape {list(row.shape)} of {row.dtype} at layer {layer}; it must return floats [{hidden}]"
        )
    if not row.isfinite().all():
        raise VectorError(f"{name} returned NaN or infinity at layer {layer}; every value must be finite")
    return row.detach().to("cpu", torch.float32)


def _method_name(method: object) -> str:
    return method if isinstance(method, str) else str(getattr(method, "__name__", type(method).__name__))


def _provenance(store: ActivationStore, method: object) -> dict[str, Any]:
    manifest = store.manifest
    settings = {} if isinstance(method, str) else {"settings": repr(method)}
    kept = {key: manifest.get(key) for key in ("model", "data", "read", "template")}
    return {"method": _method_name(method), **settings, **kept, "pairs": len(store), "version": __version__}
