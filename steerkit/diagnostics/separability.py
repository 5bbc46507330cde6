"""How far the two sides of the pairs lie apart, layer by layer, and from which layer on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.diagnostics import figures
from steerkit.diagnostics.shared import common_layers
from steerkit.diagnostics.statistics import auroc, cosines, d_prime, probe_accuracy, silhouette
from steerkit.errors import InputError
from steerkit.extraction.pca import leading_direction
from steerkit.store import ActivationStore
from steerkit.tables import Cell, Table, Tabular
from steerkit.vectors import SteeringVector

COLUMNS = ("auroc", "null_low", "null_high", "p_value", "d_prime", "probe_accuracy", "silhouette", "first_component")


@dataclass(frozen=True, eq=False, repr=False)
class Separation(Tabular):
    """One number per layer for each statistic; see `separation` for what they are.

    Args:
        layers: Decoder blocks, counted from 0.
        pairs: How many pairs they come from.
        permutations: How many random swaps the null comes from.
        auroc: Of the cosine projection, in [0, 1]; 0.5 is chance.
        null_low: 5th percentile of the AUROC when the sides are swapped at random.
        null_high: 95th percentile of the same.
        p_value: One-sided, of the AUROC under the null, in (0, 1].
        d_prime: Of the cosine projection, in standard deviations.
        probe_accuracy: Of a linear probe on all dimensions, cross-validated, in [0, 1]; 0.5 is chance.
        silhouette: Of the two sides in all dimensions, in [-1, 1].
        first_component: Share of the (uncentered) differences' squared length along their first component, in (0, 1].
    """

    layers: tuple[int, ...]
    pairs: int
    permutations: int
    auroc: Float[Tensor, " layer"]
    null_low: Float[Tensor, " layer"]
    null_high: Float[Tensor, " layer"]
    p_value: Float[Tensor, " layer"]
    d_prime: Float[Tensor, " layer"]
    probe_accuracy: Float[Tensor, " layer"]
    silhouette: Float[Tensor, " layer"]
    first_component: Float[Tensor, " layer"]

    @property
    def emerges(self) -> int | None:
        """The first layer from which the AUROC stays above the null's 95th percentile, there and at every later layer.

        `None` where the last layer is not above it. Layers that were not recorded are not asked. Where nothing
        separates, some layer is named in about one of twenty cases.
        """
        found = None
        for layer, value, bound in zip(
            reversed(self.layers), self.auroc.flip(0).tolist(), self.null_high.flip(0).tolist(), strict=True
        ):
            if value <= bound:
                break
            found = layer
        return found

    @property
    def best(self) -> int:
        """The layer with the highest AUROC; where several share it, the one of them with the largest d'."""
        d = self.d_prime.nan_to_num(nan=-torch.inf).tolist()
        return max(zip(self.auroc.tolist(), d, self.layers, strict=True), key=lambda row: row[:2])[2]

    def at(self, layer: int) -> dict[str, float]:
        """All statistics of one layer by name.

        Raises:
            InputError: The layer is not among these.
        """
        if layer not in self.layers:
            raise InputError(f"layer {layer!r} was not measured; choose one of {list(self.layers)}")
        return {name: float(getattr(self, name)[self.layers.index(layer)]) for name in COLUMNS}

    def to_frame(self) -> Any:
        """A pandas DataFrame with one row per layer."""
        import pandas as pd

        columns = {name: getattr(self, name).tolist() for name in COLUMNS}
        return pd.DataFrame({"layer": list(self.layers), **columns})

    def to_json(self) -> str:
        """Everything as JSON."""
        columns = {name: getattr(self, name).tolist() for name in COLUMNS}
        head = {"pairs": self.pairs, "permutations": self.permutations, "emerges": self.emerges, "best": self.best}
        return figures.to_json({**head, "layer": list(self.layers), **columns})

    def plot(self) -> Any:
        """AUROC with its null band and probe accuracy (left axis), and d' (right axis), by layer."""
        from steerkit.diagnostics.separability_figure import draw

        return draw(self)

    def table(self) -> Table:
        """What is shown of it."""
        columns = ["layer", "AUROC", "null 5-95%", "p", "d'", "probe", "silhouette", "1st comp."]
        rows: list[list[Cell]] = []
        for i, layer in enumerate(self.layers):
            band = f"{float(self.null_low[i]):.3f}-{float(self.null_high[i]):.3f}"
            rest: list[Cell] = [_rounded(getattr(self, name)[i]) for name in COLUMNS[3:]]
            rows.append([layer, _rounded(self.auroc[i]), band, *rest])
        return Table(columns, rows, f"Separation of {self.pairs} pairs: {self.summary}")

    @property
    def summary(self) -> str:
        """What one sees, in a few words."""
        at = f"best at layer {self.best} (AUROC {float(self.auroc[self.layers.index(self.best)]):.3f})"
        start = "nothing above chance at the last layer" if self.emerges is None else f"emerges at layer {self.emerges}"
        return f"{start}, {at}"


