"""Where each pair lies along the vector, and which pairs lie the wrong way round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.diagnostics import figures
from steerkit.diagnostics.shared import common_layers
from steerkit.diagnostics.statistics import cosines
from steerkit.errors import InputError
from steerkit.store import ActivationStore
from steerkit.tables import Cell, Table, Tabular
from steerkit.vectors import SteeringVector


@dataclass(frozen=True, eq=False, repr=False)
class Projection(Tabular):
    """The cosine of every activation with the vector.

    Args:
        layers: Decoder blocks, counted from 0.
        ids: The pairs' names.
        positive: Cosines of the positive sides, in [-1, 1].
        negative: Cosines of the negative sides.
    """

    layers: tuple[int, ...]
    ids: tuple[str, ...]
    positive: Float[Tensor, "layer pair"]
    negative: Float[Tensor, "layer pair"]

    @property
    def margin(self) -> Float[Tensor, "layer pair"]:
        """Positive minus negative cosine of each pair; below 0 the pair lies the wrong way round."""
        return self.positive - self.negative

    @property
    def in_order(self) -> Float[Tensor, " layer"]:
        """Share of pairs whose positive side lies above their negative side."""
        return (self.margin > 0).float().mean(-1)

    def wrong(self, layer: int) -> list[tuple[str, float]]:
        """The pairs that lie the wrong way round at a layer, with their margin, worst first."""
        margins = self.margin[self._row(layer)].tolist()
        return sorted(
            ((name, value) for name, value in zip(self.ids, margins, strict=True) if value <= 0),
            key=lambda row: row[1],
        )

    def to_frame(self) -> Any:
        """A pandas DataFrame with one row per layer and pair."""
        import pandas as pd

        count = len(self.ids)
        return pd.DataFrame(
            {
                "layer": [layer for layer in self.layers for _ in range(count)],
                "pair": list(self.ids) * len(self.layers),
                "positive": self.positive.flatten().tolist(),
                "negative": self.negative.flatten().tolist(),
            }
        )

    def to_json(self) -> str:
        """Everything as JSON."""
        sides = {"positive": self.positive.tolist(), "negative": self.negative.tolist()}
        return figures.to_json({"layers": self.layers, "pairs": self.ids, **sides})

    def plot(self, *, layer: int | None = None) -> Any:
        """Histograms of both sides' cosines, with a slider over the layers.

        Args:
            layer: Shown first; the one with most pairs in order without it.
        """
        import plotly.graph_objects as go

        start = self.layers[int(self.in_order.argmax())] if layer is None else self.layers[self._row(layer)]
        figure = go.Figure()
        titles = []
        for i, at in enumerate(self.layers):
            both = torch.cat([self.positive[i], self.negative[i]])
            low, high = float(both.min()), float(both.max())
            size = max((high - low) / 40, 1e-6)
            for name, values, color in (
                ("positive", self.positive[i], figures.POSITIVE),
                ("negative", self.negative[i], figures.NEGATIVE),
            ):
                bins = {"start": low, "end": high + size, "size": size}
                bar = go.Histogram(x=values.numpy(), name=f"{name} side", xbins=bins, marker_color=color, opacity=0.65)
                figure.add_trace(bar)
            right = int((self.margin[i] > 0).sum())
            titles.append(f"Layer {at}: {right} of {len(self.ids)} pairs lie in the right order along the vector")
        figures.style(figure, title=titles[0], height=520)
        figure.update_layout(barmode="overlay", bargap=0.03, legend={"x": 0.99, "xanchor": "right", "y": 0.99})
        figure.update_xaxes(title_text="cosine with the vector")
        figure.update_yaxes(title_text="activations")
        return figures.add_layer_slider(figure, layers=self.layers, start=start, titles=titles)

    def _row(self, layer: int) -> int:
        if layer not in self.layers:
            raise InputError(f"layer {layer!r} was not measured; choose one of {list(self.layers)}")
        return self.layers.index(layer)

    def table(self) -> Table:
        """What is shown of it."""
        rows: list[list[Cell]] = []
        for i, layer in enumerate(self.layers):
            worst = int(self.margin[i].argmin())
            means: list[Cell] = [float(side[i].mean()) for side in (self.positive, self.negative)]
            rows.append([layer, *means, float(self.in_order[i]), self.ids[worst], float(self.margin[i, worst])])
        columns = ["layer", "positive", "negative", "in order", "worst pair", "its margin"]
        title = f"Projection of {len(self.ids)} pairs: mean cosine of each side with the vector"
        return Table(columns, rows, title)


def projection(store: ActivationStore, vector: SteeringVector) -> Projection:
    r"""The cosine $h \cdot v / (|h| |v|)$ of every activation with the vector, at each layer that both have.

    Args:
        store: Pairs, best those that the vector was not extracted from.
        vector: The direction.

    Raises:
        VectorError: Another site or hidden size, or a row of the vector is zero.
        InputError: No layer in common.

    Example:
        >>> from steerkit.store import Paired
        >>> store = ActivationStore.from_layers({0: Paired(torch.eye(2), -torch.eye(2))}, ids=["a", "b"])
        >>> projection(store, SteeringVector(torch.tensor([1.0, -1.0]), layers=0)).wrong(0)
        [('b', -1.41421...)]
    """
    layers = common_layers(store, vector)
    vector.select(layers).lengths()
    sides: dict[str, list[Tensor]] = {"positive": [], "negative": []}
    for layer in layers:
        acts, direction = store.paired(layer), vector.at(layer)
        sides["positive"].append(cosines(acts.positive, direction))
        sides["negative"].append(cosines(acts.negative, direction))
    stacked = {name: torch.stack(rows) for name, rows in sides.items()}
    return Projection(layers=tuple(layers), ids=tuple(store.ids), **stacked)
