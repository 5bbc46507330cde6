"""The picture of a verification: what was learned, what the models choose, and what the scale does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steerkit.diagnostics import figures
from steerkit.training.verifying.arms import BASE, HOOK, LORA, MERGED

if TYPE_CHECKING:
    from steerkit.training.verifying.verification import Verification

COLORS = {BASE: figures.NULL, HOOK: figures.POSITIVE, LORA: figures.NEGATIVE, MERGED: figures.THIRD}


def draw(result: Verification) -> Any:
    """Three panels: residual and cosine by layer, p(matching) by model, the dose curve."""
    from plotly.subplots import make_subplots

    titles = ("shift on held-out prompts", "p(matching)", "dose")
    figure = make_subplots(rows=1, cols=3, subplot_titles=titles, horizontal_spacing=0.08)
    _add_layers(figure, result)
    _add_arms(figure, result)
    _add_dose(figure, result)
    figures.style(figure, title=result.verdict.headline, note=result.summary.replace(". ", ".<br>"), height=500)
    figure.update_layout(legend={"orientation": "h", "y": -0.2}, margin={"t": 140})
    return figure


def _add_layers(figure: Any, result: Verification) -> None:
    of = result.fidelity
    for name, values, color in (
        ("residual", of.residual, figures.NEGATIVE),
        ("cosine", of.cosine, figures.POSITIVE),
        ("leak to prompt tokens", of.prompt_leak, figures.NULL),
        ("leak to neutral text", of.neutral_leak, figures.THIRD),
    ):
        if not bool(values.isnan().all()):
            shown = [None if value != value else value for value in values.tolist()]  # noqa: PLR0124
            figure.add_scatter(x=list(of.layers), y=shown, name=name, mode="lines+markers", line={"color": color},
                               row=1, col=1)  # fmt: skip
    figure.update_xaxes(title="layer", dtick=max(1, len(of.layers) // 8), row=1, col=1)


def _add_arms(figure: Any, result: Verification) -> None:
    labels = list(result.choices)
    for name, color in COLORS.items():
        scores = [arms.scores[name] for arms in result.choices.values() if name in arms.scores]
        if not scores:
            continue
        error = {"type": "data", "array": [0.0 if one.stderr != one.stderr else 1.96 * one.stderr for one in scores]}
        figure.add_bar(x=labels, y=[one.p_matching for one in scores], error_y=error, name=name,
                       marker={"color": color}, hovertemplate="%{x}: %{y:.3f}", row=1, col=2)  # fmt: skip
    figure.update_yaxes(range=[0, 1], row=1, col=2)


def _add_dose(figure: Any, result: Verification) -> None:
    dose = result.dose
    if dose is None:
        return
    x = list(dose.scales)
    lines = [("share of the wanted shift", list(dose.along), figures.NEGATIVE)]
    lines += [("KL to the base (rms)", [one.rms for one in dose.kl], figures.NULL)]
    if dose.choices:
        lines.append(("p(matching) at the scale", [one.p_matching for one in dose.choices], figures.POSITIVE))
    for name, y, color in lines:
        figure.add_scatter(
            x=x, y=y, name=name, mode="lines+markers", line={"color": color, "dash": "dot"}, row=1, col=3
        )
    figure.update_xaxes(title="scale of the adapter", row=1, col=3)
