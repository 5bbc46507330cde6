"""All variants of one question as rows over one cached prefix: for models that do not take a mask."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.backends.base import Batch, Model, Prefix, pad
from steerkit.evaluation.questions import Question
from steerkit.evaluation.variants import EVERY, AddAt, Variant, stretches
from steerkit.points import Point, Site


def cached_logits(
    model: Model, question: Question, variants: Sequence[Variant], *, site: Site, prefix: Prefix | None
) -> Float[Tensor, "item variant vocab"]:
    """What each variant predicts after one question, from the prefix that was read before.

    Args:
        model: Any model with a cache.
        question: The question; its tail is fed once for each variant.
        variants: Those of one layer follow each other.
        site: Where in the block the shift is added.
        prefix: Of `read_prefix`; it is left as it is.
    """
    count, start = len(variants), len(question.prefix)
    ids = torch.tensor(question.tail).expand(count, -1)
    position = torch.arange(start, start + len(question.tail)).expand(count, -1)
    batch = Batch(ids, position, torch.full((count,), question.prompt_length))
    with ExitStack() as stack:
        for stretch in stretches(variants):
            rows = slice(stretch.first, stretch.first + len(stretch.shifts))
            stack.enter_context(model.hook(Point(stretch.layer, site), AddAt(rows, EVERY, stretch.shifts.unsqueeze(1))))
        copies = None if prefix is None else prefix.copies(count)
        logits = model.forward(batch, columns=[len(question.tail) - 1], prefix=copies)
    return logits[:, -1].unsqueeze(0)


def read_prefix(model: Model, question: Question) -> Prefix | None:
    """Read what comes before the template's last token; `None` where nothing does."""
    if not question.prefix:
        return None
    return model.prefill(pad([question.prefix], [question.prompt_length], pad_id=0))
