"""The picture of a parity run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from steerkit.diagnostics.figures import NEGATIVE, NULL, POSITIVE, THIRD, style

if TYPE_CHECKING:
    from steerkit.agreement.result import Parity

FLOOR, CEILING = 1e-5, 1e5
"""The ends of the axis: an exact equality is drawn at the one, what is no number at the other."""


def plot_parity(found: Parity) -> Any:
    """One mark for each backend and quantity, on a logarithmic axis in units of what is allowed."""
    import plotly.graph_objects as go

    figure = go.Figure()
    groups: dict[str, list[Any]] = {}
    for row in found.rows:
        if row.kind in ("measured", "for comparison"):
            groups.setdefault(f"{row.backend}, {row.attention}", []).append(row)
    colors = (NULL, POSITIVE, THIRD, "#E69F00", "#56B4E9") * 9
    for number, ((name, rows), color) in enumerate(zip(groups.items(), colors, strict=False)):
        figure.add_scatter(
            x=[_share(row.difference, row.allowed) for row in rows],
            y=[row.quantity for row in rows],
            customdata=[[row.difference, row.allowed, row.where, row.verdict] for row in rows],
            hovertemplate="%{y}: %{customdata[0]:.3g}, allowed %{customdata[1]:.3g}<br>%{customdata[2]}"
            "<br>%{customdata[3]}<extra></extra>",
            mode="markers",
            name=name,
            marker={
                "size": max(20 - 5 * number, 8),  # equal ones lie in one place: each shows as a ring around the next
                "color": color,
                "symbol": ["circle" if row.passed else "x" for row in rows],
            },
        )
    figure.add_vline(x=1, line={"color": NEGATIVE, "dash": "dot"})
    figure.update_xaxes(type="log", title="difference, in units of what is allowed", exponentformat="power", dtick=1)
    figure.update_yaxes(autorange="reversed")
    title = "All within rounding" if found.passed else "Something is beyond tolerance"
    return style(figure, title=f"{title}: {found.model}, {found.dtype}", note=found.summary)


def _share(difference: float | None, allowed: float | None) -> float:
    """In units of what is allowed; where nothing is allowed, any difference is too much."""
    if difference is None or math.isnan(difference):
        return CEILING
    if difference == 0:
        return FLOOR
    return min(max(difference / allowed, FLOOR), CEILING) if allowed else CEILING
