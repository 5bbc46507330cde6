"""One public suite that holds backends, operations and extractors to their contracts.

```python
from steerkit.testing import check_backend

print(check_backend(sk.load("my-model")))
```
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steerkit.backends.base import Batch, Model, pad
from steerkit.errors import SteerkitError
from steerkit.packing import can_pack, pack
from steerkit.points import Point
from steerkit.positions import Pass
from steerkit.store import Paired
from steerkit.tables import html_table, text_table

TOLERANCE = {"float32": 1e-5, "float16": 2e-2, "bfloat16": 1e-1}
"""Largest difference allowed, relative to the largest value, by dtype of the model."""


class _Planted(Exception):  # noqa: N818 - raised on purpose, inside a pass
    """What goes wrong in the check that errors leave nothing behind."""


class ConformanceError(SteerkitError, AssertionError):
    """A part does not keep its contract; the message is the table of all checks."""


@dataclass(frozen=True)
class Check:
    """One property that was measured: its largest relative difference, and what is allowed."""

    name: str
    difference: float
    allowed: float

    @property
    def passed(self) -> bool:
        """The difference is a number within what is allowed."""
        return self.difference <= self.allowed


@dataclass(frozen=True)
class Conformance:
    """All checks of one part."""

    subject: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Every check passed."""
        return all(check.passed for check in self.checks)

    def _rows(self) -> list[list[Any]]:
        return [[c.name, c.difference, c.allowed, "ok" if c.passed else "FAILED"] for c in self.checks]

    def __repr__(self) -> str:
        return text_table(["check", "difference", "allowed", ""], self._rows(), title=self.subject)

    def _repr_html_(self) -> str:
        return html_table(["check", "difference", "allowed", ""], self._rows(), title=self.subject)


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
    return _judge(Conformance(f"{model.info.name}: the contract of a backend", tuple(checks)))


def _judge(result: Conformance) -> Conformance:
    if not result.passed:
        raise ConformanceError(repr(result))
    return result


def _measure(model: Model, rows: list[list[int]], allowed: float) -> Iterator[tuple[str, float, float]]:
    alone = [_batch([row]) for row in rows]
    base = [model.forward(one) for one in alone]
    yield "reads equal hidden_states", _reads(model, alone[0]), allowed
    yield "one block's output is the next one's input", _chain(model, alone[0]), 0.0
    yield "input + attention + MLP = output", _sum_of_sites(model, alone[0]), max(allowed, 1e-5)
    yield "an addition shifts its point", _shift(model, alone[0]), allowed
    yield "other tokens stay bit for bit", _others(model, alone[0]), 0.0
    yield "leaving restores bit for bit", _distance(model.forward(alone[0]), base[0], exact=True), 0.0
    yield "an error restores bit for bit", _after_error(model, alone[0], base[0]), 0.0
    left, right = _batch(rows), _batch(rows, left=False)
    for name, batch in (("left", left), ("right", right)):
        together = model.forward(batch)
        worst = max(_distance(together[i][batch.real[i]], base[i][0]) for i in range(len(rows)))
        yield f"padded on the {name} = alone", worst, allowed
    yield "cached = uncached", _cached(model, rows[0], base[0]), allowed
    if can_pack(model.info, length=len(rows[0])):
        yield "packed = one by one", _packed(model, rows[0], base[0]), allowed


def _batch(rows: Sequence[Sequence[int]], *, left: bool = True) -> Batch:
    return pad(rows, [len(row) for row in rows], pad_id=0, left=left)


def _distance(a: Tensor, b: Tensor, *, exact: bool = False) -> float:
    a, b = a.float().cpu(), b.float().cpu()
    worst = float((a - b).abs().max())
    return worst if exact or worst == 0 else worst / max(float(b.abs().max()), 1e-12)


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
    return max(_distance(seen[Point(layer)], states[layer + 1]) for layer in range(model.info.num_layers - 1))


def _chain(model: Model, batch: Batch) -> float:
    last = model.info.num_layers - 1
    points = [Point(layer) for layer in range(last)] + [Point(layer + 1, "resid_pre") for layer in range(last)]
    seen = _read(model, batch, points)
    return max(_distance(seen[Point(i)], seen[Point(i + 1, "resid_pre")], exact=True) for i in range(last))


def _sum_of_sites(model: Model, batch: Batch) -> float:
    layer = model.info.num_layers // 2
    seen = _read(model, batch, [Point(layer, site) for site in ("resid_pre", "attn_out", "mlp_out", "resid_post")])
    by_site = {point.site: value.float() for point, value in seen.items()}
    return _distance(by_site["resid_pre"] + by_site["attn_out"] + by_site["mlp_out"], by_site["resid_post"])


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
    return _distance(after[0, token].float().cpu(), before[0, token].float().cpu() + delta)


def _others(model: Model, batch: Batch) -> float:
    before, after, token = _edited(model, batch)
    keep = [i for i in range(before.shape[1]) if i != token]
    return _distance(after[0, keep], before[0, keep], exact=True)


