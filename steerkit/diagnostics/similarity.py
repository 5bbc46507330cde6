"""Which vectors point the same way: across layers, and across concepts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.diagnostics import figures
from steerkit.errors import InputError, VectorError
from steerkit.tables import Cell, Table, Tabular
from steerkit.vectors import SteeringVector


@dataclass(frozen=True, eq=False, repr=False)
class Similarity(Tabular):
    """A table of cosines.

    Args:
        rows: What the rows are, such as `"layer 13"` or a vector's name.
        columns: What the columns are.
        values: The cosines, in [-1, 1].
        title: What is compared.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: Float[Tensor, "row column"]
    title: str

    def to_frame(self) -> Any:
        """A pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(self.values.tolist(), index=list(self.rows), columns=list(self.columns))

    def to_json(self) -> str:
        """Everything as JSON."""
        content = {"title": self.title, "rows": self.rows, "columns": self.columns, "cosine": self.values.tolist()}
        return figures.to_json(content)

    def plot(self) -> Any:
        """A heat map; blue points the same way, orange the opposite way."""
        import plotly.graph_objects as go

        few = max(len(self.rows), len(self.columns)) <= 12
        heat = go.Heatmap(
            x=list(self.columns),
            y=list(self.rows),
            z=self.values.numpy(),
            zmin=-1,
            zmax=1,
            colorscale=figures.DIVERGING,
            colorbar={"title": "cosine", "thickness": 16},
            hovertemplate="%{y}, %{x}: %{z:.3f}<extra></extra>",
            texttemplate="%{z:.2f}" if few else None,
        )
        figure = figures.style(go.Figure(heat), title=self.title, height=560, width=700)
        figure.update_yaxes(autorange="reversed", type="category", scaleanchor="x", constrain="domain")
        figure.update_xaxes(type="category", constrain="domain")
        if not few:
            ticks = {
                "tickvals": list(self.rows)[::4],
                "ticktext": [name.removeprefix("layer ") for name in self.rows[::4]],
            }
            figure.update_yaxes(title_text="layer", **ticks)
            figure.update_xaxes(title_text="layer", tickangle=0, **ticks)
        return figure

    def table(self) -> Table:
        """What is shown of it."""
        numbers = [[round(value, 3) for value in row] for row in self.values.tolist()]
        rows: list[list[Cell]] = [[name, *row] for name, row in zip(self.rows, numbers, strict=True)]
        return Table(["", *self.columns], rows, self.title)


def layer_similarity(vector: SteeringVector, other: SteeringVector | None = None) -> Similarity:
    r"""The cosine of each layer's row with each other's, $v_i \cdot w_j / (|v_i| |w_j|)$.

    Neighbors that agree say that a concept is carried on from layer to layer; a block of them often begins where the
    sides separate.

    Args:
        vector: Its layers are the rows.
        other: Its layers are the columns; the same vector without it.

    Raises:
        VectorError: A row is zero, the hidden sizes differ, or one vector alone is of site `z`.

    Source: CAA (Rimsky et al. 2024), `analyze_vectors.py`. No difference.

    Example:
        >>> layer_similarity(SteeringVector(torch.tensor([[1.0, 0.0], [3.0, 4.0]]), layers=[4, 5]))
        Cosine of the vector with itself, layer by layer
                 layer 4  layer 5
        layer 4        1      0.6
        layer 5      0.6        1
    """
    second = vector if other is None else other
    if (vector.site == "z") != (second.site == "z"):
        raise VectorError(f"the vectors belong to {vector.site} and {second.site}, whose directions cannot be compared")
    if vector.hidden_size != second.hidden_size:
        raise VectorError(f"the vectors have different hidden sizes: {vector.hidden_size} and {second.hidden_size}")
    whom = "itself" if other is None else "another"
    return Similarity(
        rows=tuple(f"layer {layer}" for layer in vector.layers),
        columns=tuple(f"layer {layer}" for layer in second.layers),
        values=_cosines(_directions(vector), _directions(second)),
        title=f"Cosine of the vector with {whom}, layer by layer",
    )


def vector_similarity(vectors: Mapping[str, SteeringVector], *, layer: int) -> Similarity:
    r"""The cosine of each named vector with each other at one layer.

    Args:
        vectors: Two or more, by name.
        layer: Where they are compared.

    Raises:
        InputError: Fewer than two are given.
        VectorError: One lacks the layer or is zero there, or they have different sites or hidden sizes.

    Source: CAA (Rimsky et al. 2024), `analyze_vectors.py`. No difference.

    Example:
        >>> a = SteeringVector(torch.tensor([1.0, 0.0]), layers=4)
        >>> b = SteeringVector(torch.tensor([3.0, 4.0]), layers=4)
        >>> vector_similarity({"a": a, "b": b}, layer=4).values[0, 1].item()
        0.600...
    """
    if len(vectors) < 2:
        raise InputError(f"{len(vectors)} vector given; give two or more to compare")
    rows = {name: vector.select(layer) for name, vector in vectors.items()}
    first, *rest = rows.values()
    for one in rest:
        first.check_like(one)
    stacked = torch.cat([_directions(one) for one in rows.values()])
    names = tuple(rows)
    return Similarity(names, names, _cosines(stacked, stacked), f"Cosine of the vectors at layer {layer}")


def _directions(vector: SteeringVector) -> Tensor:
    return vector.values.double() / vector.lengths().unsqueeze(-1)


def _cosines(first: Tensor, second: Tensor) -> Tensor:
    return (first @ second.T).clamp(-1, 1).float()
