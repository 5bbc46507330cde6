"""How far two models part in what they predict, token by token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerkit.tables import Cell

CHUNK = 1 << 24
"""Probabilities that are held in float32 at a time."""


@dataclass(frozen=True)
class Divergence:
    """The Kullback-Leibler divergence over some tokens, in nats a token; NaN without any token.

    Args:
        mean: Over the tokens.
        rms: Root mean square. A few tokens that go badly wrong (a loop, garbage) raise it, and hardly the mean.
        p95: The smallest value that 95 % of the tokens do not exceed.
        tokens: How many.

    Example:
        >>> Divergence.of([torch.tensor([0.0, 0.0, 0.0, 2.0])])
        Divergence(mean=0.5, rms=1.0, p95=2.0, tokens=4)
    """

    mean: float
    rms: float
    p95: float
    tokens: int

    @classmethod
    def of(cls, parts: Sequence[Tensor]) -> Divergence:
        """From one number a token, in several parts."""
        values = torch.cat([torch.zeros(0), *parts]).double()
        count = len(values)
        if count == 0:
            return cls(math.nan, math.nan, math.nan, 0)
        p95 = values.kthvalue(math.ceil(0.95 * count)).values
        return cls(float(values.mean()), float(values.square().mean().sqrt()), float(p95), count)

    def as_dict(self) -> dict[str, float]:
        """Plain values."""
        return {"mean": self.mean, "rms": self.rms, "p95": self.p95, "tokens": self.tokens}

    @property
    def cells(self) -> list[Cell]:
        """As a row of a table; empty where nothing was measured."""
        return [self.mean, self.rms, self.p95, self.tokens] if self.tokens else [None, None, None, 0]


def token_divergence(
    student: Float[Tensor, "batch pos vocab"], other: Float[Tensor, "batch pos vocab"], mask: Bool[Tensor, "batch pos"]
) -> Float[Tensor, " token"]:
    r"""At each token of a mask $\mathrm{KL}(p \| q) = \sum_x p(x) (\log p(x) - \log q(x))$, in nats, in float32.

    Args:
        student: Logits of the model that is asked about, $p$.
        other: Logits of the one that it is held against, $q$.
        mask: The tokens, row by row.

    Example:
        >>> certain, even = torch.tensor([[[50.0, 0.0]]]), torch.tensor([[[0.0, 0.0]]])
        >>> round(float(token_divergence(certain, even, torch.tensor([[True]]))), 4)  # log 2
        0.6931
    """
    rows, columns = mask.to(student.device).nonzero(as_tuple=True)
    parts = [torch.zeros(0)]
    step = max(1, CHUNK // student.shape[-1])
    for some in range(0, len(rows), step):
        where = rows[some : some + step], columns[some : some + step]
        log_p = student[where].float().log_softmax(-1)
        log_q = other.to(student.device)[where].float().log_softmax(-1)
        parts.append((log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0).cpu())
    return torch.cat(parts)
