"""The contract of a backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress

import torch
from torch import Tensor

from steerkit.backends.base import Batch, Model, pad
from steerkit.packing import can_pack, pack
from steerkit.points import Point
from steerkit.positions import Pass
from steerkit.testing.checks import Check, Conformance, distance, judge

TOLERANCE = {"float32": 1e-5, "float16": 2e-2, "bfloat16": 1e-1}
"""Largest difference allowed, relative to the largest value, by dtype of the model."""


class _Planted(Exception):  # noqa: N818 - raised on purpose, inside a pass
    """What goes wrong in the check that errors leave nothing behind."""


def check_backend(model: Model, *, rows: Sequence[Sequence[int]] | None = None) -> Conformance:
    """Hold a model to the contract of a backend, by running it.

    Reads equal Hugging Face's `hidden_states`; an addition shifts its point and leaves every other token bit for bit;
    leaving restores the model bit for bit, also after an error; cached equals uncached; padded equals alone; packed
    equals one by one.

    Args:
        model: Any backend, any architecture.
        rows: Tokens to run, at least two rows of different lengths; without them a few low token ids.

    Raises:
        ConformanceError: A check failed; the message shows all of them.
    """
    tokens = [list(row) for row in rows] if rows else [[5, 6, 7, 8, 9, 10, 11, 12], [13, 14, 15]]
    allowed = TOLERANCE.get(model.info.dtype, 1e-1)
    checks = [Check(name, difference, bound) for name, difference, bound in _measure(model, tokens, allowed)]
    return judge(Conformance(f"{model.info.name}: the contract of a backend", tuple(checks)))


def _measure(model: Model, rows: list[list[int]], allowed: float) -> Iterator[tuple[str, float, float]]:
    alone = [_batch([row]) for row in rows]
    base = [model.forward(one) for one in alone]
    yield "reads equal hidden_states", _reads(model, alone[0]), allowed
    yield "one block's output is the next one's input", _chain(model, alone[0]), 0.0
    yield "input + attention + MLP = output", _sum_of_sites(model, alone[0]), max(allowed, 1e-5)
    yield "an addition shifts its point", _shift(model, alone[0]), allowed
    yield "other tokens stay bit for bit", _others(model, alone[0]), 0.0
    yield "leaving restores bit for bit", distance(model.forward(alone[0]), base[0], exact=True), 0.0
    yield "an error restores bit for bit", _after_error(model, alone[0], base[0]), 0.0
    left, right = _batch(rows), _batch(rows, left=False)
    for name, batch in (("left", left), ("right", right)):
        together = model.forward(batch)
        worst = max(distance(together[i][batch.real[i]], base[i][0]) for i in range(len(rows)))
        yield f"padded on the {name} = alone", worst, allowed
    yield "cached = uncached", _cached(model, rows[0], base[0]), allowed
    if can_pack(model.info, length=len(rows[0])):
        yield "packed = one by one", _packed(model, rows[0], base[0]), allowed


def _batch(rows: Sequence[Sequence[int]], *, left: bool = True) -> Batch:
    return pad(rows, [len(row) for row in rows], pad_id=0, left=left)


def _read(model: Model, batch: Batch, points: Sequence[Point]) -> dict[Point, Tensor]:
    seen: dict[Point, Tensor] = {}

    def keep(point: Point) -> Callable[[Tensor, Pass], None]:
        return lambda hidden, _: seen.__setitem__(point, hidden.detach().clone())

    with ExitStack() as stack:
        for point in points:
            stack.enter_context(model.hook(point, keep(point)))
        model.forward(batch)
    return seen


def _reads(model: Model, batch: Batch) -> float:
    hf = getattr(model, "hf", None)
    if hf is None:
        return 0.0
    seen = _read(model, batch, [Point(layer) for layer in range(model.info.num_layers)])
    with torch.no_grad():
        ids = batch.input_ids.to(hf.get_input_embeddings().weight.device)
        states = hf(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
    return max(distance(seen[Point(layer)], states[layer + 1]) for layer in range(model.info.num_layers - 1))


def _chain(model: Model, batch: Batch) -> float:
    last = model.info.num_layers - 1
    points = [Point(layer) for layer in range(last)] + [Point(layer + 1, "resid_pre") for layer in range(last)]
    seen = _read(model, batch, points)
    return max(distance(seen[Point(i)], seen[Point(i + 1, "resid_pre")], exact=True) for i in range(last))


def _sum_of_sites(model: Model, batch: Batch) -> float:
    layer = model.info.num_layers // 2
    seen = _read(model, batch, [Point(layer, site) for site in ("resid_pre", "attn_out", "mlp_out", "resid_post")])
    by_site = {point.site: value.float() for point, value in seen.items()}
    return distance(by_site["resid_pre"] + by_site["attn_out"] + by_site["mlp_out"], by_site["resid_post"])


def _edit(model: Model, token: int) -> Callable[[Tensor, Pass], Tensor]:
    delta = torch.linspace(-1, 1, model.info.hidden_size)

    def add(hidden: Tensor, pass_: Pass) -> Tensor:
        chosen = (pass_.position == token).unsqueeze(-1).to(hidden.device)
        return torch.where(chosen, (hidden.float() + delta.to(hidden.device)).to(hidden.dtype), hidden)

    return add


def _edited(model: Model, batch: Batch) -> tuple[Tensor, Tensor, int]:
    """The stream at the middle block before and after an addition at one token."""
    point, token = Point(model.info.num_layers // 2), batch.input_ids.shape[1] - 2
    before = _read(model, batch, [point])[point]
    with model.hook(point, _edit(model, token)):
        after = _read(model, batch, [point])[point]
    return before, after, token


def _shift(model: Model, batch: Batch) -> float:
    before, after, token = _edited(model, batch)
    delta = torch.linspace(-1, 1, model.info.hidden_size)
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

    with suppress(_Planted), model.hook(Point(0), _edit(model, 0)), model.hook(Point(1), fail_once):
        model.forward(batch)
    return distance(model.forward(batch), base, exact=True)


def _cached(model: Model, row: list[int], base: Tensor) -> float:
    half = len(row) // 2
    prefix = model.prefill(_batch([row[:half]])).copies(2)
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
