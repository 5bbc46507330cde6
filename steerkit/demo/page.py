"""The demo's report: what was asked, what was found, what steering did."""

from __future__ import annotations

from html import escape
from typing import Any

import plotly.graph_objects as go

from steerkit import __version__
from steerkit.demo import acceptance
from steerkit.demo.run import COEFS, Behavior, DemoRun
from steerkit.diagnostics import principal_components, vector_similarity
from steerkit.diagnostics.figures import POSITIVE, style
from steerkit.report import Report
from steerkit.tables import Cell, Table

EXAMPLES = 8
POLES = {
    "sycophancy": ("corrects the user", "agrees with the user's wrong claim"),
    "refusal": ("complies", "declines"),
    "mood": ("gloomy", "cheerful"),
}
LEAD = (
    "A small chat model that speaks a grammar of its own was asked the same questions in opposite ways. Its hidden "
    "states hold a direction for each behavior; added while the model answers, the direction changes what it says. It "
    "shows the tool, not the results of any paper: that these directions steer was trained in (docs/demo_model.md)."
)


class Answers:
    """Answers side by side, at the negative coefficient, unsteered, and at the positive one."""

    def __init__(self, run: DemoRun, name: str) -> None:
        self.run, self.name = run, name

    def _repr_html_(self) -> str:
        low, high = self.run.cross(self.name, self.name).answers
        none, coef = self.run.unsteered[self.name], self.run.chosen.coefs[self.name]
        negative, positive = POLES[self.name]
        heads = ("question", f"{-coef:+g}: {negative}", "unsteered", f"{coef:+g}: {positive}")
        rows = zip(none.questions, low.answers, none.answers, high.answers, strict=True)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in list(rows)[:EXAMPLES]
        )
        head = "".join(f"<th>{escape(text)}</th>" for text in heads)
        return f'<table class="steerkit wide"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def write_report(run: DemoRun) -> None:
    """Write `report.html` into the run's folder."""
    page = Report("Steering the embedded model", lead=LEAD)
    for name, one in run.behaviors.items():
        low, high = run.cross(name, name).letters
        page.fact(f"{name}: choices that match", f"{low:.2f} → {high:.2f}",
                  note=f"unsteered {one.grid.unsteered.p_matching:.2f}; coef ∓{run.chosen.coefs[name]:g}")  # fmt: skip
    page.fact("layer chosen on training topics", run.chosen.layer, note=f"of {run.model.info.num_layers}, from 0")
    page.section("Result", *_summary(run))
    page.section("Data", *_data(run))
    page.section("Separation by layer", _SEPARATION, {n: [b.separated.plot()] for n, b in run.behaviors.items()})
    page.section("Principal components", _PCA, {n: [_components(b)] for n, b in run.behaviors.items()})
    page.section("Sweep", _SWEEP, {n: [b.grid.plot()] for n, b in run.behaviors.items()})
    page.section("Random vectors", _RANDOM, _random_figure(run))
    page.section("Cross-effects", _CROSS, acceptance.crosses(run), _similarity(run))
    page.section("Into the weights", *_weights(run))
    page.section("Answers", _ANSWERS, {name: [Answers(run, name)] for name in run.behaviors})
    page.section("Provenance", _provenance(run))
    page.save(run.report)


_SEPARATION = (
    "On pairs about topics that the vectors have not seen. AUROC 1 means that every positive side lies further along "
    "the direction than every negative side; the grey band is what chance gives when sides are swapped at random. That "
    "two sides part at a layer does not yet mean that steering works there: see the sweep."
)
_PCA = "The two largest principal components of the held-out activations; move the slider through the layers."
_SWEEP = (
    "Share of choices that match the behavior, for every layer and coefficient, on held-out topics; all cells of a "
    "question in one packed forward pass, equal to one pass per cell."
)
_RANDOM = (
    "The move of p(matching) by the vector, beside random vectors of the same length at the same layer and strength. A "
    "direction that means something moves far more than they do."
)
_CROSS = (
    "Each vector against every behavior: the move from the negative to the positive coefficient. Off the diagonal it "
    "should be small. Sycophancy and refusal both take a stance (yes or no to the user), so they may share an axis; "
    "stance and mood are distinct."
)
_ANSWERS = "Sampled answers to open questions about held-out topics; nothing was chosen, these are the first ones."


