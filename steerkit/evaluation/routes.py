"""How the variants of many questions are run: packed where the model keeps to the mask, else over a cached prefix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.backends.base import Model
from steerkit.errors import ModelError, SteerkitError
from steerkit.evaluation.cached_path import cached_logits, read_prefix
from steerkit.evaluation.naive_path import naive_logits
from steerkit.evaluation.packed_path import packed_logits
from steerkit.evaluation.questions import Question
from steerkit.evaluation.variants import Variant
from steerkit.packing import can_pack
from steerkit.points import Site

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
        joined: Packed tails join at the layer where they are steered.
    """

    path: str
    reason: str
    check_error: float | None = None
    joined: bool = False


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
        allowed = TOLERANCE.get(model.info.dtype, 1e-4)
        for joined in (True, False) if getattr(model, "joins", False) else (False,):
            try:
                error = packing_error(model, questions[0], variants, site=site, joined=joined)
            except SteerkitError:
                raise
            except (RuntimeError, ValueError, TypeError, NotImplementedError) as refusal:
                reason = f"the model refuses the mask: {refusal}"
                continue
            if error <= allowed:
                how = f"packed equals plain within {allowed:g} on the first question"
                return Route("packed", how, error, joined)
            reason = f"packed differs from plain by {error:.2g} on the first question; {allowed:g} is allowed"
    if path == "packed":
        raise ModelError(f"path='packed' cannot be taken: {reason}. Use path='auto' or 'cached'")
    return Route("cached", reason, error)


def packing_error(
    model: Model, question: Question, variants: Sequence[Variant], *, site: Site, joined: bool = False
) -> float:
    """Largest difference of packed and plain logits for some variants of a question, relative to the largest logit."""
    first = list(variants)[: _chunk(model, [question], "packed")]
    packed = packed_logits(model, [question], first, site=site, joined=joined)[0]
    tried = sorted({min(1, len(first) - 1), len(first) // 2, len(first) - 1})
    plain = naive_logits(model, question, [first[k] for k in tried], site=site)[0].float()
    return float((packed[tried].float() - plain).abs().max() / plain.abs().max().clamp(min=1e-9))


def answer_variants(
    model: Model,
    questions: Sequence[Question],
    variants: Sequence[Variant],
    *,
    route: Route,
    site: Site,
    batch_size: int = 4,
    progress: bool = True,
) -> tuple[Float[Tensor, "variant item"], Float[Tensor, "variant item"]]:
    """Log-probabilities of the positive and of the negative answer to every question under every variant.

    Args:
        model: The model.
        questions: Questions that are scored by one token.
        variants: By layer, the lowest first; the unsteered one before them.
        route: Of `choose_route`.
        site: Where in the block the shifts are added.
        batch_size: Questions a pass, where they are packed.
        progress: Show a progress bar on a terminal.
    """
    work = list(_batches(questions, batch_size if route.path == "packed" else 1))
    positive = torch.zeros(len(variants), len(questions), dtype=torch.float64)
    negative = torch.zeros_like(positive)
    for chosen in _shown(work, progress, f"sweep, {route.path}"):
        batch = [questions[i] for i in chosen]
        done = 0
        for logits in _run(model, batch, variants, route=route, site=site):
            cells = slice(done, done + logits.shape[1])
            for row, index in enumerate(chosen):
                positive[cells, index], negative[cells, index] = read_answers(logits[row], questions[index])
            done = cells.stop
    return positive, negative


def read_answers(
    logits: Float[Tensor, "variant vocab"], question: Question
) -> tuple[Float[Tensor, " variant"], Float[Tensor, " variant"]]:
    """Log-probabilities of both answers' first own token over the whole vocabulary."""
    chosen = logits.float().log_softmax(-1)[:, [question.positive[0], question.negative[0]]]
    both = chosen.double().cpu()
    return both[:, 0], both[:, 1]


def _run(
    model: Model, batch: Sequence[Question], variants: Sequence[Variant], *, route: Route, site: Site
) -> Iterator[Float[Tensor, "item variant vocab"]]:
    """The logits of all variants, a chunk of them at a time."""
    size = _chunk(model, batch, route.path)
    prefix = read_prefix(model, batch[0]) if route.path == "cached" else None
    for start in range(0, len(variants), size):
        some = variants[start : start + size]
        if route.path == "packed":
            yield packed_logits(model, batch, some, site=site, joined=route.joined)
        elif route.path == "cached":
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
