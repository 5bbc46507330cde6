"""Steered greedy answers, token by token, with the scores behind each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerkit.agreement.differences import Found, largest, relative
from steerkit.agreement.workload import Workload
from steerkit.backends.causal import CausalModel
from steerkit.steering import Steer


@dataclass(frozen=True, eq=False)
class Answers:
    """What was said.

    Args:
        tokens: The most likely token of every step.
        scores: The logits they were taken from.
        tokenizer: Names them.
    """

    tokens: Int[Tensor, "row step"]
    scores: Float[Tensor, "row step vocab"]
    tokenizer: Any


class _Listener:
    """A logits processor of transformers that changes nothing and remembers the scores."""

    def __init__(self) -> None:
        self.scores: list[Tensor] = []

    def __call__(self, _ids: Tensor, scores: Tensor) -> Tensor:
        self.scores.append(scores.detach().float().cpu())
        return scores


def answer(model: CausalModel, work: Workload) -> Answers:
    """Greedy answers of the steered model, all of the same length."""
    heard = _Listener()
    Steer(model).add(work.vector, layer=work.point.layer, coef=work.coef, site=work.point.site).generate(
        work.prompts, max_new_tokens=work.new_tokens, min_new_tokens=work.new_tokens, do_sample=False, num_beams=1,
        logits_processor=[heard],
    )  # fmt: skip
    scores = torch.stack(heard.scores, dim=1)
    return Answers(scores.argmax(-1), scores, model.tokenizer)


def compare_answers(found: Answers, reference: Answers, allowed: float) -> Found:
    """The scores of every step up to the first token that differs, after which the texts are different ones.

    A token that differs is a tie where the reference prefers its own by no more than rounding can move two scores.
    """
    same = found.tokens == reference.tokens
    parted: dict[int, Found] = {}
    gaps = []
    for row in range(len(same)):
        agree = bool(same[row].all())
        steps = same.shape[1] if agree else int(same[row].int().argmin()) + 1
        gaps.append(_scores(found, reference, row, steps))
        if not agree:
            parted[row] = _parting(found, reference, row, steps - 1, allowed)
    worst = largest([*gaps, *parted.values()])
    if not parted:
        scores = f"; scores: {worst.where}" if worst.where else ""
        return Found(worst.difference, f"all {same.numel()} tokens are the same{scores}")
    told = largest(parted.values()).where
    return Found(worst.difference, told + (f" (and {len(parted) - 1} more)" if len(parted) > 1 else ""))


def _scores(found: Answers, reference: Answers, row: int, steps: int) -> Found:
    gap = relative(found.scores[row, :steps], reference.scores[row, :steps]).amax(-1)
    step = int(torch.where(gap.isnan(), torch.inf, gap).argmax())
    return Found.at(float(gap[step]), f"pair {row}, new token {step}")


def _parting(found: Answers, reference: Answers, row: int, step: int, allowed: float) -> Found:
    """The first token that differs, and the margin by which the reference prefers its own; 0 for a tie."""
    here, there = int(found.tokens[row, step]), int(reference.tokens[row, step])
    scores = reference.scores[row, step]
    margin = float(scores[there] - scores[here])
    share = margin / max(float(scores[scores.isfinite()].abs().max()), 1e-12)
    tie = share <= 2 * allowed
    names = [found.tokenizer.decode([token]) for token in (here, there)]
    why = "a tie, which rounding decides" if tie else "no tie"
    text = f"pair {row}, new token {step}: {names[0]!r} for {names[1]!r}, margin {margin:.2g} logits: {why}"
    return Found(0.0 if tie else share, text)
