"""The picture of a fidelity: what was wanted, what came, and where it does not belong, by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steerkit.diagnostics import figures

if TYPE_CHECKING:
    from steerkit.diagnostics.imitation import Fidelity


def draw(result: Fidelity) -> Any:
    """Residual and cosine above, lengths and leaks below."""
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.1)
    for name, values, color, dash, row in (
        ("residual (0: all there, 1: nothing)", result.residual, figures.NEGATIVE, "solid", 1),
        ("cosine of realized and wanted", result.cosine, figures.POSITIVE, "solid", 1),
        ("length, realized / wanted", result.norm_ratio, figures.THIRD, "solid", 2),
        ("leak to prompt tokens", result.prompt_leak, figures.NULL, "dot", 2),
        ("leak to later tokens", result.later_leak, figures.NULL, "dash", 2),
        ("leak to neutral text", result.neutral_leak, figures.NEGATIVE, "dot", 2),
    ):
        if bool(values.isnan().all()):
            continue
        shown = [None if value != value else value for value in values.tolist()]  # noqa: PLR0124
        line = {"color": color, "width": 2.5, "dash": dash}
        figure.add_scatter(
            x=list(result.layers),
            y=shown,
            mode="lines+markers",
            name=name,
            line=line,
            marker={"size": 6},
            hovertemplate="layer %{x}: %{y:.3f}",
            row=row,
            col=1,
        )
    figure.add_hline(y=1, line={"color": figures.NULL, "width": 1}, row=2, col=1)
    figure.update_yaxes(title_text="residual, cosine", row=1, col=1)
    figure.update_yaxes(title_text="share of the wanted", rangemode="tozero", row=2, col=1)
    figure.update_xaxes(title_text="layer", dtick=max(1, len(result.layers) // 16), row=2, col=1)
    note = f"{result.texts} texts, {result.tokens} tokens in scope"
    return figures.style(figure, title=result.summary.capitalize(), note=note, height=560)
