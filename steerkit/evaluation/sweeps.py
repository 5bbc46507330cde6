"""A layer by coefficient sweep: every cell of the grid, for about the price of two forward passes a question."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from numbers import Real
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.backends.base import Model
from steerkit.data.pairs import ContrastPair
from steerkit.errors import DataError, MismatchError, ModelError, SteerkitError, VectorError
from steerkit.evaluation.cached_path import cached_logits, read_prefix
from steerkit.evaluation.grids import Sweep
from steerkit.evaluation.naive_path import naive_logits
from steerkit.evaluation.packed_path import packed_logits
from steerkit.evaluation.questions import Question, read_questions
from steerkit.evaluation.variants import Variant, variants_of
from steerkit.packing import can_pack
from steerkit.points import Layers, Site
from steerkit.vectors import SteeringVector

Path = Literal["auto", "packed", "cached", "naive"]

TOLERANCE = {"float32": 1e-4, "float64": 1e-8, "float16": 1e-2, "bfloat16": 5e-2}
"""Largest difference of packed and plain logits that is taken for rounding, relative to the largest logit."""

TAIL_COLUMNS = 1024
"""Most columns of tails in a row: attention grows with their square, and a chunk more costs the prefix once more."""

CACHED_TOKENS = 8192
"""Most tokens held by the copies of a cached prefix at a time."""

LOGITS = 2**26
"""Most logits of a pass."""


@dataclass(frozen=True)
class Route:
    """The path that was taken.

    Args:
        path: `"packed"`, `"cached"` or `"naive"`.
        reason: Why.
        check_error: Largest difference of packed and plain logits on the first question, relative to the largest
            logit; `None` where it was not measured.
    """

    path: str
    reason: str
    check_error: float | None = None


def sweep(
    model: Model,
    vector: SteeringVector,
    pairs: Sequence[ContrastPair],
    *,
    layers: Layers = "all",
    coefs: Sequence[float] = (-1, 0, 1),
    batch_size: int = 4,
    path: Path = "auto",
    progress: bool = True,
) -> Sweep:
    r"""p(matching) at every layer and coefficient.

    At a cell, $h \leftarrow h + c \, v_l$ at the output of block $l$ for every token from the template's last one on,
    as `Steer(model).add(vector, layer=l, coef=c)` does; then the pairs are scored as `score_choices` scores them, by
    letter. The unsteered model is run once. Edits of an open `Steer` act in every cell, also in the unsteered one.

    Args:
        model: The model; for a `Steer`, open it and give the model it steers.
        vector: Its row at each layer is added there, at its own site.
        pairs: Multiple-choice pairs: one prompt, two answers that differ in one token.
        layers: Layers of the vector; `"all"` are all it has.
        coefs: What the vector is multiplied by; no unit. 0 need not be among them.
        batch_size: Questions a forward pass, at least 1; more help a GPU, a CPU is fastest with few.
        path: `"packed"`: all cells of a question in one pass. `"cached"`: as rows over the cached prefix. `"naive"`:
            one pass a cell. `"auto"` packs where the model keeps to the mask, which is tried on the first question, and
            else takes the cached path; the result says which and why.
        progress: Show a progress bar on a terminal.

    Raises:
        DataError: No pairs, a pair that cannot be scored by letter or is too long, or a bad coefficient or batch size.
        VectorError: The vector has another width than the model, or lacks a layer.
        LayerError: The model has no such layer, or the layer lacks the vector's site.
        MismatchError: The vector was made with another model.
        ModelError: `path="packed"`, and the model does not keep to the mask.

    Source: Rimsky et al. 2024 (CAA), section 4.1. We differ: CAA runs one forward pass for each question, layer and
    coefficient. The numbers are the same; see `steerkit.packing` for why.

    Example:
        >>> import steerkit as sk
        >>> from steerkit.data.loading import load_pairs
        >>> model = sk.load("demo")
        >>> vector = SteeringVector(torch.ones(2, model.info.hidden_size), layers=[1, 2])
        >>> grid = sweep(model, vector, load_pairs("demo:sycophancy", split="test")[:3], coefs=(-1, 0, 1))
        >>> grid.path, grid.p_matching.shape, grid.at(layer=2, coef=-1).items.p_matching.shape
        ('packed', torch.Size([2, 3]), torch.Size([3]))
    """
    numbers = _check_numbers(coefs, batch_size, path)
    wanted = _check_vector(model, vector, layers)
    questions = read_questions(pairs, model.tokenizer, model.info)
    _check_letters(questions)
    variants = variants_of(vector, wanted, numbers)
    route = choose_route(model, questions, variants, path=path, site=vector.site)
    work = list(_batches(questions, batch_size if route.path == "packed" else 1))
    positive = torch.zeros(len(variants), len(questions), dtype=torch.float64)
    negative = torch.zeros_like(positive)
    for chosen in _shown(work, progress, f"sweep, {route.path}"):
        batch = [questions[i] for i in chosen]
        done = 0
        for logits in _run(model, batch, variants, path=route.path, site=vector.site):
            cells = slice(done, done + logits.shape[1])
            for row, index in enumerate(chosen):
                positive[cells, index], negative[cells, index] = read_answers(logits[row], questions[index])
            done = cells.stop
    how = (route.path, route.reason, route.check_error)
    return Sweep.from_variants(wanted, numbers, questions, (positive, negative), how=how)


def read_answers(
    logits: Float[Tensor, "variant vocab"], question: Question
) -> tuple[Float[Tensor, " variant"], Float[Tensor, " variant"]]:
    """Log-probabilities of both answers' first own token over the whole vocabulary."""
    full = logits.float()
    chosen = full[:, [question.positive[0], question.negative[0]]] - full.logsumexp(-1, keepdim=True)
    both = chosen.double().cpu()
    return both[:, 0], both[:, 1]


