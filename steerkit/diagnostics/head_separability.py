"""Which attention heads tell the two sides of the pairs apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.diagnostics import figures
from steerkit.diagnostics.head_probes import probe_heads
from steerkit.diagnostics.shared import common_layers
from steerkit.diagnostics.statistics import auroc, cosines, d_prime
from steerkit.errors import InputError, VectorError
from steerkit.store import ActivationStore
from steerkit.tables import Cell, Table, Tabular
from steerkit.vectors import SteeringVector

Rank = Literal["accuracy", "auroc"]

SHOWN = 12
"""Heads in the printed table."""

COLUMNS = ("accuracy", "null_high", "p_value", "d_prime", "auroc")


@dataclass(frozen=True, eq=False, repr=False)
class HeadSeparation(Tabular):
    """One number per layer and head for each statistic; see `head_separation` for what they are.

    Args:
        layers: Decoder blocks, counted from 0.
        pairs: How many pairs they come from.
        permutations: How many random swaps the null comes from.
        accuracy: Of a linear probe on the head's output, cross-validated, in [0, 1]; 0.5 is chance.
        null_high: 95th percentile of the accuracy when the sides are swapped at random.
        p_value: One-sided, of the accuracy under the null, in (0, 1].
        d_prime: How far apart the probe puts the held-out sides, in standard deviations.
        chance_best: 95th percentile of the best accuracy of all heads when the sides are swapped at random.
        auroc: Along each head's part of the vector, where one was given; NaN where that is zero.
    """

    layers: tuple[int, ...]
    pairs: int
    permutations: int
    accuracy: Float[Tensor, "layer head"]
    null_high: Float[Tensor, "layer head"]
    p_value: Float[Tensor, "layer head"]
    d_prime: Float[Tensor, "layer head"]
    chance_best: float
    auroc: Float[Tensor, "layer head"] | None = None

    @property
    def num_heads(self) -> int:
        """Heads of each layer."""
        return self.accuracy.shape[1]

    @property
    def above(self) -> list[tuple[int, int]]:
        """The heads whose accuracy is above that of the best head by chance, best first."""
        found = int((self.accuracy > self.chance_best).sum())
        return self._ranked("accuracy")[:found]

    def top(self, count: int, *, by: Rank | None = None) -> list[tuple[int, int]]:
        """The best heads as `(layer, head)`, for `vector.heads(...)`; of equal ones the larger d' comes first.

        Args:
            count: How many, at least 1.
            by: `"accuracy"`, as ITI ranks them; or `"auroc"`, which it is without it where a vector was given: how well
                the very direction that is added tells the sides apart.

        Raises:
            InputError: There are not so many heads, or the AUROC was not measured.
        """
        most = self.accuracy.numel()
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= most:
            raise InputError(f"count={count!r} is not valid; there are {most} heads, give 1 to {most}")
        if by is not None and by not in get_args(Rank):
            raise InputError(f"by={by!r} is not valid; choose one of {', '.join(map(repr, get_args(Rank)))}")
        return self._ranked(by)[:count]

    def at(self, layer: int, head: int) -> dict[str, float]:
        """All statistics of one head by name.

        Raises:
            InputError: The head is not among these.
        """
        if layer not in self.layers or isinstance(head, bool) or head not in range(self.num_heads):
            raise InputError(f"head {head!r} of layer {layer!r} was not measured; choose a layer of "
                             f"{list(self.layers)} and a head from 0 to {self.num_heads - 1}")  # fmt: skip
        row = self.layers.index(layer)
        return {name: float(values[row, head]) for name, values in self._columns().items()}

    def to_frame(self) -> Any:
        """A pandas DataFrame with one row per head."""
        import pandas as pd

        return pd.DataFrame(self._long())

    def to_json(self) -> str:
        """Everything as JSON."""
        head = {"pairs": self.pairs, "permutations": self.permutations, "chance_best": self.chance_best}
        return figures.to_json({**head, "above": self.above, **self._long()})

    def plot(self) -> Any:
        """A heat map of the accuracy, layers by heads; hover for the rest."""
        import plotly.graph_objects as go

        columns = self._columns()
        names = [name for name in columns if name != "accuracy"]
        hover = "layer %{y}, head %{x}<br>accuracy %{z:.3f}" + "".join(
            f"<br>{name} %{{customdata[{i}]:.3f}}" for i, name in enumerate(names)
        )
        heat = go.Heatmap(
            x=list(range(self.num_heads)),
            y=list(self.layers),
            z=self.accuracy.tolist(),
            customdata=torch.stack([columns[name] for name in names], dim=-1).tolist(),
            zmin=min(0.5, float(self.accuracy.min())),
            zmax=1,
            colorscale=[[0.0, "#F7F7F7"], [1.0, figures.POSITIVE]],
            colorbar={"title": "accuracy", "thickness": 16},
            hovertemplate=hover + "<extra></extra>",
        )
        note = (f"{self.pairs} pairs; accuracy of a linear probe on held-out pairs; the best head by chance has "
                f"{self.chance_best:.2f} ({self.permutations} random swaps of the sides)")  # fmt: skip
        figure = figures.style(go.Figure(heat), title=self._claim(), note=note, height=560)
        figure.update_xaxes(title_text="head", dtick=1 if self.num_heads <= 16 else 4)
        figure.update_yaxes(title_text="layer (decoder block)", dtick=1 if len(self.layers) <= 16 else 4)
        return figure

    def table(self) -> Table:
        """What is shown of it: the best heads."""
        names = {"accuracy": "accuracy", "null_high": "null 95%", "p_value": "p", "d_prime": "d'", "auroc": "AUROC"}
        columns = ["layer", "head", *(names[name] for name in self._columns())]
        rows: list[list[Cell]] = []
        for layer, head in self._ranked(None)[:SHOWN]:
            rows.append([layer, head, *(round(value, 3) for value in self.at(layer, head).values())])
        rest = self.accuracy.numel() - len(rows)
        note = f"... and {rest} more heads: .to_frame(), .plot()" if rest else ""
        title = f"Separation of {self.pairs} pairs by head: {self._claim()} ({self.chance_best:.3f})"
        return Table(columns, rows, title, note=note)

    def _claim(self) -> str:
        return f"{len(self.above)} of {self.accuracy.numel()} heads above the best one by chance"

    def _columns(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in COLUMNS if getattr(self, name) is not None}

    def _long(self) -> dict[str, list[Any]]:
        count = self.num_heads
        places = {"layer": [at for at in self.layers for _ in range(count)], "head": [*range(count)] * len(self.layers)}
        return {**places, **{name: values.flatten().tolist() for name, values in self._columns().items()}}

    def _ranked(self, by: Rank | None) -> list[tuple[int, int]]:
        along = by == "auroc" or (by is None and self.auroc is not None)
        first = self.auroc if along else self.accuracy
        if first is None:
            raise InputError("by='auroc' needs a vector; give head_separation the one that is asked about")
        keys = zip(*(one.nan_to_num(nan=-torch.inf).flatten().tolist() for one in (first, self.d_prime)), strict=True)
        places = [(layer, head) for layer in self.layers for head in range(self.num_heads)]
        ranked = sorted(zip(keys, places, strict=True), key=lambda one: one[0], reverse=True)
        return [place for _, place in ranked]


def head_separation(
    store: ActivationStore, vector: SteeringVector | None = None, *, permutations: int = 200, seed: int = 0
) -> HeadSeparation:
    r"""How well each attention head tells the two sides of the pairs apart, at every layer of a store of site `z`.

    - `accuracy`: share of activations that a linear probe on the head's output puts on the right side, in five folds
      of pairs that did not train it.
    - `null_high`, `p_value`: the same with the sides of each pair swapped with probability 1/2; its 95th percentile,
      and $(1 + \#\{\text{null} \ge \text{accuracy}\}) / (1 + \text{permutations})$. Of many heads some are above
      it by chance; `chance_best` is the 95th percentile of the best of all.
    - `d_prime`: how far apart the probes put held-out sides, in standard deviations.
    - `auroc`: with a vector, $P(p^+ > p^-) + \frac12 P(p^+ = p^-)$ of the cosine with the head's part of it.

    Args:
        store: Recorded with `site="z"`. Accuracies are cross-validated, so the pairs a vector is made of will do; the
            AUROC of a vector needs others.
        vector: A direction to ask about as well.
        permutations: Random swaps for the null, at least 20.
        seed: Of the swaps and of the folds.

    Raises:
        VectorError: The vector is of another site or width.
        InputError: The store is of another site, does not know its heads, or holds too few pairs; or too few
            permutations.

    A head that tells the sides apart need not steer: it may only read what another one has settled. A sweep, or
    `score_choices` inside a `Steer`, shows which do.

    Source: Li et al. 2023 (ITI, arXiv 2306.03341), section 3, who rank heads by the accuracy of a logistic regression
    on one fifth of the pairs. We differ: five folds, Fisher's discriminant, and a null.

    Example:
        >>> from steerkit.store import Paired
        >>> rows = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
        >>> acts = Paired(rows + torch.tensor([0.0, 0, 0, 9]), rows)
        >>> store = ActivationStore.from_layers({5: acts}, site="z", manifest={"heads": 2})
        >>> head_separation(store).top(1)
        [(5, 1)]
    """
    layers = _check(store, vector, permutations)
    swaps = torch.randint(0, 2, (permutations, len(store)), generator=torch.Generator().manual_seed(seed)).float()
    columns: dict[str, list[Tensor]] = {name: [] for name in COLUMNS}
    best = torch.zeros(permutations, dtype=torch.float64)
    for layer in layers:
        acts = store.paired(layer)
        sides = [side.reshape(len(store), store.num_heads, -1) for side in (acts.positive, acts.negative)]
        accuracy, null, margins = probe_heads(sides[0], sides[1], swaps=swaps, seed=seed)
        best = torch.maximum(best, null.amax(1))
        columns["accuracy"].append(accuracy)
        columns["null_high"].append(null.quantile(0.95, dim=0))
        columns["p_value"].append((1 + (null >= accuracy - 1e-12).sum(0)) / (1 + permutations))
        columns["d_prime"].append(torch.tensor([d_prime(*both) for both in margins.transpose(0, 1)]))
        if vector is not None:
            columns["auroc"].append(_along(sides, vector, layer))
    found: dict[str, Any] = {name: torch.stack(rows).float() for name, rows in columns.items() if rows}
    return HeadSeparation(
        layers=tuple(layers), pairs=len(store), permutations=permutations, chance_best=float(best.quantile(0.95)),
        **found,
    )  # fmt: skip


def _along(sides: list[Tensor], vector: SteeringVector, layer: int) -> Tensor:
    found = []
    for head, part in enumerate(vector.at(layer).reshape(sides[0].shape[1], -1)):
        positive, negative = (cosines(side[:, head], part) for side in sides)
        found.append(auroc(positive, negative)[0] if part.any() else float("nan"))
    return torch.tensor(found)


def _check(store: ActivationStore, vector: SteeringVector | None, permutations: int) -> list[int]:
    if store.site != "z":
        raise InputError(f"the store was recorded at {store.site}, where heads are already mixed; record at site='z'")
    if not store.num_heads:
        raise InputError(
            "the store does not know how many heads its rows hold; give from_layers manifest={'heads': ...}"
        )
    if permutations < 20:
        raise InputError(f"permutations={permutations} is too few for a 95th percentile; give 20 or more")
    if len(store) < 4:
        raise InputError(f"{len(store)} pairs are too few for a probe that is asked about others; give 4 or more")
    if vector is None:
        return list(store.layers)
    layers = common_layers(store, vector)
    if vector.num_heads not in (0, store.num_heads):
        raise VectorError(f"the store holds {store.num_heads} heads a layer, the vector {vector.num_heads}")
    return layers
