"""The activations in the two directions in which they vary most, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.diagnostics import figures
from steerkit.errors import InputError
from steerkit.store import ActivationStore, Paired
from steerkit.tables import Cell, Table, Tabular

SYMBOLS = ("circle", "x-thin-open", "diamond-open", "square-open", "triangle-up-open", "cross-thin-open")


@dataclass(frozen=True, eq=False, repr=False)
class PrincipalComponents(Tabular):
    """Coordinates of every activation along the principal components.

    Args:
        layers: Decoder blocks, counted from 0.
        ids: The pairs' names.
        letters: The letter of each side's answer, or empty: `(positive, negative)` for each pair.
        positive: Coordinates of the positive sides, in the units of the residual stream.
        negative: Coordinates of the negative sides.
        explained: Share of the variance along each component, in [0, 1].
    """

    layers: tuple[int, ...]
    ids: tuple[str, ...]
    letters: tuple[tuple[str, str], ...]
    positive: Float[Tensor, "layer pair component"]
    negative: Float[Tensor, "layer pair component"]
    explained: Float[Tensor, "layer component"]

    def to_frame(self) -> Any:
        """A pandas DataFrame with one row per layer, pair and side."""
        import pandas as pd

        count = self.positive.shape[-1]
        parts = []
        for i, layer in enumerate(self.layers):
            for side, values in (("positive", self.positive[i]), ("negative", self.negative[i])):
                columns = {f"component_{k + 1}": values[:, k].tolist() for k in range(count)}
                parts.append(pd.DataFrame({"layer": layer, "pair": list(self.ids), "side": side, **columns}))
        return pd.concat(parts, ignore_index=True)

    def to_json(self) -> str:
        """Everything as JSON."""
        sides = {"positive": self.positive.tolist(), "negative": self.negative.tolist()}
        head = {"layers": self.layers, "pairs": self.ids, "explained": self.explained.tolist()}
        return figures.to_json({**head, **sides})

    def plot(self, *, layer: int | None = None) -> Any:
        """A scatter of the first two components with a slider over the layers.

        Color is the side; the symbol is the letter of the answer where it is known.

        Args:
            layer: Shown first; the middle one without it.

        Raises:
            InputError: There is only one component, or the layer was not measured.
        """
        import plotly.graph_objects as go

        if self.positive.shape[-1] < 2:
            raise InputError("a scatter needs two components; call principal_components(store, count=2)")
        start = self.layers[len(self.layers) // 2] if layer is None else layer
        if start not in self.layers:
            raise InputError(f"layer {start!r} was not measured; choose one of {list(self.layers)}")
        figure = go.Figure()
        titles = []
        for i, at in enumerate(self.layers):
            for trace in self._traces(i):
                figure.add_trace(go.Scatter(**trace))
            first, second = (float(share) for share in self.explained[i, :2])
            titles.append(f"Layer {at}: components 1 and 2 hold {first:.0%} and {second:.0%} of the variance")
        figures.style(figure, title=titles[0], height=640, width=820)
        figure.update_xaxes(title_text="component 1 (residual units)", zeroline=False)
        figure.update_yaxes(title_text="component 2 (residual units)", zeroline=False)
        figure.update_layout(legend={"x": 1.01, "y": 1})
        return figures.add_layer_slider(figure, layers=self.layers, start=start, titles=titles)

    def _traces(self, row: int) -> list[dict[str, Any]]:
        known = sorted({letter for pair in self.letters for letter in pair})
        traces: list[dict[str, Any]] = []
        for side, (name, values, color) in enumerate(
            (("positive", self.positive[row], figures.POSITIVE), ("negative", self.negative[row], figures.NEGATIVE))
        ):
            for k, letter in enumerate(known or [""]):
                chosen = [i for i in range(len(self.ids)) if not known or self.letters[i][side] == letter]
                points = values[chosen].numpy()
                traces.append(
                    {
                        "x": points[:, 0],
                        "y": points[:, 1],
                        "text": [self.ids[i] for i in chosen],
                        "name": f"{name}, answer {letter}" if known else f"{name} side",
                        "mode": "markers",
                        "marker": {
                            "color": color,
                            "symbol": SYMBOLS[k % len(SYMBOLS)],
                            "size": 8,
                            "opacity": 0.75,
                            "line": {"width": 1.6 if k else 0, "color": color},
                        },
                        "hovertemplate": "%{text}<extra></extra>",
                    }
                )
        return traces

    def table(self) -> Table:
        """What is shown of it."""
        count = self.explained.shape[-1]
        rows: list[list[Cell]] = []
        for i, layer in enumerate(self.layers):
            apart = (self.positive[i, :, 0].mean() - self.negative[i, :, 0].mean()) / _spread(self, i)
            rows.append([layer, *(round(float(share), 3) for share in self.explained[i]), round(float(apart), 3)])
        columns = ["layer", *(f"component {k + 1}" for k in range(count)), "sides apart on 1 (std. dev.)"]
        title = f"Share of the variance of {2 * len(self.ids)} activations along each component"
        return Table(columns, rows, title)


def principal_components(
    store: ActivationStore, *, count: int = 2, letters: Sequence[tuple[str, str]] | None = None
) -> PrincipalComponents:
    r"""Both sides' activations along their principal components, at each layer.

    Unlike the extraction method, this looks at the activations, not their differences, and centers them: with
    $X$ the $2n$ rows minus their mean, the components are the first right singular vectors of $X$, and their shares
    $\sigma_k^2 / \sum \sigma^2$. Each component is turned so that the positive side's mean lies above.

    Args:
        store: Activations of contrast pairs.
        count: How many components, at least 1.
        letters: `(positive, negative)` answer letter of each pair. Without it the store's are taken, if every pair has
            one of two letters.

    Raises:
        InputError: There are not so many components, or not one pair of letters for each pair.

    Source: CAA (Rimsky et al. 2024), section 3 and `plot_activations.py`, which drops letters other than A and B; we
    keep them.

    Example:
        >>> from steerkit.store import Paired
        >>> spread = torch.tensor([[0.0, 1.0], [0.0, -1.0]])
        >>> store = ActivationStore.from_layers({0: Paired(spread + torch.tensor([3.0, 0.0]), spread)})
        >>> principal_components(store).explained.round(decimals=3)
        tensor([[0.6920, 0.3080]])
    """
    most = min(2 * len(store) - 1, store.hidden_size)
    if not 1 <= count <= most:
        raise InputError(f"count={count} is not valid; {len(store)} pairs of size {store.hidden_size} have 1 to {most}")
    if letters is not None and len(letters) != len(store):
        raise InputError(f"{len(letters)} pairs of letters for {len(store)} pairs; give one for each")
    parts = [_components(store.paired(layer), count) for layer in store.layers]
    return PrincipalComponents(
        layers=store.layers,
        ids=tuple(store.ids),
        letters=tuple(letters) if letters is not None else _both_letters(store.letters),
        positive=torch.stack([part[0] for part in parts]),
        negative=torch.stack([part[1] for part in parts]),
        explained=torch.stack([part[2] for part in parts]),
    )


def _components(acts: Paired, count: int) -> tuple[Tensor, Tensor, Tensor]:
    rows = torch.cat([acts.positive, acts.negative]).double()
    rows = rows - rows.mean(0)
    wide = rows.shape[0] < rows.shape[1]
    squares, axes = torch.linalg.eigh(rows @ rows.T if wide else rows.T @ rows)
    squares, axes = squares.flip(0)[:count].clamp(min=0), axes.flip(1)[:, :count]
    coordinates = axes * squares.sqrt() if wide else rows @ axes
    n = len(acts)
    gap = coordinates[:n].mean(0) - coordinates[n:].mean(0)
    coordinates = (coordinates * torch.where(gap < 0, -1.0, 1.0)).float()
    total = rows.square().sum()
    explained = squares / total if total > 0 else torch.zeros_like(squares)
    return coordinates[:n], coordinates[n:], explained.float()


def _both_letters(positive: Sequence[str | None]) -> tuple[tuple[str, str], ...]:
    known = sorted({letter for letter in positive if letter})
    if len(known) != 2 or None in positive:
        return ()
    other = {known[0]: known[1], known[1]: known[0]}
    return tuple((letter, other[letter]) for letter in positive if letter)


def _spread(result: PrincipalComponents, row: int) -> float:
    both = torch.cat([result.positive[row, :, 0], result.negative[row, :, 0]])
    return float(both.std(correction=0).clamp(min=1e-30))