def _after_error(model: Model, batch: Batch, base: Tensor) -> float:
    armed = [True]

    def fail_once(_hidden: Tensor, _pass: Pass) -> None:
        if armed:
            armed.clear()
            raise _Planted

    with suppress(_Planted), model.hook(Point(0), _edit(model, 0)), model.hook(Point(1), fail_once):
        model.forward(batch)
    return _distance(model.forward(batch), base, exact=True)


def _cached(model: Model, row: list[int], base: Tensor) -> float:
    half = len(row) // 2
    prefix = model.prefill(_batch([row[:half]])).copies(2)
    rest = torch.tensor([row[half:]] * 2)
    position = torch.arange(half, len(row)).expand(2, -1)
    logits = model.forward(Batch(rest, position, torch.tensor([half, half])), prefix=prefix)
    return max(_distance(logits[i], base[0, half:]) for i in range(2))


def _packed(model: Model, row: list[int], base: Tensor) -> float:
    half = len(row) // 2
    packed = pack([row[:half]], [[row[half:], [3], row[half:]]], [half], pad_id=0)
    logits = model.forward(packed.batch)
    worst = 0.0
    for tail in (0, 2):
        columns = [packed.column(0, tail, i) for i in range(len(row))]
        worst = max(worst, _distance(logits[0, columns], base[0]))
    return worst


def check_operation(operation: Any, *, hidden_size: int = 16, seed: int = 0) -> Conformance:
    """Hold a steering operation to its contract: `operation(hidden, vector, coef)` on float32 tensors.

    Shape and dtype stay; the input is not written to; every token is treated alike, alone or in a batch; the result is
    finite, also for a zero activation; a `[batch, 1, 1]` coefficient equals each row by itself.

    Args:
        operation: What `Steer.apply` takes.
        hidden_size: Width of the activations tried.
        seed: Of the random activations.

    Raises:
        ConformanceError: A check failed; the message shows all of them.

    Example:
        >>> check_operation(lambda hidden, vector, coef: hidden + coef * vector).passed
        True
    """
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(3, 5, hidden_size, generator=generator)
    hidden[0, 0] = 0
    vector = torch.randn(hidden_size, generator=generator)
    coef = torch.tensor([-1.0, 0.5, 2.0])
    kept = hidden.clone()
    out = operation(hidden, vector, 0.5)
    rows = operation(hidden, vector, coef.reshape(-1, 1, 1))
    each = torch.cat([operation(hidden[i : i + 1], vector, float(coef[i])) for i in range(3)])
    tokens = torch.cat([operation(hidden[:, i : i + 1], vector, 0.5) for i in range(5)], dim=1)
    checks = (
        Check("shape and dtype stay", float(out.shape != hidden.shape or out.dtype != hidden.dtype), 0.0),
        Check("the input is not written to", _distance(hidden, kept, exact=True), 0.0),
        Check("the result is finite", float(not bool(out.isfinite().all())), 0.0),
        Check("a token alone = in its row", _distance(tokens, out), 1e-5),
        Check("a coefficient by row = each row by itself", _distance(rows, each), 1e-5),
    )
    return _judge(Conformance(f"{operation!r}: the contract of an operation", checks))


def check_extractor(extractor: Callable[[Paired], Tensor], *, hidden_size: int = 16, seed: int = 0) -> Conformance:
    """Hold an extraction method to its contract: `extractor(paired)` returns one direction `[hidden]`.

    It finds a planted direction, points from negative to positive, turns round when the sides are swapped, does not
    depend on the order of the pairs, and does not write to its input.

    Args:
        extractor: What `extract` takes as its method.
        hidden_size: Width of the activations tried.
        seed: Of the random activations.

    Raises:
        ConformanceError: A check failed; the message shows all of them.

    Example:
        >>> check_extractor(lambda acts: (acts.positive - acts.negative).mean(dim=0)).passed
        True
    """
    generator = torch.Generator().manual_seed(seed)
    planted = torch.nn.functional.normalize(torch.randn(hidden_size, generator=generator), dim=0)
    common = torch.randn(200, hidden_size, generator=generator)
    noise = 0.3 * torch.randn(2, 200, hidden_size, generator=generator)
    acts = Paired(common + planted + noise[0], common - planted + noise[1])
    kept = acts.positive.clone()
    found = extractor(acts)
    order = torch.randperm(200, generator=generator)
    shuffled = extractor(Paired(acts.positive[order], acts.negative[order]))
    swapped = extractor(Paired(acts.negative, acts.positive))
    cosine = float(torch.nn.functional.cosine_similarity(found, planted, dim=0)) if found.ndim == 1 else -1.0
    checks = (
        Check("returns [hidden], finite", float(found.shape != planted.shape or not bool(found.isfinite().all())), 0.0),
        Check("1 - cosine with the planted direction", 1 - cosine, 0.2),
        Check("swapped sides turn it round", _distance(swapped, -found), 1e-2),
        Check("the order of pairs does not matter", _distance(shuffled, found), 1e-2),
        Check("the input is not written to", _distance(acts.positive, kept, exact=True), 0.0),
    )
    return _judge(Conformance(f"{extractor!r}: the contract of an extractor", checks))
