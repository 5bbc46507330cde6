"""What a teacher wants of sequences that nobody was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from steerkit.adapters import attach
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.diagnostics.comparing import Aim, Aimed, run
from steerkit.diagnostics.passages import chunks, group
from steerkit.points import Point
from steerkit.training.distilling.targets import Targets, Teacher


@torch.no_grad()
def teacher_aims(model: HuggingFaceModel, teacher: Teacher, *, rows: int) -> Iterator[Aimed]:
    """A teacher's samples, a batch at a time, with their targets.

    Shifts are counted from the state that the teacher counts from, under `teacher.start`; out of scope nothing is
    wanted. Predictions are held against those of the plain model.

    Args:
        model: The model.
        teacher: Its samples are what is read: make it of held-out preferences.
        rows: The most sequences a forward pass.
    """
    points = [Point(layer, teacher.site) for layer in teacher.layers]
    lengths = [len(one.ids) for one in teacher.samples]
    for chosen in chunks(lengths, rows=rows, vocab=len(model.tokenizer)):
        samples = teacher.samples.batch(chosen, pad_id=model.pad_id)
        base: dict[int, Tensor] = {}
        with attach(model, teacher.adapters) as attached:
            targets = teacher.targets(attached, chosen)
            run(model, attached.only(*teacher.start), samples.batch, points, base.__setitem__)
        shift = _spread(targets, teacher.layers, base, samples.scope)
        plain = model.forward(samples.batch)
        yield samples.batch, group(samples.batch, samples.scope), Aim(base, shift, plain, None)


def _spread(targets: Targets, layers: Sequence[int], base: Mapping[int, Tensor], scope: Tensor) -> dict[int, Tensor]:
    """The shift of the tokens in scope in its place among all tokens."""
    found = {}
    for i, layer in enumerate(layers):
        found[layer] = torch.zeros_like(base[layer])
        found[layer][scope.to(base[layer].device)] = targets.shift[i].to(base[layer])
    return found
