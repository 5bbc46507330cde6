"""What an extraction method is, the methods by name, and how one is run over a store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit import __version__
from steerkit.errors import InputError, StoreError, VectorError
from steerkit.extraction.by_head import EachHead
from steerkit.extraction.mean_difference import MeanDifference
from steerkit.extraction.pca import PCA
from steerkit.extraction.probes import LinearDiscriminant, LogisticProbe
from steerkit.extraction.strengths import strengths_of
from steerkit.store import ActivationStore, Paired
from steerkit.store.statistics import Moments
from steerkit.vectors import SteeringVector


@runtime_checkable
class Extractor(Protocol):
    """Anything that turns one layer's pairs into one vector."""

    def __call__(self, acts: Paired) -> Float[Tensor, " hidden"]:
        """The vector of one layer, in the units of the activations, pointing to the positive side."""
        ...


@runtime_checkable
class Summed(Protocol):
    """A method that can also work from running statistics, without the rows."""

    def __call__(self, acts: Paired) -> Float[Tensor, " hidden"]:
        """From the rows."""
        ...

    def from_moments(self, moments: Moments, *, sure: bool = True) -> Float[Tensor, " hidden"] | None:
        """The same vector; `None` where the statistics do not hold what it needs.

        Args:
            moments: Of all pairs.
            sure: Also `None` where the rows could give another one.
        """
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
    by_head: bool = True,
) -> SteeringVector:
    r"""Turn the pairs of a store into a steering vector, layer by layer, pointing from negative to positive.

    A store that was recorded with `statistics=` is not read again: `"mean_difference"`, and with covariances `"pca"`
    and `"lda"`, take what was summed while recording. The vector is the same.

    Args:
        store: Activations of contrast pairs.
        method: `"mean_difference"` (CAA), `"pca"`, `"logistic"`, `"lda"`, or any callable that takes a `Paired` and
            returns one vector.
        layers: Only these; all of the store's without it.
        by_head: At site `z`, run the method on each head by itself, as ITI does, where the store knows how many there
            are; `False` takes all heads of a layer as one row. The mean difference is the same either way.

    Returns:
        The vector, in the units of the activations. Its `meta` says where it comes from, the mean norm of the
        activations (`residual_norm`), how far the two sides lie apart along it on average (`gap`) and, where more than
        the means is known, the standard deviation of the activations along it (`sigma`).

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
    heads = view.num_heads
    act = EachHead(found, heads) if by_head and heads else found
    rows: list[Tensor] = []
    known: dict[str, dict[int, Any]] = {name: {} for name in ("residual_norm", "gap", "sigma", "head_gap")}
    for layer in view.layers:
        row, acts, moments = _one_layer(view, act, layer)
        row = _check_row(row, view.hidden_size, method, layer)
        rows.append(row)
        strengths = strengths_of(row, acts, moments, parts=heads or 1)
        known["residual_norm"][layer] = moments.norm
        known["gap"][layer] = strengths.gap
        if heads:
            known["head_gap"][layer] = strengths.each_gap
        if strengths.sigma is not None:
            known["sigma"][layer] = strengths.sigma if heads else strengths.sigma[0]
    meta = {**_provenance(view, method), **{name: values for name, values in known.items() if values}}
    if heads:
        meta |= {"heads": heads, "by_head": by_head}
    return SteeringVector(torch.stack(rows), layers=view.layers, site=view.site, meta=meta)


def _one_layer(
    store: ActivationStore, method: Callable[[Paired], Any], layer: int
) -> tuple[Any, Paired | None, Moments]:
    """What the method gives: from the store's running statistics where they are enough, else from the rows."""
    moments = store.statistics(layer) if isinstance(method, Summed) else None
    if moments is not None and isinstance(method, Summed):
        alone = store.manifest.get("keep") == "statistics"
        _check_apart(moments, layer)
        row = _run(partial(method.from_moments, sure=not alone), moments, layer)
        if row is not None:
            return row, None, moments
        if alone:
            how = "keep='rows': statistics are of all heads together" if isinstance(method, EachHead) else (
                "statistics='covariance', or with keep='rows'")  # fmt: skip
            raise StoreError(f"{_method_name(method)} needs more than the means, which are all that this store keeps; "
                             f"record again with {how}")  # fmt: skip
    acts = store.paired(layer)
    _check_acts(acts, store, layer)
    moments = Moments.of(acts)
    _check_apart(moments, layer)
    return _run(method, acts, layer), acts, moments


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


def _run(method: Callable[[Any], Any], given: Paired | Moments, layer: int) -> Any:
    try:
        return method(given)
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


def _check_apart(moments: Moments, layer: int) -> None:
    if moments.apart == 0:
        raise VectorError(
            f"the two sides of all {moments.pairs} pairs are identical at layer {layer}, so there is no direction; "
            "read where the sides differ (record(read=...)), or leave the layer out with layers="
        )


def _check_row(row: Any, hidden: int, method: object, layer: int) -> Tensor:
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
