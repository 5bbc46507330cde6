"""One piece of one step: what the student does, against what it should do."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from steerkit.adapters.attached import Attached
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.errors import SteeringError
from steerkit.points import Point
from steerkit.positions import Pass
from steerkit.training.distilling.losses import (
    Objective,
    cosines,
    divergence,
    length,
    retain_loss,
    root_mean_squares,
    state_loss,
)
from steerkit.training.distilling.samples import SampleBatch
from steerkit.training.distilling.shifts import WantedShifts
from steerkit.training.distilling.targets import Targets, Teacher
from steerkit.training.fitting.recompute import recomputed


@dataclass(frozen=True, eq=False)
class Student:
    """A student that learns from a teacher; called with a piece of a batch, it gives its share of the loss.

    The teacher's states come first, then the student's pass; from there to the end of the backward pass the adapters
    that act must stay the same, and the backward pass refuses to run where they do not.

    Args:
        attached: The model, with the student's and the teacher's adapters.
        teacher: Who knows the targets.
        objective: What counts, with `retain` decided.
        wanted: How large the targets are.
        recompute: Use gradient checkpointing.
    """

    attached: Attached
    teacher: Teacher
    objective: Objective
    wanted: WantedShifts
    recompute: bool = False

    def __call__(self, piece: list[int], batch: list[int]) -> tuple[Tensor, dict[str, float]]:
        """The share of a piece in the loss of its batch; see `steerkit.training.fitting.loop.Step`."""
        samples = self.teacher.samples
        inputs = samples.batch(piece, pad_id=self._model.pad_id)
        targets = self.teacher.targets(self.attached, piece)
        stay = self._stay(inputs, targets)
        logits = self._teaching_logits(inputs, targets)
        states, log_student = self._run(inputs)
        states_in = _at(states, inputs.scope).to(targets.base)
        layers = len(self.teacher.layers)
        inside, outside = samples.inside(batch) * layers, samples.outside(batch) * layers
        moved = states_in - targets.base
        loss_in = state_loss(self.objective.loss, moved, targets.shift, scale=self.wanted.squared.to(moved.device))
        loss = loss_in.sum() / max(inside, 1)
        found = {
            "error": float(length(moved.detach() - targets.shift).sum()) / max(inside, 1),
            "shift": float(length(targets.shift).sum()) / max(inside, 1),
            "cosine": float(cosines(moved.detach(), targets.shift).sum()) / max(inside, 1),
        }
        if stay is not None:
            term = retain_loss(self.objective.loss, _at(states, inputs.outside).to(stay) - stay).sum() / max(outside, 1)
            loss, found["retain"] = loss + (self.objective.retain or 0.0) * term, float(term.detach())
        for name, term in self._output_terms(log_student, logits, inputs, batch):
            loss, found[name] = loss + getattr(self.objective, name) * term, float(term.detach())
        return self._guarded(loss), found

    @property
    def _model(self) -> HuggingFaceModel:
        return self.attached.model

    def _stay(self, inputs: SampleBatch, targets: Targets) -> Tensor | None:
        """What the states out of scope are to be; `None` where they do not count."""
        if not self.objective.retain:
            return None
        if targets.outside is not None:
            return targets.outside
        states: dict[int, Tensor] = {}
        with torch.no_grad(), self.attached.only(*self.teacher.start), self._watching(states):
            self._model.run(inputs.batch, until=self.teacher.layers[-1])
        return _at(states, inputs.outside)

    def _teaching_logits(self, inputs: SampleBatch, targets: Targets) -> dict[str, Tensor]:
        """Log-probabilities of the model with its states set to the targets, and of the base, where they count."""
        found: dict[str, Tensor] = {}
        if not self.objective.reads_logits:
            return found
        wanted = {layer: targets.wanted[i] for i, layer in enumerate(self.teacher.layers)}
        with torch.no_grad(), self.attached.only(*self.teacher.start):
            if self.objective.guard:
                found["guard"] = self._log_probabilities(inputs)
            if self.objective.output:
                with ExitStack() as stack:
                    for layer, states in wanted.items():
                        point = Point(layer, self.teacher.site)
                        stack.enter_context(self._model.hook(point, partial(_set, scope=inputs.scope, states=states)))
                    found["output"] = self._log_probabilities(inputs)
        return found

    def _run(self, inputs: SampleBatch) -> tuple[dict[int, Tensor], Tensor | None]:
        states: dict[int, Tensor] = {}
        again = recomputed(self._model.parts.blocks) if self.recompute else nullcontext()
        with again, self._watching(states):
            if self.objective.reads_logits:
                return states, self._log_probabilities(inputs)
            self._model.run(inputs.batch, until=self.teacher.layers[-1])
        return states, None

    def _watching(self, states: dict[int, Tensor]) -> ExitStack:
        def keep(layer: int, hidden: Tensor, _pass: Pass) -> None:
            states[layer] = hidden

        with ExitStack() as stack:
            for layer in self.teacher.layers:
                stack.enter_context(self._model.hook(Point(layer, self.teacher.site), partial(keep, layer)))
            return stack.pop_all()

    def _log_probabilities(self, inputs: SampleBatch) -> Tensor:
        """At the tokens in scope, row by row; `[token, vocab]`."""
        columns = inputs.scope.any(0).nonzero().squeeze(-1)
        logits = self._model.run(inputs.batch, columns=columns.tolist())
        return logits[inputs.scope[:, columns].to(logits.device)].float().log_softmax(-1)

    def _output_terms(
        self, log_student: Tensor | None, logits: dict[str, Tensor], inputs: SampleBatch, batch: Sequence[int]
    ) -> list[tuple[str, Tensor]]:
        terms = []
        if log_student is not None and "output" in logits:
            tokens = max(self.teacher.samples.inside(batch), 1)
            terms.append(("output", divergence(logits["output"], log_student).sum() / tokens))
        if log_student is not None and "guard" in logits:
            rows = root_mean_squares(divergence(log_student, logits["guard"]), inputs.scope)
            terms.append(("guard", rows.sum() / len(batch)))
        return terms

    def _guarded(self, loss: Tensor) -> Tensor:
        acting = self.attached.active

        def check(_gradient: Tensor) -> None:
            if self.attached.active != acting:
                raise SteeringError(f"the adapters {acting} acted in the forward pass, but {self.attached.active} act "
                                    "in its backward pass: the gradients would be wrong. Switch after it")  # fmt: skip

        if loss.requires_grad:
            loss.register_hook(check)  # type: ignore[no-untyped-call]
        return loss


def _at(states: dict[int, Tensor], mask: Tensor) -> Tensor:
    """The states of some tokens, `[layer, token, hidden]`, at least in float32."""
    found = [states[layer][mask.to(states[layer].device)] for layer in sorted(states)]
    return torch.stack([one.to(found[0].device, torch.promote_types(one.dtype, torch.float32)) for one in found])


def _set(hidden: Tensor, _pass: Pass, *, scope: Tensor, states: Tensor) -> Any:
    changed = hidden.clone()
    changed[scope.to(hidden.device)] = states.to(hidden.device, hidden.dtype)
    return changed
