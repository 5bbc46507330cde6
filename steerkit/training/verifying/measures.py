"""The single measurements of a verification."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from steerkit.adapters import Adapter
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.diagnostics.comparing import Aimed, Comparison, acting, aims_of, base_of, edited_layers, scope_of
from steerkit.diagnostics.divergence import Divergence, token_divergence
from steerkit.diagnostics.imitation import Fidelity, summarize
from steerkit.diagnostics.passages import batches, read_passages
from steerkit.errors import InputError, ModelError
from steerkit.points import Site
from steerkit.training.distilling.distilled import Distilled
from steerkit.training.distilling.targets import Teacher
from steerkit.training.verifying.merging import merged_weights
from steerkit.training.verifying.teacher_aims import teacher_aims


@dataclass(frozen=True)
class Trained:
    """What the training said of itself.

    Args:
        first_error: Mean length of the error before the first step.
        first_shift: Mean length of the wanted shift there.
        missing: Share of the wanted shift that was missing at the end.
    """

    first_error: float
    first_shift: float
    missing: float


@dataclass(frozen=True)
class Merging:
    """What merging makes of the adapter.

    Args:
        dtype: Of the merged weights.
        error: Of the change of the weights that rounding leaves, relative to the change.
        kl: Of the merged weights' predictions from the adapter's, in scope.
    """

    dtype: str
    error: float
    kl: Divergence


class Measure:
    """Reads the wanted shift on one set of sequences, as often as it is asked.

    Args:
        model: The base.
        wanted: A `Steer`, a model with an adapter, or a teacher, which has its own sequences.
        given: What is read.
        rows: The most sequences a forward pass.
    """

    def __init__(self, model: HuggingFaceModel, wanted: Any, given: Any, rows: int) -> None:
        self.model, self.wanted, self.rows = model, wanted, rows
        self.teacher = wanted if isinstance(wanted, Teacher) else None
        self.scope = scope_of(wanted)
        sequences = given if self.teacher is None else self.teacher.samples
        self.passages = read_passages(sequences, model, positions=self.scope)
        every = list(range(model.info.num_layers))
        self.layers = list(self.teacher.layers) if self.teacher is not None else edited_layers(wanted) or every
        self.measured = every if self.teacher is None else self.layers

    def aims(self, layers: Sequence[int]) -> Iterator[Aimed]:
        """The batches with what is wanted of them."""
        if self.teacher is not None:
            return teacher_aims(self.model, self.teacher, rows=self.rows)
        points = Comparison(self.model, layers).points
        return aims_of(self.model, self.wanted, self.passages, points, rows=self.rows)

    def fidelity(self, distilled: Any, neutral: Any) -> Fidelity:
        """The realized shift against the wanted one."""
        site: Site = "resid_post" if self.teacher is None else self.teacher.site
        comparison = Comparison(self.model, self.measured, site=site)
        quiet = [] if neutral is None else read_passages(neutral, self.model, positions=self.scope)
        comparison.read(self.aims(self.measured), distilled)
        under = self.wanted if self.teacher is None else self.model
        comparison.read_neutral(aims_of(self.model, under, quiet, comparison.points, rows=self.rows), distilled)
        return summarize(comparison, targets=self.layers, texts=len(self.passages))

    @torch.no_grad()
    def divergence(self, one: Any, other: Any) -> Divergence:
        """Of the predictions of one from those of another, in scope."""
        parts = []
        for batch, masks in batches(self.passages, rows=self.rows, vocab=len(self.model.tokenizer)):
            logits = []
            for thing in (one, other):
                with acting(thing):
                    logits.append(base_of(thing).forward(batch))
            parts.append(token_divergence(logits[0], logits[1], masks.scope))
        return Divergence.of(parts)


def adapter_of(distilled: Any) -> Adapter | None:
    """The LoRA adapter, as strong as it acts; `None` for weights without a scale."""
    if isinstance(distilled, Distilled):
        return None if distilled.foundation is not None else distilled.adapter
    weights = getattr(distilled, "weights", None)
    if not isinstance(weights, Adapter):
        return None
    return weights if distilled.scale == 1 else weights.scaled(distilled.scale)


def merge(model: Any, adapter: Adapter | None, dtype: torch.dtype | None, left_out: list[str]) -> tuple[Any, float]:
    """The merged weights on the model and the error of their change; why not, where they cannot be merged."""
    if adapter is None:
        left_out.append("merging, since there is no adapter alone on the base")
        return None, math.nan
    try:
        weights, error = merged_weights(model, adapter, dtype=dtype)
    except (InputError, ModelError) as refused:
        left_out.append(f"merging: {refused}")
        return None, math.nan
    return weights.on(model, override=True), error


def trained(distilled: Any) -> Trained | None:
    """What the training said; `None` where there is no record of one."""
    curve = getattr(distilled, "curve", None)
    if curve is None or not len(curve) or not {"error", "shift"} <= set(curve.names):
        return None
    return Trained(curve.series("error")[0], curve.series("shift")[0], distilled.missing)
