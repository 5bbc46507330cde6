"""What is run through every backend: a few pairs, and one vector at one layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from numbers import Real

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.backends.base import Batch, pad
from steerkit.backends.causal import CausalModel
from steerkit.data.chat import Prompt
from steerkit.data.encoding import encode
from steerkit.data.pairs import ContrastPair, Side
from steerkit.errors import DataError, InputError, VectorError
from steerkit.evaluation.questions import read_questions
from steerkit.points import Point, Site, resolve_layers
from steerkit.positions import Pass
from steerkit.steering import Edit
from steerkit.steering.placement import place
from steerkit.vectors import SteeringVector

MOST = 16
"""Most pairs that are run; more cost time and show no more."""
LAST = 8
"""Of each text, the logits and states of so many last tokens are compared."""
NEW_TOKENS = 16
"""Tokens of each steered answer."""
SHARE = 0.5
"""Norm of the random vector, in mean norms of the activations it is added to."""

QUESTIONS = ("Is the sea wet?", "Does a stone float on water?", "Is two more than one?", "Can fish read?")
FORMS = (" (A)", " A", "\nA")
"""Ways to write the answers."""


@dataclass(frozen=True, eq=False)
class Workload:
    """The same work for every backend.

    Args:
        pairs: Scored, recorded, and the beginning of every steered answer.
        batch: Prompts with their positive answers, padded on the left.
        vector: What is added.
        coef: How often.
        point: Where.
        layers: Of the sweep: the point's and its neighbors.
        new_tokens: Of each steered answer.
        dtype: Of the reference's weights.
        setup: All of it in words.
    """

    pairs: tuple[ContrastPair, ...]
    batch: Batch
    vector: Float[Tensor, " hidden"]
    coef: float
    point: Point
    layers: tuple[int, ...]
    new_tokens: int
    dtype: str
    setup: str

    @property
    def prompts(self) -> list[Prompt]:
        """Without the answers."""
        return [pair.positive.prompt for pair in self.pairs]

    @property
    def columns(self) -> range:
        """Of the batch: those that are compared."""
        width = self.batch.input_ids.shape[1]
        return range(max(width - LAST, 0), width)

    @property
    def compared(self) -> Tensor:
        """Which of these hold a token."""
        return self.batch.real[:, self.columns.start :]


def default_pairs(form: str = FORMS[0]) -> list[ContrastPair]:
    """A few questions with two answers, in plain text: no chat template is needed.

    Args:
        form: How the answer A is written.
    """
    prompts = [Prompt(f"{question}\n(A) Yes\n(B) No\nAnswer:") for question in QUESTIONS]
    both = form, form.replace("A", "B")
    return [ContrastPair(Side(one, both[0]), Side(one, both[1]), id=str(i)) for i, one in enumerate(prompts)]


def built_in(model: CausalModel) -> list[ContrastPair]:
    """These questions in the first form whose answers differ in one token of the model's vocabulary."""
    for form in FORMS:
        pairs = default_pairs(form)
        with suppress(DataError):
            if all(question.is_letter for question in read_questions(pairs, model.tokenizer, model.info)):
                return pairs
    return default_pairs()


def check_request(vector: object, layer: object, coef: object, pairs: object) -> None:
    """What can be said before a model is loaded.

    Raises:
        InputError: One of them is not valid.
    """
    if isinstance(coef, bool) or not isinstance(coef, Real) or not math.isfinite(coef) or coef == 0:
        raise InputError(f"coef={coef!r} is not valid; give a finite number other than 0")
    if layer is not None:
        Point(layer)  # type: ignore[arg-type]
    if vector is not None and not isinstance(vector, SteeringVector | Tensor):
        raise VectorError(f"vector is a {type(vector).__name__}; give a SteeringVector, a [hidden] tensor, or nothing")
    if pairs is None:
        return
    if isinstance(pairs, str) or not isinstance(pairs, Sequence) or not all(isinstance(p, ContrastPair) for p in pairs):
        raise DataError(f"pairs is a {type(pairs).__name__}; give what sk.load_pairs returns, or nothing")
    if not pairs:
        raise DataError("pairs is empty; give at least one pair, or leave pairs out for a few built-in questions")


