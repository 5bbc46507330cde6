"""The picture of a comparison of methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steerkit.training.comparing.compared import MethodComparison

COLORS = ("#4269d0", "#efb118", "#6cc5b0", "#ff725c", "#a463f2")
GREY = "#9498a0"


def plot_comparison(comparison: MethodComparison) -> Any:
    """Win rates by judge with 95 % intervals; with other behaviors, their shifts beside them."""
    from plotly.subplots import make_subplots

    beside = bool(comparison.others)
    titles = ("win rate against the base (95 %)", "side effects: p(matching) less the base's (95 %)")
    figure = make_subplots(rows=1, cols=1 + beside, shared_yaxes=True, subplot_titles=titles[: 1 + beside],
                           horizontal_spacing=0.06)  # fmt: skip
    _add_rates(figure, comparison)
    figure.add_vline(x=0.5, line={"color": GREY, "width": 1, "dash": "dot"}, row=1, col=1)
    figure.update_xaxes(range=[-0.02, 1.02], row=1, col=1)
    if beside:
        _add_effects(figure, comparison)
        figure.add_vline(x=0, line={"color": GREY, "width": 1, "dash": "dot"}, row=1, col=2)
    figure.update_yaxes(autorange="reversed", row=1, col=1)
    figure.update_layout(template="plotly_white", height=140 + 44 * len(comparison.rows), scattermode="group",
                         legend={"orientation": "h", "y": -0.12})  # fmt: skip
    return figure


def _add_rates(figure: Any, comparison: MethodComparison) -> None:
    for judge, color in zip(comparison.judges, COLORS, strict=False):
        kept = [(row.name, row.against_base[judge]) for row in comparison.rows if judge in row.against_base]
        figure.add_scatter(
            x=[one.rate for _, one in kept],
            y=[name for name, _ in kept],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [one.interval[1] - one.rate for _, one in kept],
                "arrayminus": [one.rate - one.interval[0] for _, one in kept],
            },
            customdata=[[one.wins, one.ties, one.losses, one.controlled] for _, one in kept],
            hovertemplate="%{y}: %{x:.3f}<br>%{customdata[0]} wins, %{customdata[1]} ties, %{customdata[2]} losses"
            "<br>at equal lengths %{customdata[3]:.3f}<extra></extra>",
            mode="markers",
            orientation="h",
            marker={"color": color, "size": 9},
            name=judge,
            row=1,
            col=1,
        )


def _add_effects(figure: Any, comparison: MethodComparison) -> None:
    for other, color in zip(comparison.others, COLORS[len(comparison.judges) :], strict=False):
        kept = [(row.name, row.effects[other]) for row in comparison.rows if other in row.effects]
        figure.add_scatter(
            x=[one.mean for _, one in kept],
            y=[name for name, _ in kept],
            error_x={"type": "data", "array": [1.96 * one.stderr for _, one in kept]},
            hovertemplate="%{y}: %{x:+.3f}<extra></extra>",
            mode="markers",
            orientation="h",
            marker={"color": color, "size": 9, "symbol": "diamond"},
            name=other,
            row=1,
            col=2,
        )
