"""One model three ways: as it is, as an edit has it, and as some weights have it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from steerkit.backends.base import Batch, Model
from steerkit.diagnostics.divergence import token_divergence
from steerkit.diagnostics.passages import Masks, Passage, batches
from steerkit.diagnostics.shifts import ShiftSums, add_shifts
from steerkit.errors import InputError, MismatchError, SteeringError
from steerkit.points import Point, Site
from steerkit.positions import Pass, Positions
from steerkit.steering import Steer


@runtime_checkable
class Steered(Protocol):
    """A model with something that acts on it inside `with`: a `Steer`, or a model with an adapter."""

    @property
    def model(self) -> Model:
        """The model as it is."""
        ...

    def __enter__(self) -> Any: ...

    def __exit__(self, kind: Any, error: Any, trace: Any, /) -> Any: ...


def base_of(thing: Any) -> Model:
    """The model as it is, under what acts on it; a model itself.

    Raises:
        InputError: It is neither.
    """
    inner = thing if isinstance(thing, Model) else getattr(thing, "model", None)
    if not isinstance(inner, Model) or (inner is not thing and not isinstance(thing, Steered)):
        raise InputError(f"a {type(thing).__name__} cannot be compared; give a Steer, a model with an adapter, or what "
                         "steerkit.load returns")  # fmt: skip
    return inner


def acting(thing: Any) -> AbstractContextManager[Any]:
    """A context in which it acts; a model needs none.

    Raises:
        SteeringError: It acts already, so that the model as it is cannot be seen.
    """
    if isinstance(thing, Model):
        return nullcontext()
    if getattr(thing, "active", False):
        raise SteeringError(f"the {type(thing).__name__} acts at this moment, so the model as it is cannot be read; "
                            "leave its with block first")  # fmt: skip
    whole: AbstractContextManager[Any] = thing
    return whole


def check_one_model(model: Model, other: Model) -> None:
    """Refuse two models whose states cannot be held against each other.

    Raises:
        MismatchError: They differ in depth, width or tokenizer.
    """
    mine, theirs = model.info.as_dict(), other.info.as_dict()
    for key in ("num_layers", "hidden_size", "tokenizer"):
        if mine[key] != theirs[key]:
            raise MismatchError(f"{key} is {mine[key]} in {mine['name']} and {theirs[key]} in {theirs['name']}; give "
                                "the same model twice, one of them perhaps with other weights")  # fmt: skip


def check_sizes(*, batch_size: int, max_new_tokens: int) -> None:
    """Refuse numbers that nothing can be run with.

    Raises:
        InputError: One is not a whole number, or too small.
    """
    for name, value, least in (("batch_size", batch_size, 1), ("max_new_tokens", max_new_tokens, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{name}={value!r} is not valid; give an integer of at least {least}")


def scope_of(steered: Any) -> Positions:
    """The tokens that a `Steer` acts on, where all of its edits agree; else `"generation"`."""
    if not isinstance(steered, Steer) or not steered.edits:
        return "generation"
    first, *others = [edit.positions for edit in steered.edits]
    return first if all(type(one) is type(first) and one == first for one in others) else "generation"


def edited_layers(steered: Any) -> list[int]:
    """The layers that a `Steer` acts at; empty for anything else."""
    return sorted({one.layer for one in steered.receipts}) if isinstance(steered, Steer) else []


class Comparison:
    """Sums over passages of what an edit does to a model and what some weights do.

    Args:
        model: The model as it is.
        layers: Where states are read.
        site: Likewise.
    """

    def __init__(self, model: Model, layers: Sequence[int], *, site: Site = "resid_post") -> None:
        self.model = model
        self.points = [Point(layer, site) for layer in layers]
        self.sums = ShiftSums(layers)
        self.divergences: dict[str, list[Tensor]] = {
            name: [] for name in ("kl_base", "kl_steered", "kl_edit", "kl_prompt", "kl_neutral")
        }

    @property
    def rounding(self) -> float:
        """What the model's number format tells apart, relative to a number."""
        return float(torch.finfo(getattr(torch, self.model.info.dtype.removeprefix("torch."))).eps)

    @torch.no_grad()
    def read(self, aims: Iterable[Aimed], distilled: Any) -> None:
        """One more pass a batch, whose states are added up as they come."""
        for batch, masks, aim in aims:
            groups = (masks.scope, masks.prompt, masks.later)

            def add(layer: int, hidden: Tensor, aim: Aim = aim, groups: Any = groups) -> None:
                base = aim.base[layer]
                add_shifts(self.sums, layer, (base, aim.shift[layer], hidden.to(base.device) - base), groups)

            self._diverge(aim, run(base_of(distilled), acting(distilled), batch, self.points, add), masks)

    def _diverge(self, aim: Aim, got: Tensor, masks: Masks) -> None:
        pairs = [("kl_base", got, aim.plain, masks.scope), ("kl_prompt", got, aim.plain, masks.prompt)]
        if aim.steered is not None:
            pairs += [("kl_steered", got, aim.steered, masks.scope), ("kl_edit", aim.steered, aim.plain, masks.scope)]
        for name, student, other, mask in pairs:
            self.divergences[name].append(token_divergence(student, other, mask))

    @torch.no_grad()
    def read_neutral(self, aims: Iterable[Aimed], distilled: Any) -> None:
        """The same over texts that are to stay as they are: every token counts as one that may not go astray."""
        for batch, masks, aim in aims:
            real = masks.scope | masks.prompt | masks.later

            def add(layer: int, hidden: Tensor, aim: Aim = aim, real: Tensor = real) -> None:
                astray = hidden.to(aim.base[layer].device) - aim.base[layer] - aim.shift[layer]
                self.sums.add_outside(layer, "neutral", astray[real.to(astray.device)])

            got = run(base_of(distilled), acting(distilled), batch, self.points, add)
            self.divergences["kl_neutral"].append(token_divergence(got, aim.plain, real))


