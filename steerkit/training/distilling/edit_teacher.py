"""Edits as a teacher: the states of the model that is really steered."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from steerkit.adapters.attached import Attached
from steerkit.backends.base import Batch, pad
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.data.encoding import Encoded
from steerkit.errors import DataError, InputError
from steerkit.points import Point, Site
from steerkit.positions import Pass, select
from steerkit.steering.action import Action
from steerkit.steering.edits import Edit
from steerkit.steering.operations import Add
from steerkit.steering.placement import Placed, place
from steerkit.training.distilling.samples import Sample, Samples
from steerkit.training.distilling.targets import Targets

States = dict[int, Tensor]


class EditTeacher:
    r"""The states of a model under edits, at the output of every block that an edit changes.

    For one layer this is $h_{base} + c v$, from one pass of the base. For several, the steered model itself runs: an
    edit meets states that the ones below have changed already, so the shifts compound as they do in `Steer`. (RAHF sets
    each layer to $h_{base} + \alpha v_l$ instead; give the same edits one by one to a `Differences` for that.) An edit
    within a block counts where it arrives in the residual stream, at the block's output.

    Args:
        model: The model.
        edits: As `Steer` has them; one coefficient each, not one a row.
        sequences: What the student sees; the tokens that any edit selects are in scope.

    Raises:
        InputError: There is no edit, an edit is not valid for the model, or has a coefficient for each row.
        DataError: No token of any sequence is in scope.
    """

    site: Site = "resid_post"
    adapters: Mapping[str, Any] = {}
    start: tuple[str, ...] = ()

    def __init__(self, model: HuggingFaceModel, edits: Sequence[Edit], sequences: Sequence[Encoded]) -> None:
        self.edits = tuple(edits)
        self.placed = place_all(self.edits, model)
        self.layers = tuple(sorted({one.point.layer for one in self.placed}))
        self.samples = scoped(self.edits, sequences)
        at_end = [one for one in self.placed if one.point.site == "resid_post"]
        self._inner = [Action(one) for one in self.placed if one.point.site != "resid_post"]
        self._ends = {layer: [Action(one) for one in at_end if one.point.layer == layer] for layer in self.layers}
        self._exact = {layer: [Action(one) for one in at_end if one.point.layer == layer] for layer in self.layers}

    def identity(self) -> dict[str, Any]:
        """What decides the targets, as plain values."""
        return {
            "kind": "edits",
            "edits": [describe_placed(one) for one in self.placed],
            "data": self.samples.fingerprint,
        }

    @torch.no_grad()
    def targets(self, attached: Attached, indices: Sequence[int]) -> Targets:
        """The states of some samples without and with the edits; see `Teacher.targets`."""
        model = attached.model
        samples = self.samples.batch(indices, pad_id=model.pad_id)
        with attached.only(*self.start):
            entering, added = self._steered(model, samples.batch)
            moved = [layer for layer in self.layers if self._moved_before(layer)]
            base = {**entering, **read_states(model, samples.batch, moved, self.site)} if moved else entering
        inside, outside = (mask.to(model.device) for mask in (samples.scope, samples.outside))
        before = _gather(base, inside)
        shift = _gather(added, inside)
        if moved:
            shift = shift + (_gather(entering, inside) - before)
        return Targets(before, shift, outside=_gather(entering, outside))

    def _steered(self, model: HuggingFaceModel, batch: Batch) -> tuple[States, States]:
        """What enters the edits at each block's output, and what they add to it, computed in float32."""
        entering: States = {}
        added: States = {}

        def watch(layer: int, hidden: Tensor, pass_: Pass) -> None:
            entering[layer] = hidden
            added[layer] = self._change(layer, hidden, pass_)

        last = self.layers[-1]
        with ExitStack() as stack:
            for action in self._inner:
                stack.enter_context(model.hook(action.placed.point, action))
            for layer, actions in self._ends.items():
                stack.enter_context(model.hook(Point(layer), partial(watch, layer)))
                for action in actions if layer < last else ():
                    stack.enter_context(model.hook(Point(layer), action))
            model.run(batch, until=last)
        return entering, added

    def _change(self, layer: int, hidden: Tensor, pass_: Pass) -> Tensor:
        """Additions do not depend on the state, so they are taken at 0, where nothing of them is rounded away."""
        actions = self._exact[layer]
        compute = torch.promote_types(hidden.dtype, torch.float32)
        adds = all(type(action.placed.operation) is Add for action in actions)
        start = torch.zeros_like(hidden, dtype=compute) if adds else hidden.to(compute)
        after = start
        for action in actions:
            changed = action(after, pass_)
            after = after if changed is None else changed
        return after - start

    def _moved_before(self, layer: int) -> bool:
        """Some edit changes what enters the edits at a block's output."""
        return any(one.point.layer < layer or (one.point.site != "resid_post" and one.point.layer == layer)
                   for one in self.placed)  # fmt: skip


