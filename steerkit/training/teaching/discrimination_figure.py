"""The picture of a discrimination: how the margins of chosen and of rejected answers lie around 0."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from plotly.subplots import make_subplots

from steerkit.diagnostics import figures

if TYPE_CHECKING:
    from steerkit.training.teaching.discrimination import Discrimination

BINS = 40


def draw(result: Discrimination) -> Any:
    """Histograms of the margins, one panel an arm on one scale, with 0 and the goal of smoothing marked."""
    arms = list(result.arms)
    titles = [f"{arm}: {result.accuracy(arm=arm).share:.0%} right" for arm in arms]
    figure = make_subplots(rows=len(arms), cols=1, shared_xaxes=True, subplot_titles=titles, vertical_spacing=0.16)
    every = torch.cat([part for of in result.arms.values() for part in (of.chosen, of.rejected)])
    low, high = float(every.min()), float(every.max())
    bins = {"start": low, "end": high, "size": max(high - low, 1e-6) / BINS}
    for row, arm in enumerate(arms, start=1):
        for name, color in (("chosen", figures.POSITIVE), ("rejected", figures.NEGATIVE)):
            figure.add_histogram(
                x=getattr(result.arms[arm], name).tolist(), name=name, xbins=bins, opacity=0.65, legendgroup=name,
                marker={"color": color}, showlegend=row == 1, row=row, col=1,
                hovertemplate=f"{name}: %{{y}} answers, margin %{{x}}<extra></extra>",
            )  # fmt: skip
        figure.add_vline(x=0, line={"color": figures.NULL, "width": 1}, row=row, col=1)
        for goal in () if result.goal is None else (-result.goal, result.goal):
            figure.add_vline(x=goal, line={"color": figures.NULL, "width": 1, "dash": "dash"}, row=row, col=1)
    figure.update_layout(barmode="overlay", legend={"orientation": "h", "y": -0.2, "x": 0})
    figure.update_xaxes(title_text="margin P(answer | good) - P(answer | bad), nats per token", row=len(arms), col=1)
    figure.update_yaxes(title_text="answers")
    rate = result.accuracy()
    title = f"Chosen and rejected answers are told apart {rate.share:.0%} of the time"
    note = f"95 % {rate.low:.0%} to {rate.high:.0%}; {len(result)} held-out preferences"
    note += "; dashed: what smoothing aims at" if result.goal is not None else ""
    return figures.style(figure, title=title, note=note, height=220 + 190 * len(arms))