class Aim(NamedTuple):
    """One batch as it is and as it is wanted.

    Args:
        base: States by layer, in float32.
        shift: How they are to move.
        plain: Logits of the model as it is.
        steered: Logits of the steered model, where there is one.
    """

    base: dict[int, Tensor]
    shift: dict[int, Tensor]
    plain: Tensor
    steered: Tensor | None


Aimed = tuple[Batch, Masks, Aim]
"""A batch, its tokens by group, and what is wanted of it."""


@torch.no_grad()
def aims_of(
    model: Model, steered: Any, passages: Sequence[Passage], points: Sequence[Point], *, rows: int
) -> Iterator[Aimed]:
    """The passages, a batch at a time, each run without and with an edit."""
    for batch, masks in batches(passages, rows=rows, vocab=len(model.tokenizer)):
        base: dict[int, Tensor] = {}
        shift: dict[int, Tensor] = {}

        def subtract(layer: int, hidden: Tensor, base: Any = base, shift: Any = shift) -> None:
            shift[layer] = hidden.to(base[layer].device) - base[layer]

        plain = run(model, nullcontext(), batch, points, base.__setitem__)
        aimed = run(base_of(steered), acting(steered), batch, points, subtract)
        yield batch, masks, Aim(base, shift, plain, aimed)


def run(
    model: Model,
    context: AbstractContextManager[Any],
    batch: Batch,
    points: Sequence[Point],
    take: Callable[[int, Tensor], None],
) -> Tensor:
    """One pass inside a context: the logits; `take` is called with the layer and the states, in float32."""

    def reader(layer: int) -> Callable[[Tensor, Pass], None]:
        return lambda hidden, _: take(layer, hidden.detach().float())

    with context, ExitStack() as stack:
        for point in points:
            stack.enter_context(model.hook(point, reader(point.layer)))
        return model.forward(batch)