def choose_route(
    model: Model, questions: Sequence[Question], variants: Sequence[Variant], *, path: Path, site: Site
) -> Route:
    """The path to take: packed, where the model keeps to the mask on the first question.

    Raises:
        ModelError: `path="packed"`, and it does not.
    """
    if path in ("cached", "naive"):
        return Route(path, "as asked")
    error, reason = None, ""
    longest = max(len(question.shared) for question in questions)
    if not model.info.packs:
        reason = f"{model.info.architecture} takes no mask of its own"
    elif not can_pack(model.info, length=longest):
        reason = f"the attention window of {model.info.window} is shorter than the longest question, {longest} tokens"
    else:
        try:
            error = packing_error(model, questions[0], variants, site=site)
        except SteerkitError:
            raise
        except (RuntimeError, ValueError, TypeError, NotImplementedError) as refusal:
            reason = f"the model refuses the mask: {refusal}"
        else:
            allowed = TOLERANCE.get(model.info.dtype, 1e-4)
            if error <= allowed:
                return Route("packed", f"packed equals plain within {allowed:g} on the first question", error)
            reason = f"packed differs from plain by {error:.2g} on the first question; {allowed:g} is allowed"
    if path == "packed":
        raise ModelError(f"path='packed' cannot be taken: {reason}. Use path='auto' or 'cached'")
    return Route("cached", reason, error)


def packing_error(model: Model, question: Question, variants: Sequence[Variant], *, site: Site) -> float:
    """Largest difference of packed and plain logits for two variants of one question, relative to the largest logit."""
    first = list(variants)[: _chunk(model, [question], "packed")]
    packed = packed_logits(model, [question], first, site=site)[0]
    tried = sorted({min(1, len(first) - 1), len(first) - 1})
    plain = naive_logits(model, question, [first[k] for k in tried], site=site)[0].float()
    return float((packed[tried].float() - plain).abs().max() / plain.abs().max().clamp(min=1e-9))


def _run(
    model: Model, batch: Sequence[Question], variants: Sequence[Variant], *, path: str, site: Site
) -> Iterator[Float[Tensor, "item variant vocab"]]:
    """The logits of all variants, a chunk of them at a time."""
    size = _chunk(model, batch, path)
    prefix = read_prefix(model, batch[0]) if path == "cached" else None
    for start in range(0, len(variants), size):
        some = variants[start : start + size]
        if path == "packed":
            yield packed_logits(model, batch, some, site=site)
        elif path == "cached":
            yield cached_logits(model, batch[0], some, site=site, prefix=prefix)
        else:
            yield naive_logits(model, batch[0], some, site=site)


def _chunk(model: Model, batch: Sequence[Question], path: str) -> int:
    """How many variants go together: columns, cached tokens and logits stay bounded."""
    most = LOGITS // (len(batch) * max(len(model.tokenizer), 1))
    tail, whole = len(batch[0].tail), len(batch[0].shared)
    return max(min(most, TAIL_COLUMNS // tail if path == "packed" else CACHED_TOKENS // whole), 1)


def _batches(questions: Sequence[Question], size: int) -> Iterator[list[int]]:
    """Questions that go together: equally long tails, and prefixes of about one length."""
    order = sorted(range(len(questions)), key=lambda i: (len(questions[i].tail), len(questions[i].prefix)))
    for _, group in groupby(order, key=lambda i: len(questions[i].tail)):
        alike = list(group)
        for start in range(0, len(alike), size):
            yield alike[start : start + size]


def _shown(work: Sequence[list[int]], progress: bool, name: str) -> Iterator[list[int]]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(work, name, console=console, disable=not (progress and console.is_terminal), transient=True)


def _check_numbers(coefs: Sequence[float], batch_size: int, path: str) -> tuple[float, ...]:
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise DataError(f"batch_size={batch_size!r} is not valid; give an integer of at least 1")
    if path not in get_args(Path):
        raise DataError(f"path={path!r} is not known; choose one of {', '.join(map(repr, get_args(Path)))}")
    if len(coefs) == 0:
        raise DataError("coefs is empty; give at least one coefficient, such as (-1, 0, 1)")
    for coef in coefs:
        if not _is_finite(coef):
            raise DataError(f"coefficient {coef!r} is not a finite number")
    if len(set(coefs)) < len(coefs):
        raise DataError(f"coefs={list(coefs)} names a coefficient twice")
    return tuple(sorted(float(coef) for coef in coefs))


def _is_finite(coef: Any) -> bool:
    return type(coef) is not bool and isinstance(coef, Real) and math.isfinite(float(coef))


def _check_vector(model: Model, vector: SteeringVector, layers: Layers) -> list[int]:
    everything = isinstance(layers, str) and layers == "all"
    wanted = list(vector.layers) if everything else model.info.choose_layers(layers, site=vector.site)
    missing = [layer for layer in wanted if layer not in vector]
    if missing:
        raise VectorError(f"the vector has no row for layer {missing[0]}; it has {list(vector.layers)}")
    try:
        vector.select(wanted).check_fits(model.info.as_dict())
    except MismatchError as error:
        raise MismatchError(f"{error}. To sweep it here all the same, leave its provenance behind: "
                            "SteeringVector(v.values, layers=v.layers, site=v.site)") from error  # fmt: skip
    return wanted


def _check_letters(questions: Sequence[Question]) -> None:
    for question in questions:
        if not question.is_letter:
            raise DataError(f"pair {question.id!r}: the answers differ in {len(question.positive)} and "
                            f"{len(question.negative)} tokens; a sweep reads one token, such as the letter of '(A)'. "
                            "Score longer answers with score_choices inside a Steer")  # fmt: skip
