"""Pictures of choices and sweeps, drawn by plotly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from steerkit.diagnostics.figures import DIVERGING, style
from steerkit.evaluation.conventions import signed

if TYPE_CHECKING:
    from steerkit.evaluation.controls import RandomControl
    from steerkit.evaluation.generations import ScoredAnswers
    from steerkit.evaluation.grids import Sweep
    from steerkit.evaluation.scores import ScoredItems

LETTERS = (("A", "#4269d0"), ("B", "#efb118"), ("other", "#9498a0"))


def plot_items(items: ScoredItems, *, title: str) -> Any:
    """Every item by its share and its mass."""
    import plotly.graph_objects as go

    figure = go.Figure()
    named = [letter if letter in ("A", "B") else "other" for letter in items.letter]
    for letter, color in LETTERS:
        rows = [i for i, name in enumerate(named) if name == letter]
        if not rows:
            continue
        figure.add_scatter(
            x=[float(items.p_matching[i]) for i in rows],
            y=[float(items.mass[i]) for i in rows],
            text=[items.id[i] for i in rows],
            name=f"matching {letter}" if any(items.letter) else "items",
            mode="markers",
            marker={"color": color, "size": 8, "opacity": 0.8},
            hovertemplate="item %{text}<br>p(matching) %{x:.3f}<br>mass %{y:.3f}<extra></extra>",
        )
    figure.update_layout(title=title, template="plotly_white")
    figure.update_xaxes(title="p(matching)", range=[-0.03, 1.03])
    figure.update_yaxes(title="mass of both answers", range=[-0.03, 1.03])
    return figure


def plot_sweep(grid: Sweep) -> Any:
    """The heat map, centered at the unsteered value, and the effect by layer."""
    from plotly.subplots import make_subplots

    low, high = grid.effect.ends
    figure = make_subplots(
        rows=1,
        cols=2,
        subplot_titles=("p(matching)", f"p(matching) at {signed(high)} less that at {signed(low)}"),
        horizontal_spacing=0.16,
    )
    _add_map(figure, grid)
    _add_effect(figure, grid)
    best = grid.best
    title = f"Layer {best.layer} moves most: {best.effect:+.2f} ± {best.stderr:.2f}"
    rivals = f"not told apart from layers {', '.join(map(str, best.rivals))}" if best.rivals else "ahead of all others"
    note = f"{rivals}; unsteered {grid.unsteered.p_matching:.2f}, {len(grid.ids)} items"
    style(figure, title=title, note=note)
    figure.update_layout(legend={"orientation": "h", "y": -0.22, "x": 0.55})
    return figure


def _add_map(figure: Any, grid: Sweep) -> None:
    shown = [signed(coef) for coef in grid.coefs]
    extra = [
        [
            [float(grid.stderr[i, k]), float(grid.mass[i, k]), float(grid.a_items[i, k]), float(grid.b_items[i, k])]
            for k in range(len(grid.coefs))
        ]
        for i in range(len(grid.layers))
    ]
    center = grid.unsteered.p_matching
    reach = max(float((grid.p_matching - center).abs().max()), 0.05)
    figure.add_heatmap(
        z=grid.p_matching.tolist(),
        x=shown,
        y=list(grid.layers),
        customdata=extra,
        zmin=center - reach,
        zmax=center + reach,
        colorscale=DIVERGING,
        colorbar={"x": 0.43, "thickness": 12, "title": "p"},
        hovertemplate=(
            "layer %{y}, coef %{x}<br>p(matching) %{z:.3f} ± %{customdata[0]:.3f}<br>mass %{customdata[1]:.3f}"
            "<br>A-items %{customdata[2]:.3f}, B-items %{customdata[3]:.3f}<extra></extra>"
        ),
        row=1,
        col=1,
    )
    figure.update_xaxes(title="coef", type="category", row=1, col=1)
    figure.update_yaxes(title="layer", dtick=max(1, len(grid.layers) // 16), row=1, col=1)


def _add_effect(figure: Any, grid: Sweep) -> None:
    effect = grid.effect
    figure.add_scatter(
        x=list(effect.layers),
        y=effect.mean.tolist(),
        error_y={"type": "data", "array": (1.96 * effect.stderr).nan_to_num(nan=0.0).tolist()},
        name="all items (95 %)",
        mode="lines+markers",
        line={"color": "#1b1e23"},
        row=1,
        col=2,
    )
    for (letter, color), values in zip(LETTERS[:2], (effect.a_items, effect.b_items), strict=True):
        if not bool(values.isnan().any()):
            line = {"color": color, "dash": "dot"}
            figure.add_scatter(
                x=list(effect.layers), y=values.tolist(), name=f"{letter}-items", line=line, row=1, col=2
            )
    figure.add_hline(y=0, line={"color": "#9498a0", "width": 1}, row=1, col=2)
    figure.update_xaxes(title="layer", dtick=max(1, len(grid.layers) // 16), row=1, col=2)
    figure.update_yaxes(title="effect", row=1, col=2)


def plot_scores(scores: Mapping[str, ScoredAnswers]) -> Any:
    """Mean scores with their 95 % intervals."""
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.add_bar(
        x=list(scores),
        y=[one.mean for one in scores.values()],
        error_y={"type": "data", "array": [1.96 * one.stderr for one in scores.values()]},
        customdata=[one.parsed for one in scores.values()],
        marker={"color": "#4269d0"},
        hovertemplate="%{x}<br>score %{y:.3f}<br>%{customdata:.0%} of answers scored<extra></extra>",
    )
    figure.update_layout(template="plotly_white", showlegend=False)
    figure.update_yaxes(title="mean score (95 %)")
    return figure


def plot_control(control: RandomControl) -> Any:
    """Effects of random vectors as dots, that of the vector as a line."""
    import plotly.graph_objects as go

    draws = control.random.tolist()
    figure = go.Figure()
    figure.add_scatter(x=draws, y=["random vectors"] * len(draws), mode="markers", name="random vectors",
                       marker={"color": "#9498a0", "size": 9, "opacity": 0.7})  # fmt: skip
    figure.add_scatter(x=[control.effect], y=["this vector"], mode="markers", name="this vector",
                       marker={"color": "#4269d0", "size": 13, "symbol": "diamond"})  # fmt: skip
    figure.add_vline(x=0, line={"color": "#d0d2d8", "width": 1})
    largest = float(control.random.abs().max())
    title = f"Layer {control.layer}: {control.effect:+.2f}; random ones reach {largest:.2f} (p = {control.p_value:.2g})"
    figure.update_layout(title=title, template="plotly_white", showlegend=False, height=260)
    figure.update_xaxes(title=f"p(matching) at {control.coef:+g} less that at {-control.coef:+g}", range=[-1.03, 1.03])
    return figure