_WEIGHTS = (
    "The same steering without a hook. 'Distilled vector' is a LoRA adapter trained to reach the states of the model "
    "steered with the negative coefficient; it should stand beside 'hook'. The other rows learned from preferences "
    "(chosen answers correct the user, rejected ones agree): LORRA reads the difference between a good and a bad "
    "instruction in the model as it is; RAHF teaches that difference first, to one model (SCIT) or to two (Dual). "
    "'Less base' is the move from the base, with the half width of its 95 % interval."
)
_WEIGHTS_NOTE = (
    "This model was never taught to follow instructions, so LORRA finds little to distil. The preferences are about "
    "wrong claims, answered in words: letters were not trained on and should stay. Sycophancy and refusal share an "
    "axis here and move together, mood should stay."
)


def _weights(run: DemoRun) -> list[Any]:
    found, verdict = run.imprint, run.imprint.verified.verdict
    said = [
        f"Does the distilled vector do what the hook does? {verdict.text}",
        *([verdict] if verdict.findings else []),
    ]
    return [_WEIGHTS, found, _WEIGHTS_NOTE, *said, found.verified.plot(), "Its training:", found.tuned.plot()]


def _summary(run: DemoRun) -> list[Any]:
    words = (
        f"One layer for all behaviors and a strength for each were chosen on training topics: layer {run.chosen.layer}."
        " Every figure below is from held-out topics. 'On topic' is the share of steered answers that are still "
        "sentences of the grammar about what was asked."
    )
    return [words, run, acceptance.letters(run)]


def _data(run: DemoRun) -> list[Any]:
    rows: list[list[Cell]] = []
    for name, one in run.behaviors.items():
        negative, positive = POLES[name]
        rows.append([name, positive, negative, len(one.train), len(one.test), len(one.separated.layers)])
    columns = ["behavior", "positive side", "negative side", "training pairs", "held-out pairs", "layers"]
    first = next(iter(run.behaviors.values())).test[0]
    content = first.positive.prompt.content
    question = content if isinstance(content, str) else content[-1]["content"]
    return [
        "Multiple-choice pairs in the form of the CAA data: one question, two options, and which of them matches.",
        Table(columns, rows),
        Example(question, first.positive.answer.strip(), first.negative.answer.strip()),
    ]


class Example:
    """One pair as it is fed."""

    def __init__(self, question: str, positive: str, negative: str) -> None:
        self.question, self.positive, self.negative = question, positive, negative

    def _repr_html_(self) -> str:
        return (
            f"<pre>{escape(self.question)}</pre><p>positive side: <b>{escape(self.positive)}</b>, "
            f"negative side: <b>{escape(self.negative)}</b></p>"
        )


def _components(one: Behavior) -> go.Figure:
    return principal_components(one.held_out).plot()


def _random_figure(run: DemoRun) -> go.Figure:
    figure = go.Figure()
    for i, (name, one) in enumerate(run.behaviors.items()):
        figure.add_scatter(x=list(one.random_spans), y=[name] * len(one.random_spans), mode="markers",
                           name="random vectors", marker={"color": "#8a8f98", "size": 9, "opacity": 0.6},
                           showlegend=i == 0)  # fmt: skip
        figure.add_scatter(x=[run.cross(name, name).span], y=[name], mode="markers", name="the vector",
                           marker={"color": POSITIVE, "size": 15, "symbol": "diamond"}, showlegend=i == 0)  # fmt: skip
    style(figure, title="Move of p(matching) from -coef to +coef")
    figure.update_layout(height=320, xaxis={"range": [-1, 1], "title": "move of p(matching)"}, yaxis_title="")
    return figure


def _similarity(run: DemoRun) -> go.Figure:
    return vector_similarity({n: b.vector for n, b in run.behaviors.items()}, layer=run.chosen.layer).plot()


def _provenance(run: DemoRun) -> Table:
    info = run.model.info.as_dict()
    rows: list[list[Cell]] = [["steerkit", __version__], *([key, info[key]] for key in info if info[key])]
    rows += [[f"data: {name}", one.test.fingerprint] for name, one in run.behaviors.items()]
    one = next(iter(run.behaviors.values()))
    rows.append(["sweep", f"{one.grid.path}: {one.grid.reason}"])
    rows.append(["coefficients swept", ", ".join(f"{c:g}" for c in COEFS)])
    rows.append(["seconds for all of it", round(run.seconds, 1)])
    return Table(["what", ""], rows)
