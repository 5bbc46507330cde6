"""One forward pass for each question and variant, as CAA's code does it: the other paths are held against this one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.backends.base import Model, pad
from steerkit.evaluation.questions import Question
from steerkit.evaluation.variants import EVERY, AddAt, Variant
from steerkit.points import Point, Site


def naive_logits(
    model: Model, question: Question, variants: Sequence[Variant], *, site: Site
) -> Float[Tensor, "item variant vocab"]:
    """What each variant predicts after one question, one forward pass each.

    Args:
        model: Any model.
        question: The question, fed whole.
        variants: In any order.
        site: Where in the block the shift is added.
    """
    batch = pad([question.shared], [question.prompt_length], pad_id=0)
    found = []
    for variant in variants:
        edit: AbstractContextManager[None] = nullcontext()
        if variant.layer is not None and variant.shift is not None:
            begin = slice(question.prompt_length - 1, None)
            edit = model.hook(Point(variant.layer, site), AddAt(EVERY, begin, variant.shift))
        with edit:
            found.append(model.forward(batch, columns=[len(question.shared) - 1])[:, -1])
    return torch.stack(found, dim=1)
