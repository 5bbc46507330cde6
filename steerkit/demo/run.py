"""The whole pipeline on the embedded model: pairs, store, vector, sweep, steered answers, report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerkit.backends.loading import load
from steerkit.data.loading import load_pairs
from steerkit.data.pairs import Pairs
from steerkit.demo import BEHAVIORS
from steerkit.demo.answers import OpenScore, score_open
from steerkit.demo.arms import Arm, measure
from steerkit.demo.beside import Aligning, aligning, on_the_other_half
from steerkit.demo.choice import Choice, choose
from steerkit.demo.imprint import BASE, BEHAVIOR, HOOK, LORA, Imprint, distil
from steerkit.diagnostics import Separation, separation
from steerkit.evaluation import ChoiceScores, Sweep, random_control, sweep
from steerkit.extraction import extract
from steerkit.recording import record
from steerkit.store import ActivationStore
from steerkit.tables import Cell, Table, Tabular
from steerkit.vectors import SteeringVector

COEFS = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)
RANDOM_VECTORS = 20


@dataclass(frozen=True)
class Behavior:
    """What the run found about one behavior; every figure is from held-out topics."""

    name: str
    train: Pairs
    test: Pairs
    vector: SteeringVector
    held_out: ActivationStore
    separated: Separation
    grid: Sweep
    random_spans: tuple[float, ...]


@dataclass(frozen=True)
class Cross:
    """What one behavior's vector does to another behavior: p(matching) and open answers at both ends."""

    vector: str
    measured: str
    scores: tuple[ChoiceScores, ChoiceScores]
    answers: tuple[OpenScore, OpenScore]

    @property
    def letters(self) -> tuple[float, float]:
        """p(matching) at both coefficients."""
        return self.scores[0].p_matching, self.scores[1].p_matching

    @property
    def span(self) -> float:
        """Move of p(matching) from the negative to the positive coefficient."""
        return self.letters[1] - self.letters[0]


@dataclass(frozen=True, repr=False)
class DemoRun(Tabular):
    """All that `steerkit demo` measured, and where its files are."""

    folder: Path
    model: Any
    chosen: Choice
    behaviors: Mapping[str, Behavior]
    crosses: tuple[Cross, ...]
    unsteered: Mapping[str, OpenScore]
    imprint: Imprint
    seconds: float

    @property
    def report(self) -> Path:
        """The page to open."""
        return self.folder / "report.html"

    def cross(self, vector: str, measured: str) -> Cross:
        """One cell of the table of cross-effects."""
        return next(c for c in self.crosses if (c.vector, c.measured) == (vector, measured))

    def rows(self) -> list[list[Cell]]:
        """A line a behavior: choices and open answers without steering and at both coefficients."""
        lines: list[list[Cell]] = []
        for name, one in self.behaviors.items():
            own, coef = self.cross(name, name), self.chosen.coefs[name]
            low, high = own.answers
            none = one.grid.unsteered
            lines.append(
                [name, coef, *(round(p, 2) for p in (own.letters[0], none.p_matching, own.letters[1])),
                 *(round(score.positive, 2) for score in (low, self.unsteered[name], high)),
                 round(min(low.on_topic, high.on_topic), 2), one.separated.emerges]
            )  # fmt: skip
        return lines

    COLUMNS = ("behavior", "coef", "choices at -coef", "unsteered", "at +coef", "answers at -coef", "unsteered",
               "at +coef", "on topic", "separates from layer")  # fmt: skip

    def table(self) -> Table:
        """What is shown of it."""
        title = f"Held-out topics, layer {self.chosen.layer}; share of choices and of open answers that match"
        return Table(self.COLUMNS, self.rows(), title)

    def __repr__(self) -> str:
        return f"{super().__repr__()}\n\n{self.imprint!r}\nreport: {self.report}"

    def to_json(self) -> str:
        """The table, the choice and the cross-effects."""
        crosses = [
            {"vector": c.vector, "measured": c.measured, "choices": c.letters,
             "answers": [a.positive for a in c.answers], "on_topic": [a.on_topic for a in c.answers]}
            for c in self.crosses
        ]  # fmt: skip
        return json.dumps({
            "layer": self.chosen.layer, "coefs": self.chosen.coefs, "columns": self.COLUMNS, "rows": self.rows(),
            "cross_effects": crosses, "weights": self.imprint.as_dict(), "seconds": round(self.seconds, 1),
            "report": str(self.report),
        })  # fmt: skip


