"""All variants of several questions in one forward pass: the prefix once, then one short tail for each variant."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from jaxtyping import Float
from torch import Tensor

from steerkit.backends.base import Model
from steerkit.evaluation.questions import Question
from steerkit.evaluation.variants import EVERY, AddAt, Variant, stretches
from steerkit.packing import pack
from steerkit.points import Point, Site


def packed_logits(
    model: Model, questions: Sequence[Question], variants: Sequence[Variant], *, site: Site
) -> Float[Tensor, "item variant vocab"]:
    """What each variant predicts after each question.

    Nothing before the first steered token depends on layer or coefficient, so a row holds it once; each variant is a
    tail of the template's last token and what both answers begin with, and its edit touches its own columns alone.

    Args:
        model: A model that keeps to a mask; see `steerkit.packing.can_pack`.
        questions: Questions whose tails are equally long.
        variants: Those of one layer follow each other.
        site: Where in the block the shift is added.
    """
    tails = [[question.tail] * len(variants) for question in questions]
    packed = pack([one.prefix for one in questions], tails, [one.prompt_length for one in questions], pad_id=0)
    with ExitStack() as stack:
        for stretch in stretches(variants):
            last = stretch.first + len(stretch.shifts) - 1
            span = slice(packed.tail_columns(stretch.first).start, packed.tail_columns(last).stop)
            shift = stretch.shifts.repeat_interleave(packed.tail_width, dim=0)
            stack.enter_context(model.hook(Point(stretch.layer, site), AddAt(EVERY, span, shift)))
        return model.forward(packed.batch, columns=[packed.tail_columns(k)[-1] for k in range(len(variants))])