def separation(store: ActivationStore, vector: SteeringVector, *, permutations: int = 200, seed: int = 0) -> Separation:
    r"""How far the two sides of the pairs lie apart along the vector, at each layer that both have.

    Of the cosine projection $p = h \cdot v / (|h| |v|)$ of every activation:

    - `auroc`: $P(p^+ > p^-) + \frac12 P(p^+ = p^-)$ over all combinations of a positive and a negative activation.
    - `null_low`, `null_high`, `p_value`: the same with the sides of each pair swapped with probability 1/2; its 5th
      and 95th percentile, and $(1 + \#\{\text{null} \ge \text{AUROC}\}) / (1 + \text{permutations})$.
    - `d_prime`: $(\bar p^+ - \bar p^-) / \sqrt{(s_+^2 + s_-^2) / 2}$.

    Of all dimensions, without the vector: the cross-validated accuracy of a linear probe (`probe_accuracy`), the
    `silhouette` of the two sides, and the share of the differences along their `first_component`.

    An AUROC of 1 says that the sides can be told apart at a layer, not that adding the vector there changes what the
    model says: only a sweep shows that.

    Args:
        store: Pairs the vector was not extracted from; on its own pairs the result flatters it.
        vector: The direction that is asked about.
        permutations: Random swaps for the null, at least 20.
        seed: Of the swaps and of the probe's folds.

    Raises:
        VectorError: Another site or hidden size, or a row of the vector is zero.
        InputError: No layer in common, or too few permutations.

    Source: AUROC and d' are those of signal detection (Green and Swets 1966); the cosine is the similarity that CAA
    plots over tokens (Rimsky et al. 2024). The null, the held-out pairs and the probe are ours.

    Example:
        >>> from steerkit.store import Paired
        >>> store = ActivationStore.from_layers({0: Paired(torch.eye(6), -torch.eye(6))})
        >>> separation(store, SteeringVector(torch.ones(6), layers=0)).at(0)["auroc"]
        1.0
    """
    layers = common_layers(store, vector)
    if permutations < 20:
        raise InputError(f"permutations={permutations} is too few for a band from 5 to 95 percent; give 20 or more")
    vector.select(layers).lengths()
    swaps = torch.randint(0, 2, (permutations, len(store)), generator=torch.Generator().manual_seed(seed)).float()
    rows = [_measure(store, vector, layer, swaps=swaps, seed=seed) for layer in layers]
    columns = {name: torch.tensor([row[name] for row in rows]) for name in COLUMNS}
    return Separation(layers=tuple(layers), pairs=len(store), permutations=permutations, **columns)


def _measure(
    store: ActivationStore, vector: SteeringVector, layer: int, *, swaps: Tensor, seed: int
) -> dict[str, float]:
    acts, direction = store.paired(layer), vector.at(layer)
    positive, negative = cosines(acts.positive, direction), cosines(acts.negative, direction)
    observed, null = auroc(positive, negative, swaps=swaps)
    above = int((null >= observed - 1e-12).sum())
    same = torch.equal(acts.positive, acts.negative)
    return {
        "auroc": observed,
        "null_low": float(null.quantile(0.05)),
        "null_high": float(null.quantile(0.95)),
        "p_value": (1 + above) / (1 + len(null)),
        "d_prime": d_prime(positive, negative),
        "probe_accuracy": 0.5 if same else probe_accuracy(acts.positive, acts.negative, seed=seed),
        "silhouette": silhouette(acts.positive, acts.negative),
        "first_component": float("nan") if same else leading_direction(acts.difference)[1],
    }


def _rounded(value: Tensor) -> float:
    return round(float(value), 3)
