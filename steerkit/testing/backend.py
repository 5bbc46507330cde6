"""The contract of a backend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from steerkit.backends.base import Batch, Model
from steerkit.packing import can_pack, pack
from steerkit.points import Point
from steerkit.positions import Pass
from steerkit.testing.checks import Check, Conformance, distance, judge
from steerkit.testing.generation_checks import measure_generation
from steerkit.testing.running import adding, batch_of, delta_of, read
from steerkit.testing.site_checks import measure_sites

TOLERANCE = {"float32": 1e-5, "float16": 2e-2, "bfloat16": 1e-1}
"""Largest difference allowed, relative to the largest value, by dtype of the model."""
ROUNDED = {"bitsandbytes 8bit": 5e-2}
"""Likewise by quantization, where it says more: LLM.int8() keeps columns with outliers in half precision, and which
columns those are depends on all rows of a batch together."""


class _Planted(Exception):  # noqa: N818 - raised on purpose, inside a pass
    """What goes wrong in the check that errors leave nothing behind."""


def check_backend(model: Model, *, rows: Sequence[Sequence[int]] | None = None) -> Conformance:
    """Hold a model to the contract of a backend, by running it.

    Reads equal Hugging Face's `hidden_states`; every site holds and takes what its name says; an addition shifts its
    point and leaves every other token bit for bit; leaving restores the model bit for bit, also after an error; cached
    equals uncached; padded equals alone; packed equals one by one; generating under a hook equals a plain greedy loop.

    Args:
        model: Any backend, any architecture.
        rows: Tokens to run, at least two rows of different lengths; without them a few low token ids.

    Raises:
        ConformanceError: A check failed; the message shows all of them.
    """
    return judge(measure_backend(model, rows=rows))


def measure_backend(model: Model, *, rows: Sequence[Sequence[int]] | None = None) -> Conformance:
    """As `check_backend`, whatever comes out."""
    tokens = [list(row) for row in rows] if rows else [[5, 6, 7, 8, 9, 10, 11, 12], [13, 14, 15]]
    allowed = TOLERANCE.get(model.info.dtype, 1e-1)
    if model.info.quantization in ROUNDED:
        allowed = max(allowed, ROUNDED[model.info.quantization])
    checks = [Check(name, difference, bound) for name, difference, bound in _measure(model, tokens, allowed)]
    return Conformance(f"{model.info.name}: the contract of a backend", tuple(checks))


def _measure(model: Model, rows: list[list[int]], allowed: float) -> Iterator[tuple[str, float, float]]:
    alone = [batch_of([row]) for row in rows]
    base = [model.forward(one) for one in alone]
    reads = _reads(model, alone[0])
    if reads is not None:
        yield "reads equal hidden_states", reads, allowed
    yield "one block's output is the next one's input", _chain(model, alone[0]), 0.0
    for name, difference in measure_sites(model, alone[0]):
        yield name, difference, allowed
    yield "an addition shifts its point", _shift(model, alone[0]), allowed
    yield "other tokens stay bit for bit", _others(model, alone[0]), 0.0
    yield "leaving restores bit for bit", distance(model.forward(alone[0]), base[0], exact=True), 0.0
    yield "an error restores bit for bit", _after_error(model, alone[0], base[0]), 0.0
    yield from _measure_batches(model, rows, base, allowed)
    for name, difference, at_most in measure_generation(model, rows[0]):
        yield name, difference, allowed if at_most is None else at_most


def _measure_batches(
    model: Model, rows: list[list[int]], base: list[Tensor], allowed: float
) -> Iterator[tuple[str, float, float]]:
    edit = Point(model.info.num_layers // 2), adding(since=1)
    with model.hook(*edit):
        steered = [model.forward(batch_of([row])) for row in rows]
    for name, left in (("left", True), ("right", False)):
        batch = batch_of(rows, left=left)
        yield f"padded on the {name} = alone", _worst(model.forward(batch), base, batch), allowed
        with model.hook(*edit):
            together = model.forward(batch)
        yield f"steered, padded on the {name} = alone", _worst(together, steered, batch), allowed
    yield "cached = uncached", _cached(model, rows[0], base[0]), allowed
    if can_pack(model.info, length=len(rows[0])):
        yield "packed = one by one", _packed(model, rows[0], base[0]), allowed


def _worst(together: Tensor, alone: list[Tensor], batch: Batch) -> float:
    real = batch.real.to(together.device)
    return max(distance(together[i][real[i]], alone[i][0]) for i in range(len(alone)))


def _reads(model: Model, batch: Batch) -> float | None:
    """Against transformers' own `hidden_states`, where a model gives them."""
    hf = getattr(model, "hf", None)
    if hf is None:
        return None
    layers = range(model.info.num_layers)
    seen = read(model, batch, [Point(0, "resid_pre"), *(Point(layer) for layer in layers)])
    with torch.no_grad():
        ids = batch.input_ids.to(getattr(model, "device", hf.device))
        states = hf(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
    if len(states or ()) <= len(layers):
        return None
    first = int(distance(seen[Point(0, "resid_pre")], states[0]) == 0.0)  # some begin with block 0's output
    return max(distance(seen[Point(layer)], states[layer + first]) for layer in layers[:-1])


def _chain(model: Model, batch: Batch) -> float:
    last = model.info.num_layers - 1
    points = [Point(layer) for layer in range(last)] + [Point(layer + 1, "resid_pre") for layer in range(last)]
    seen = read(model, batch, points)
    return max(distance(seen[Point(i)], seen[Point(i + 1, "resid_pre")], exact=True) for i in range(last))


def _edited(model: Model, batch: Batch) -> tuple[Tensor, Tensor, int]:
    """The stream at the middle block before and after an addition at one token."""
    point, token = Point(model.info.num_layers // 2), batch.input_ids.shape[1] - 2
    before = read(model, batch, [point])[point]
    after = read(model, batch, [point], (point, adding(at=token)))[point]
    return before, after, token


def _shift(model: Model, batch: Batch) -> float:
    before, after, token = _edited(model, batch)
    delta = delta_of(model.info.hidden_size)
    return distance(after[0, token].float().cpu(), before[0, token].float().cpu() + delta)


def _others(model: Model, batch: Batch) -> float:
    before, after, token = _edited(model, batch)
    keep = [i for i in range(before.shape[1]) if i != token]
    return distance(after[0, keep], before[0, keep], exact=True)


def _after_error(model: Model, batch: Batch, base: Tensor) -> float:
    armed = [True]

    def fail_once(_hidden: Tensor, _pass: Pass) -> None:
        if armed:
            armed.clear()
            raise _Planted

    with suppress(_Planted), model.hook(Point(0), adding(at=0)), model.hook(Point(1), fail_once):
        model.forward(batch)
    return distance(model.forward(batch), base, exact=True)


def _cached(model: Model, row: list[int], base: Tensor) -> float:
    half = len(row) // 2
    prefix = model.prefill(batch_of([row[:half]])).copies(2)
    rest = torch.tensor([row[half:]] * 2)
    position = torch.arange(half, len(row)).expand(2, -1)
    logits = model.forward(Batch(rest, position, torch.tensor([half, half])), prefix=prefix)
    return max(distance(logits[i], base[0, half:]) for i in range(2))


def _packed(model: Model, row: list[int], base: Tensor) -> float:
    half = len(row) // 2
    packed = pack([row[:half]], [[row[half:], [3], row[half:]]], [half], pad_id=0)
    logits = model.forward(packed.batch)
    worst = 0.0
    for tail in (0, 2):
        columns = [packed.column(0, tail, i) for i in range(len(row))]
        worst = max(worst, distance(logits[0, columns], base[0]))
    return worst
