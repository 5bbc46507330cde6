"""The picture of a separation: two panels over the layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steerkit.diagnostics import figures

if TYPE_CHECKING:
    from steerkit.diagnostics.separability import Separation


def draw(result: Separation) -> Any:
    """AUROC with its null band and probe accuracy above, d' below."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    x = list(result.layers)
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.64, 0.36], vertical_spacing=0.07)
    band_x, band_y = [*x, *x[::-1]], [*result.null_high.tolist(), *result.null_low.tolist()[::-1]]
    figure.add_trace(
        go.Scatter(
            x=band_x,
            y=band_y,
            mode="lines",
            fill="toself",
            fillcolor=figures.NULL_BAND,
            line={"width": 0},
            hoverinfo="skip",
            name="chance (5-95%, sides swapped)",
        ),
        row=1,
        col=1,
    )
    for name, values, color, dash, row in (
        ("AUROC along the vector", result.auroc, figures.POSITIVE, "solid", 1),
        ("accuracy of a linear probe", result.probe_accuracy, figures.THIRD, "dot", 1),
        ("d' along the vector", result.d_prime, figures.NEGATIVE, "solid", 2),
    ):
        line = {"color": color, "width": 2.5, "dash": dash}
        trace = go.Scatter(x=x, y=values.tolist(), mode="lines+markers", name=name, line=line, marker={"size": 6})
        trace.hovertemplate = "layer %{x}: %{y:.3f}"
        figure.add_trace(trace, row=row, col=1)
    figure.update_yaxes(title_text="AUROC, accuracy", range=[min(0.35, _least(result)), 1.03], row=1, col=1)
    figure.update_yaxes(title_text="d' (std. dev.)", rangemode="tozero", row=2, col=1)
    figure.update_xaxes(title_text="layer (decoder block)", row=2, col=1)
    figure.update_xaxes(dtick=1 if len(x) <= 16 else 4)
    if result.emerges is not None:
        figure.add_vline(x=result.emerges, line={"color": figures.NULL, "width": 1, "dash": "dash"})
    figures.style(figure, title=_title(result), note=f"{result.pairs} pairs; {_note(result)}", height=560)
    figure.update_layout(legend={"orientation": "h", "y": -0.16, "x": 0}, hovermode="x unified")
    return figure


def _title(result: Separation) -> str:
    if result.emerges is None:
        return "The two sides do not separate along the vector at the last layer"
    return f"The two sides separate from layer {result.emerges} on, best at layer {result.best}"


def _note(result: Separation) -> str:
    return f"chance from {result.permutations} random swaps of the sides; dashed: where separation emerges"


def _least(result: Separation) -> float:
    lows = [float(t.nan_to_num(nan=1.0).min()) for t in (result.auroc, result.null_low, result.probe_accuracy)]
    return min(lows) - 0.03
