"""The look that all figures share."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

POSITIVE = "#0072B2"
NEGATIVE = "#D55E00"
THIRD = "#009E73"
NULL = "#8C8C8C"
NULL_BAND = "rgba(140, 140, 140, 0.25)"
DIVERGING = [[0.0, NEGATIVE], [0.5, "#F7F7F7"], [1.0, POSITIVE]]
"""Colors that people with any color vision tell apart (Okabe and Ito 2008)."""


def style(figure: Any, *, title: str, note: str = "", height: int = 460, width: int | None = None) -> Any:
    """Title, fonts and margins, in place; returns the figure."""
    text = f"{title}<br><span style='font-size:13px;color:#555'>{note}</span>" if note else title
    figure.update_layout(
        template="plotly_white",
        title={"text": text, "x": 0.01, "xanchor": "left", "y": 0.96, "yanchor": "top", "font": {"size": 17}},
        font={"family": "Helvetica, Arial, sans-serif", "size": 14, "color": "#222"},
        margin={"l": 70, "r": 30, "t": 90, "b": 60},
        height=height,
        width=width,
    )
    return figure


def add_layer_slider(figure: Any, *, layers: Sequence[int], start: int, titles: Sequence[str]) -> Any:
    """A slider that shows the traces of one layer at a time; traces lie in order, the same number for each layer."""
    each = len(figure.data) // len(layers)
    first = list(layers).index(start)
    steps = []
    for i, layer in enumerate(layers):
        shown = [each * i <= j < each * (i + 1) for j in range(len(figure.data))]
        steps.append({"label": str(layer), "method": "update", "args": [{"visible": shown}, {"title.text": titles[i]}]})
    for j, trace in enumerate(figure.data):
        trace.visible = each * first <= j < each * (first + 1)
    slider = {"active": first, "steps": steps, "currentvalue": {"prefix": "layer "}, "pad": {"t": 45}, "len": 1.0}
    figure.update_layout(sliders=[slider], title_text=titles[first])
    return figure


def to_json(content: Any) -> str:
    """JSON with `null` where a number does not exist."""
    return json.dumps(_finite(content))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
