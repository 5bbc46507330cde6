"""Numbers of differences by layer: how long they are, how much of the state, how much they agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerkit.diagnostics.figures import style, to_json
from steerkit.errors import DataError
from steerkit.tables import Cell, Table, Tabular
from steerkit.training.differences.layers import hidden_state_indices
from steerkit.training.differences.stored_differences import BATCH

if TYPE_CHECKING:
    from steerkit.training.differences.stored_differences import Differences

FLOOR = 3.0
"""A difference at most this many times as long as its own noise is no difference."""
COLUMNS = ("layer", "hidden_states", "mean |v|", "sd", "mean |h|", "|v| / |h|", "consistency", "difficulty", "top 1 %",
           "noise")  # fmt: skip


@dataclass(frozen=True)
class LayerDifference:
    r"""One layer's differences.

    Args:
        layer: The block.
        norm: Mean length of a token's difference, in the units of the residual stream.
        spread: Standard deviation of that length.
        base_norm: Mean length of a token's base state.
        consistency: $\|\bar v\| / \overline{\|v\|}$: 1 where all tokens have the same difference, near 0 where they
            cancel.
        difficulty: $1 - \|\bar v\|^2 / \overline{\|v\|^2}$: the share of the squared differences that one vector for
            all tokens leaves, so what weights must learn to tell tokens apart for.
        top_share: Share of the squared differences that lies in the longest 1 % of tokens.
        noise: Mean length of what rounding alone does to a difference, as measured while collecting.
    """

    layer: int
    norm: float
    spread: float
    base_norm: float
    consistency: float
    difficulty: float
    top_share: float
    noise: float

    @property
    def rho(self) -> float:
        r"""Relative size $\rho = \overline{\|v\|} / \overline{\|h\|}$."""
        return self.norm / self.base_norm


@dataclass(frozen=True, repr=False, eq=False)
class DifferenceSummary(Tabular):
    """What is known of differences before they are trained on.

    Args:
        layers: By layer.
        by_position: Mean length by the token's place in its response.
        counts: Tokens at each place.
        title: What was read.
        note: How.
    """

    layers: tuple[LayerDifference, ...]
    by_position: Float[Tensor, "layer place"]
    counts: Int[Tensor, " place"]
    title: str = ""
    note: str = ""

    def table(self) -> Table:
        """What is shown of it."""
        rows: list[list[Cell]] = [
            [one.layer, seen, one.norm, one.spread, one.base_norm, one.rho, one.consistency, one.difficulty,
             one.top_share, one.noise]
            for one, seen in zip(self.layers, hidden_state_indices([one.layer for one in self.layers]), strict=True)
        ]  # fmt: skip
        return Table(COLUMNS, rows, self.title, self.note)

    def to_frame(self) -> Any:
        """A pandas DataFrame with one row a layer."""
        import pandas as pd

        return pd.DataFrame([{**asdict(one), "rho": one.rho} for one in self.layers])

    def to_json(self) -> str:
        """Everything, for machines."""
        return to_json({"layers": [{**asdict(one), "rho": one.rho} for one in self.layers],
                        "by_position": self.by_position.tolist(), "counts": self.counts.tolist()})  # fmt: skip

    def plot(self) -> Any:
        """How long the differences are, by the token's place in its response, one line a layer."""
        import plotly.graph_objects as go

        figure = go.Figure()
        for one, line in zip(self.layers, self.by_position, strict=True):
            figure.add_scatter(x=list(range(len(line))), y=line.tolist(), name=f"layer {one.layer}",
                               mode="lines+markers", customdata=self.counts.tolist(),
                               hovertemplate="token %{x}: |v| = %{y:.3g}, %{customdata} responses")  # fmt: skip
        figure.update_xaxes(title="token of the response")
        figure.update_yaxes(title="mean |v|", rangemode="tozero")
        return style(figure, title="Where in the response the difference lies", note=self.title)


