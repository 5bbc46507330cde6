"""Dual: two sets of weights on one base, one that gives the chosen answers and one that gives the rejected ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from steerkit.adapters import Adapter, FullWeights
from steerkit.errors import DataError
from steerkit.training.fitting.loop import Step
from steerkit.training.teaching.answers import Answered
from steerkit.training.teaching.scoring import Run, mean_log_probabilities

FLOOR = 1e-6
"""Two sets of weights whose difference is smaller than this share of their own length are the same one."""


def answer_step(run: Run, rows: Sequence[Answered], *, pad_id: int = 0) -> Step:
    """One step of fine-tuning on answers: the mean over answers of the mean over their tokens. Prompts have no loss.

    Source: Liu et al. 2024 (RAHF), the first step of Dual. We differ from its code, which learns the prompts as well.
    """

    def step(micro: list[int], batch: list[int]) -> tuple[Tensor, dict[str, float]]:
        loss = -mean_log_probabilities(run, [rows[i] for i in micro], pad_id=pad_id).sum() / len(batch)
        return loss, {"nll": float(loss.detach())}

    return step


def check_distinct(weights: Mapping[str, Any]) -> float:
    r"""How far the good and the bad weights are apart: $\|\theta_g - \theta_b\| / \max(\|\theta_g\|, \|\theta_b\|)$.

    Args:
        weights: `"good"` and `"bad"`: two `Adapter` or two `FullWeights`.

    Raises:
        DataError: They are of different kinds or shapes, or the same: their difference would teach nothing.
    """
    if set(weights) != {"good", "bad"}:
        raise DataError(f"dual teaching has weights 'good' and 'bad', not {sorted(weights)}")
    good, bad = tensors(weights["good"]), tensors(weights["bad"])
    if {k: v.shape for k, v in good.items()} != {k: v.shape for k, v in bad.items()}:
        raise DataError("the good and the bad weights do not change the same parameters; teach both with one `lora`")
    gap = _length({key: good[key].double() - bad[key].double() for key in good})
    size = max(_length(good), _length(bad))
    apart = gap / size if size else 0.0
    if apart <= FLOOR:
        raise DataError(f"the good and the bad weights are the same (they differ by {apart:.1e} of their length): both "
                        "were taught the same answers, so there is no difference to distil. Check that chosen and "
                        "rejected answers differ")  # fmt: skip
    return apart


def tensors(weights: Adapter | FullWeights) -> dict[str, Tensor]:
    """The parameters by name."""
    return dict(weights.weights if isinstance(weights, Adapter) else weights.tensors)


def _length(parts: Mapping[str, Tensor]) -> float:
    return math.sqrt(sum(float(one.double().square().sum()) for one in parts.values()))