def place_all(edits: Sequence[Edit], model: HuggingFaceModel) -> list[Placed]:
    """Edits at their points; the input of a block is the output of the one before it.

    Raises:
        InputError: There is no edit, or one is not valid for the model.
    """
    if not edits:
        raise InputError("there is no edit to distil; add one: steer.add(vector, layer=..., coef=...)")
    for edit in edits:
        if isinstance(edit.coef, Tensor):
            raise InputError(f"coef={edit.strength} differs by row; weights are the same for every row. Distil one "
                             "coefficient")  # fmt: skip
    placed = [one for edit in edits for one in place(edit, model.info)]
    return [
        replace(one, point=Point(one.point.layer - 1)) if one.point.site == "resid_pre" and one.point.layer else one
        for one in placed
    ]


def scoped(edits: Sequence[Edit], sequences: Sequence[Encoded]) -> Samples:
    """Sequences with the tokens in scope that any edit selects.

    Raises:
        DataError: That is none.
    """
    samples = []
    for one in sequences:
        batch = pad([one.ids], [one.prompt_length], pad_id=0)
        pass_ = Pass(1, len(one.ids), batch.prompt_length, given=batch.position)
        chosen = torch.zeros(len(one.ids), dtype=torch.bool)
        for edit in edits:
            mask = select(edit.positions, pass_)
            chosen |= batch.real[0] if mask is None else mask[0]
        samples.append(Sample(one.ids, one.prompt_length, tuple(chosen.tolist())))
    found = Samples(samples)
    if found.inside() == 0:
        where = ", ".join(sorted({repr(edit.positions) for edit in edits}))
        raise DataError(f"no token of {len(found)} sequences stands at positions={where}: there is nothing to distil. "
                        "Steer(model).preview(prompts) shows what an edit selects")  # fmt: skip
    return found


@torch.no_grad()
def read_states(model: HuggingFaceModel, batch: Batch, layers: Sequence[int], site: Site) -> States:
    """The states of a plain pass at some layers; it stops after the last of them."""
    states: States = {}
    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(model.hook(Point(layer, site), _keeper(states, layer)))
        model.run(batch, until=max(layers))
    return states


def _keeper(states: States, layer: int) -> Any:
    def keep(hidden: Tensor, _pass: Pass) -> None:
        states[layer] = hidden

    return keep


def _gather(states: Mapping[int, Tensor], mask: Tensor) -> Tensor:
    parts = [states[layer][mask.to(states[layer].device)] for layer in sorted(states)]
    return torch.stack([one.to(parts[0].device, torch.promote_types(one.dtype, torch.float32)) for one in parts])


def describe_placed(one: Placed) -> dict[str, Any]:
    """An edit as plain values; the vector by its hash."""
    values = hashlib.sha256(one.vector.numpy().tobytes()).hexdigest()[:16]
    return {"layer": one.point.layer, "site": one.point.site, "coef": one.coef, "operation": repr(one.operation),
            "positions": repr(one.positions), "vector": values}  # fmt: skip