def summarize(differences: Differences) -> DifferenceSummary:
    """The numbers of all layers; the store is read once, a batch at a time."""
    manifest, pooled = differences.store.manifest, differences.pool != "token"
    places = 1 if pooled else max(sample.inside for sample in differences.samples)
    by_position, found = torch.zeros(len(differences.layers), places), []
    for number, layer in enumerate(differences.layers):
        lengths, base, place = _lengths(differences, layer)
        by_position[number] = _mean_by(lengths, place, places)
        squares = lengths.double().square()
        norm, mean = float(lengths.mean()), float(differences.mean[number].double().norm())
        longest = squares.sort(descending=True).values[: max(1, len(squares) // 100)]
        found.append(LayerDifference(
            layer, norm, float(lengths.std(correction=0)),
            float(base.mean()) if len(base) else float(manifest["residual_norm"][str(layer)]),
            mean / norm if norm else 0.0, 1 - mean**2 / float(squares.mean()) if norm else 0.0,
            float(longest.sum() / squares.sum()) if norm else 0.0, float(manifest["noise"][str(layer)]),
        ))  # fmt: skip
    counts = torch.bincount(_lengths(differences, differences.layers[0])[2], minlength=places)
    return DifferenceSummary(tuple(found), by_position, counts, _title(differences), _note(differences))


def _lengths(differences: Differences, layer: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of every difference at a layer: its length, that of its base state, and its place in its response."""
    shifts, bases, places = [], [], []
    for first in range(0, len(differences), BATCH):
        rows = differences._rows(layer, range(first, min(first + BATCH, len(differences))))
        shifts.append(torch.linalg.vector_norm(rows.positive.values, dim=-1))
        bases.append(torch.linalg.vector_norm(rows.negative.values, dim=-1))
        places += [torch.arange(int(count)) for count in rows.positive.lengths]
    return torch.cat(shifts), torch.cat(bases), torch.cat(places)


def _mean_by(values: Tensor, place: Tensor, places: int) -> Tensor:
    total = torch.zeros(places, dtype=torch.float64).index_add_(0, place, values.double())
    return (total / torch.bincount(place, minlength=places).clamp(min=1)).float()


def _title(differences: Differences) -> str:
    about, data = differences.about, differences.store.manifest["data"]
    return (f"Differences of {data['name']} (mode {about['mode']!r}): {len(differences)} responses, "
            f"{differences.samples.inside()} tokens, pooled by {differences.pool}")  # fmt: skip


def _note(differences: Differences) -> str:
    on = f"on top of the weights {', '.join(differences.start)}" if differences.start else "on top of the plain model"
    return (f"{on}; layers are blocks counted from 0 (hidden_states: as Hugging Face counts them); consistency is "
            "|mean v| / mean |v|; difficulty is the share of |v|^2 that one vector for all tokens leaves")  # fmt: skip


def check_signal(layers: Sequence[int], norms: Tensor, noise: Tensor, base_norms: Tensor, *, epsilon: float) -> None:
    r"""Refuse differences that are nothing, or no longer than what rounding does.

    A layer passes where $\overline{\|v\|}$ is above three times the measured noise, and above a quarter of the model's
    rounding step of its state, $\epsilon \overline{\|h\|} / 4$.

    Args:
        layers: Blocks.
        norms: Mean length of the differences at each.
        noise: Mean length of their noise at each.
        base_norms: Mean length of the states at each.
        epsilon: Of the model's dtype.

    Raises:
        DataError: A layer does not pass.
    """
    floor = torch.maximum(FLOOR * noise, epsilon / 4 * base_norms)
    silent = [(layer, float(a), float(b)) for layer, a, b in zip(layers, norms, floor, strict=True) if not a > b]
    if silent:
        layer, norm, least = silent[0]
        what = "is exactly 0" if norm == 0 else f"is {norm:.3g} long, no more than the noise floor of {least:.3g}"
        raise DataError(f"the difference {what} at layer {layer} ({len(silent)} of {len(layers)} layers): both "
                        "readings see the same model with the same prompt. Check that the instructions ask for "
                        "opposites, that the good and the bad weights were taught different answers, and that the "
                        "weights act at or before that layer; or leave the layer out")  # fmt: skip
