"""All variants of several questions in one forward pass: the prefix once, then one short tail for each variant."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.backends.base import Joining, Model
from steerkit.evaluation.questions import Question
from steerkit.evaluation.variants import EVERY, UNSTEERED, AddAt, Variant, stretches
from steerkit.packing import Packed, pack
from steerkit.points import Point, Site


def packed_logits(
    model: Model, questions: Sequence[Question], variants: Sequence[Variant], *, site: Site, joined: bool = False
) -> Float[Tensor, "item variant vocab"]:
    """What each variant predicts after each question.

    Nothing before the first steered token depends on layer or coefficient, so a row holds it once; each variant is a
    tail of the template's last token and what both answers begin with, and its edit touches its own columns alone. Up
    to its layer a tail is what the unsteered one is, so it need not be computed before: it joins there.

    Args:
        model: A model that keeps to a mask; see `steerkit.packing.can_pack`.
        questions: Questions whose tails are equally long.
        variants: By layer, the lowest first; the unsteered one before them.
        site: Where in the block the shift is added.
        joined: Each tail joins at its layer, for a backend that `joins`; else all are there from the first block on.
    """
    steered_only = joined and variants[0].layer is not None
    cells = [UNSTEERED, *variants] if steered_only else list(variants)
    tails = [[question.tail] * len(cells) for question in questions]
    packed = pack([one.prefix for one in questions], tails, [one.prompt_length for one in questions], pad_id=0)
    batch = replace(packed.batch, joining=_joining(packed, cells, site)) if joined else packed.batch
    with ExitStack() as stack:
        for stretch in stretches(cells):
            last = stretch.first + len(stretch.shifts) - 1
            span = slice(packed.tail_columns(stretch.first).start, packed.tail_columns(last).stop)
            shift = stretch.shifts.repeat_interleave(packed.tail_width, dim=0)
            stack.enter_context(model.hook(Point(stretch.layer, site), AddAt(EVERY, span, shift)))
        columns = [packed.tail_columns(k)[-1] for k in range(steered_only, len(cells))]
        return model.forward(batch, columns=columns)


def _joining(packed: Packed, variants: Sequence[Variant], site: Site) -> Joining:
    """Each steered tail takes over from the unsteered one: behind its block, or before it where the edit is inside."""
    behind = int(site == "resid_post")
    first = torch.tensor([0 if one.layer is None else one.layer + behind for one in variants])
    block = torch.cat([torch.zeros(packed.prefix_width, dtype=torch.long), first.repeat_interleave(packed.tail_width)])
    own = torch.arange(len(block))
    unsteered = packed.prefix_width + (own - packed.prefix_width) % packed.tail_width
    return Joining(block, torch.where(block > 0, unsteered, own))