def plan(
    model: CausalModel,
    vector: SteeringVector | Tensor | None,
    *,
    layer: int | None,
    coef: float,
    pairs: Sequence[ContrastPair] | None,
    seed: int,
) -> Workload:
    """The work for one model, checked against it.

    Raises:
        InputError: Vector, layer or pairs do not fit the model.
    """
    given = built_in(model) if pairs is None else pairs
    chosen = tuple(given[i] for i in range(min(len(given), MOST)))
    batch, room = _texts(model, chosen)
    layer = _layer(vector, layer, model.info.num_layers)
    row, site, name = _direction(model, batch, vector, layer=layer, coef=coef, seed=seed)
    if not row.any():
        raise VectorError(f"the vector at layer {layer} is zero and steers nothing; give another layer")
    point = Point(layer, site)
    with model.hook(point, _nothing):
        pass
    near = [one for one in (layer - 1, layer, layer + 1) if 0 <= one < model.info.num_layers]
    near = [one for one in near if model.parts.has(one, site)]
    count = f"{len(chosen)} built-in pairs" if pairs is None else f"{len(chosen)} of {len(given)} pairs"
    setup = f"{count}; {name}, times {coef:g}, at {site} of block {layer}"
    return Workload(chosen, batch, row, float(coef), point, tuple(near), room, model.info.dtype, setup)


def _nothing(_hidden: Tensor, _pass: Pass) -> None:
    """A hook that tries whether the point exists."""


def _texts(model: CausalModel, pairs: Sequence[ContrastPair]) -> tuple[Batch, int]:
    """Prompts with their positive answers, and how many new tokens there is room for."""
    sides = [pair.positive for pair in pairs]
    rows = [encode(side.prompt, model.tokenizer, answer=side.answer) for side in sides]
    longest, context = max(len(row.ids) for row in rows), model.info.context
    if context is not None and longest >= context:
        where = next(i for i, row in enumerate(rows) if len(row.ids) == longest)
        raise DataError(f"pair {pairs[where].id or where!r} has {longest} tokens; the model's context is {context}, "
                        "and an answer must follow. Shorten it or leave it out")  # fmt: skip
    batch = pad([row.ids for row in rows], [row.prompt_length for row in rows], pad_id=model.pad_id)
    return batch, NEW_TOKENS if context is None else min(NEW_TOKENS, context - longest)


def _layer(vector: SteeringVector | Tensor | None, layer: int | None, blocks: int) -> int:
    """The one asked for, else the middle one; of a vector that lacks it, the vector's own middle."""
    if layer is not None:
        return layer
    if isinstance(vector, SteeringVector) and blocks // 2 not in vector:
        return vector.layers[len(vector.layers) // 2]
    return blocks // 2


def _direction(
    model: CausalModel, batch: Batch, vector: SteeringVector | Tensor | None, *, layer: int, coef: float, seed: int
) -> tuple[Tensor, Site, str]:
    """What is added, at which site, and in words."""
    if vector is not None:
        placed = place(Edit(vector, layer=layer, coef=coef), model.info)[0]
        return placed.vector, placed.point.site, f"vector of norm {float(placed.vector.norm()):.4g}"
    resolve_layers(layer, num_layers=model.info.num_layers)
    row = _random(model, batch, layer, seed)
    length = f"{float(row.norm()):.4g} ({SHARE:g} of the mean residual norm there, seed {seed})"
    return row, "resid_post", f"random vector of norm {length}"


def _random(model: CausalModel, batch: Batch, layer: int, seed: int) -> Tensor:
    """A random direction, as long as stated."""
    norms: list[Tensor] = []

    def measure(hidden: Tensor, _pass: Pass) -> None:
        real = batch.real[:, -LAST:].to(hidden.device)
        norms.append(hidden[:, -LAST:][real].float().norm(dim=-1).cpu())

    with model.hook(Point(layer), measure):
        model.forward(batch, until=layer)
    direction = torch.randn(model.info.hidden_size, generator=torch.Generator().manual_seed(seed))
    return direction * float(SHARE * norms[0].mean() / direction.norm())
