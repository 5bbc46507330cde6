"""What is measured in every backend, and how two measurements are compared: one row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from steerkit.agreement.differences import PROBABILITY, RELATIVE, Found, furthest_token, largest, relative
from steerkit.agreement.greedy import answer, compare_answers
from steerkit.agreement.workload import Workload
from steerkit.backends.causal import CausalModel
from steerkit.errors import LayerError
from steerkit.evaluation import ChoiceScores, Sweep, score_choices, sweep
from steerkit.points import Point
from steerkit.positions import Pass
from steerkit.recording import record
from steerkit.steering import Steer
from steerkit.store import ActivationStore
from steerkit.vectors import SteeringVector

NOTHING = {"float32": 0.0}
"""No difference is allowed, in any dtype."""


@dataclass(frozen=True)
class Quantity:
    """One thing to measure.

    Args:
        name: In the table.
        measure: Runs a backend.
        compare: Holds a measurement against the reference's.
        tolerance: What is allowed, by dtype.
    """

    name: str
    measure: Callable[[CausalModel, Workload], Any]
    compare: Callable[[Any, Any, Workload], Found]
    tolerance: Mapping[str, float]

    def allowed(self, dtype: str) -> float:
        """For weights of a dtype."""
        return self.tolerance.get(dtype, max(self.tolerance.values()))


def steered(model: CausalModel, work: Workload) -> Steer:
    """The model under the vector."""
    return Steer(model).add(work.vector, layer=work.point.layer, coef=work.coef, site=work.point.site)


def _weights(model: CausalModel, _work: Workload) -> tuple[str, str]:
    return model.info.fingerprint, model.info.dtype


def _same_weights(found: tuple[str, str], reference: tuple[str, str], _work: Workload) -> Found:
    if found[1] != reference[1]:
        return Found(1.0, f"{found[1]}, not {reference[1]}")
    return Found(0.0, found[1]) if found == reference else Found(1.0, "another fingerprint: other weights or names")


def _logits(model: CausalModel, work: Workload) -> Tensor:
    return model.forward(work.batch, columns=work.columns).cpu()


def _steered_logits(model: CausalModel, work: Workload) -> Tensor:
    return steered(model, work).forward(work.batch, columns=work.columns).cpu()


def compare_logits(found: Tensor, reference: Tensor, work: Workload) -> Found:
    """By token."""
    return furthest_token(found, reference, work.compared)


def read_points(model: CausalModel, work: Workload, points: list[Point]) -> dict[Point, Tensor]:
    """The activations of the last tokens, at every point that the backend has."""
    seen: dict[Point, Tensor] = {}

    def keep(point: Point) -> Callable[[Tensor, Pass], None]:
        return lambda hidden, _: seen.__setitem__(point, hidden[:, work.columns.start :].detach().cpu().clone())

    with ExitStack() as stack:
        for point in points:
            try:
                stack.enter_context(model.hook(point, keep(point)))
            except LayerError:  # the comparison says which are not there
                continue
        model.forward(work.batch, columns=[work.columns.stop - 1])
    return seen


def _states(model: CausalModel, work: Workload) -> dict[Point, Tensor]:
    parts = model.parts
    every = [Point(layer, site) for layer in range(model.info.num_layers) for site in parts.sites(layer)]
    return read_points(model, work, every)


def compare_states(found: dict[Point, Tensor], reference: dict[Point, Tensor], work: Workload) -> Found:
    """By layer and site."""
    gaps = []
    for point in sorted(found.keys() & reference.keys()):
        one = furthest_token(found[point], reference[point], work.compared)
        gaps.append(Found.at(one.difference, f"block {point.layer}, {point.site}"))
    worst = largest(gaps)
    missing = sorted({point.site for point in reference.keys() - found.keys()})
    lacks = [f"{', '.join(missing)} cannot be read here"] if missing else []
    return Found(worst.difference, "; ".join([*filter(None, [worst.where]), *lacks]))


def _recorded(model: CausalModel, work: Workload) -> ActivationStore:
    site = work.point.site
    layers = [layer for layer in range(model.info.num_layers) if model.parts.has(layer, site)]
    return record(model, work.pairs, site=site, layers=layers, progress=False)


def _compare_recorded(found: ActivationStore, reference: ActivationStore, _work: Workload) -> Found:
    return largest(
        Found.at(float(relative(getattr(found[layer], side), getattr(reference[layer], side)).max()),
                 f"block {layer}, {side} sides")
        for layer in reference.layers
        for side in ("positive", "negative")
    )  # fmt: skip


def _choices(model: CausalModel, work: Workload) -> dict[str, ChoiceScores]:
    return {"unsteered": score_choices(model, work.pairs), "steered": score_choices(steered(model, work), work.pairs)}


def _compare_choices(found: dict[str, ChoiceScores], reference: dict[str, ChoiceScores], _work: Workload) -> Found:
    gaps = []
    for name, scores in reference.items():
        gap = (found[name].items.p_matching - scores.items.p_matching).abs()
        gaps.append(Found.at(float(gap.max()), f"pair {int(gap.argmax())}, {name}"))
    return largest(gaps)


def _cells(model: CausalModel, work: Workload) -> Sweep:
    rows = work.vector.expand(len(work.layers), -1)
    vector = SteeringVector(rows, layers=work.layers, site=work.point.site)
    return sweep(model, vector, work.pairs, coefs=(-work.coef, work.coef), progress=False)


def _compare_cells(found: Sweep, reference: Sweep, _work: Workload) -> Found:
    gap = (found.items - reference.items).abs().amax(-1)
    layer, coef = divmod(int(gap.argmax()), gap.shape[1])
    paths = found.path if found.path == reference.path else f"{found.path}, not {reference.path}"
    worst = Found.at(float(gap.max()), f"block {reference.layers[layer]}, coef {reference.coefs[coef]:g}; ")
    return Found(worst.difference, f"{worst.where}{gap.numel()} cells, {paths}")


def _scope(model: CausalModel, work: Workload) -> Tensor:
    """Which tokens of the batch the edit changes."""
    before = _whole(model, work)
    with steered(model, work):
        after = _whole(model, work)
    return (after != before).any(-1)


def _whole(model: CausalModel, work: Workload) -> Tensor:
    seen: list[Tensor] = []
    with model.hook(work.point, lambda hidden, _: seen.append(hidden.detach().cpu().clone())):
        model.forward(work.batch, columns=[work.columns.stop - 1])
    return seen[0]


def _compare_scope(found: Tensor, reference: Tensor, work: Workload) -> Found:
    differs = (found != reference) & work.batch.real
    if not bool(differs.any()):
        return Found(0.0, f"{int(reference.sum())} tokens, the same")
    row, column = divmod(int(differs.int().argmax()), differs.shape[1])
    done = "is not steered" if bool(reference[row, column]) else "is steered too"
    return Found(float(differs.sum()), f"pair {row}: token {int(work.batch.position[row, column])} {done}")


def _compare_answers(found: Any, reference: Any, work: Workload) -> Found:
    return compare_answers(found, reference, RELATIVE.get(work.dtype, max(RELATIVE.values())))


QUANTITIES = (
    Quantity("weights", _weights, _same_weights, NOTHING),
    Quantity("logits", _logits, compare_logits, RELATIVE),
    Quantity("states", _states, compare_states, RELATIVE),
    Quantity("recorded states", _recorded, _compare_recorded, RELATIVE),
    Quantity("p(matching)", _choices, _compare_choices, PROBABILITY),
    Quantity("sweep cells", _cells, _compare_cells, PROBABILITY),
    Quantity("steered tokens", _scope, _compare_scope, NOTHING),
    Quantity("steered logits", _steered_logits, compare_logits, RELATIVE),
    Quantity("greedy answers", answer, _compare_answers, RELATIVE),
)
"""In the order of the table. Another quantity is one row here."""

FOR_COMPARISON = ("logits", "states", "steered logits", "greedy answers")
"""Of these, what another attention implementation changes is shown."""