def run_demo(
    folder: str | Path = "steerkit-demo",
    *,
    source: str | Path = "demo",
    progress: bool = True,
    beside: Aligning | None = None,
) -> DemoRun:
    """Run everything on the embedded model and write a report.

    One layer for all behaviors and a strength for each are chosen on training topics, from pairs that the vectors were
    not extracted from; what is reported comes from held-out topics.

    Args:
        folder: Where stores, vectors, `results.json` and `report.html` go; those of an earlier run are replaced.
        source: Another training of the model, by its folder.
        progress: Say what is being done on standard error.
        beside: A process that aligns the same model into `folder / "adapters"` already; without it one is begun.
    """
    from steerkit.demo.page import write_report

    started, folder = time.perf_counter(), Path(folder)
    say = _narrator(progress)
    model = load(source, dtype="float32")
    folder.mkdir(parents=True, exist_ok=True)
    with nullcontext(beside) if beside else aligning(source, folder / "adapters") as align, on_the_other_half():
        say(f"1/6 recording pairs and extracting vectors: {', '.join(BEHAVIORS)}")
        found = {name: _extract(model, name, folder) for name in BEHAVIORS}
        say("2/6 choosing a layer and strengths on training topics")
        chosen = choose(model, {name: vector for name, (vector, _) in found.items()},
                        {name: pairs for name, (_, pairs) in found.items()})  # fmt: skip
        say(f"3/6 sweeping every layer on held-out topics (chosen: layer {chosen.layer})")
        behaviors = {name: _measure(model, name, found[name][0], chosen) for name in BEHAVIORS}
        say("4/6 answering open questions, steered and not")
        crosses = tuple(_cross(model, behaviors[v], behaviors[m], chosen) for v in BEHAVIORS for m in BEHAVIORS)
        unsteered = {name: score_open(model, name) for name in BEHAVIORS}
        say("5/6 putting it into the weights: distilling the vector, aligning by preferences beside it")
        vector, coef = behaviors[BEHAVIOR].vector, chosen.coefs[BEHAVIOR]
        tuned, verified = distil(model, vector, layer=chosen.layer, coef=coef)
        tuned.save(folder / "adapters" / BEHAVIOR)
        arms = [*_known(behaviors, unsteered, crosses), measure(model, LORA, tuned.adapter)]
        arms += align.arms(model)
    done = Imprint(tuned, verified, tuple(arms))
    run = DemoRun(folder, model, chosen, behaviors, crosses, unsteered, done, time.perf_counter() - started)
    say("6/6 writing the report")
    write_report(run)
    (folder / "results.json").write_text(run.to_json() + "\n", "utf-8")
    return run


def _narrator(progress: bool) -> Callable[[str], None]:
    from rich.console import Console

    console = Console(stderr=True, quiet=not progress)
    return lambda text: console.print(text, highlight=False)


def _extract(model: Any, name: str, folder: Path) -> tuple[SteeringVector, Pairs]:
    """The vector, and the training pairs it has not seen."""
    pairs = load_pairs(f"demo:{name}", split="train")
    seen, unseen = pairs.split(test=0.25, seed=0)
    store = record(model, seen, path=folder / "acts" / name, overwrite=True, progress=False)
    vector = extract(store)
    (folder / "vectors").mkdir(parents=True, exist_ok=True)
    vector.save(folder / "vectors" / f"{name}.safetensors")
    return vector, unseen


def _measure(model: Any, name: str, vector: SteeringVector, chosen: Choice) -> Behavior:
    train, test = (load_pairs(f"demo:{name}", split=split) for split in ("train", "test"))
    held_out = record(model, test, progress=False)
    grid = sweep(model, vector, test, coefs=COEFS, progress=False)
    control = random_control(model, vector, test, layer=chosen.layer, coef=chosen.coefs[name], draws=RANDOM_VECTORS,
                             progress=False)  # fmt: skip
    spans = tuple(control.random.tolist())
    return Behavior(name, train, test, vector, held_out, separation(held_out, vector), grid, spans)


def _cross(model: Any, steering: Behavior, measured: Behavior, chosen: Choice) -> Cross:
    coef = chosen.coefs[steering.name]
    grid = sweep(model, steering.vector, measured.test, layers=[chosen.layer], coefs=(-coef, coef), progress=False)
    ends = [score_open(model, measured.name, vector=steering.vector, layer=chosen.layer, coef=c) for c in (-coef, coef)]
    low, high = (grid.at(layer=chosen.layer, coef=c) for c in (-coef, coef))
    return Cross(steering.name, measured.name, (low, high), (ends[0], ends[1]))


def _known(
    behaviors: Mapping[str, Behavior], unsteered: Mapping[str, OpenScore], crosses: Sequence[Cross]
) -> tuple[Arm, Arm]:
    """The base and the hook with a negative coefficient, as they were measured before."""
    hooked = [one for one in crosses if one.vector == BEHAVIOR]
    base = Arm(BASE, {name: one.grid.unsteered for name, one in behaviors.items()}, unsteered)
    hook = Arm(HOOK, {one.measured: one.scores[0] for one in hooked}, {one.measured: one.answers[0] for one in hooked})
    return base, hook
