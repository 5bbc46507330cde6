"""How far a student is from what it should be: per token, so that padding and the size of a batch do not count."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerkit.errors import InputError

Loss = Literal["l2", "mse", "rel_mse", "cosine"]
"""How the error of a state counts; see `state_loss`."""

SOFT = 0.01
"""The cosine counts a shift below this share of the wanted one as small, and has a slope also where there is none."""


@dataclass(frozen=True)
class Objective:
    r"""What a student is trained for: $L + \lambda_r L_{retain} + \lambda_o L_{output} + \lambda_g L_{guard}$.

    $L$ is the mean over layers and tokens in scope of `state_loss`. $L_{retain}$ is the mean length of the change at
    the tokens out of scope (its square for `mse` and `rel_mse`). $L_{output}$ is the mean over tokens in scope of
    $KL(p_{wanted} \| p_{student})$, where `wanted` is the model whose states are set to the targets. $L_{guard}$ is the
    root mean square over the tokens in scope of a sequence of $KL(p_{student} \| p_{base})$, then the mean over
    sequences; a mean over tokens would miss a short loop. All divergences are in nats.

    Args:
        loss: How the error of a state counts.
        retain: Weight of the tokens out of scope. Left out, 1 where the source is an edit, which leaves them as they
            are, and 0 for differences, as in RAHF.
        output: Weight of the wanted next tokens; the model then runs to its end.
        guard: Weight of staying near the base; likewise.

    Raises:
        InputError: The loss is unknown, or a weight is negative or not finite.

    Source: $L$ is equation 8 of RAHF (Liu et al. 2024), whose code takes the length and not its square, as `l2` does;
    LORRA (Zou et al. 2023) does the same. We differ: padding is not counted, and NaN is an error.

    Example:
        >>> Objective(loss="mse").retain is None
        True
    """

    loss: Loss = "l2"
    retain: float | None = None
    output: float = 0.0
    guard: float = 0.0

    def __post_init__(self) -> None:
        if self.loss not in get_args(Loss):
            known = ", ".join(map(repr, get_args(Loss)))
            raise InputError(f"loss={self.loss!r} is not known; choose one of {known}")
        for name in ("retain", "output", "guard"):
            value = getattr(self, name)
            if value is None and name == "retain":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise InputError(f"{name}={value!r} is not a weight; give a finite number of at least 0")

    @property
    def reads_logits(self) -> bool:
        """The model must run to its end."""
        return self.output > 0 or self.guard > 0

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain values."""
        return asdict(self)


def state_loss(
    kind: Loss,
    moved: Float[Tensor, "layer token hidden"],
    shift: Float[Tensor, "layer token hidden"],
    *,
    scale: Float[Tensor, " layer"] | None = None,
) -> Float[Tensor, "layer token"]:
    r"""The error of each state, from the change $s = h_{student} - h_{base}$ and the wanted change $v$.

    - `l2`: $\|s - v\|$, in units of the residual stream;
    - `mse`: $\|s - v\|^2$, summed over coordinates;
    - `rel_mse`: $\|s - v\|^2 / c_l$ with $c_l$ the mean of $\|v\|^2$ at the layer, so that all layers count the same;
    - `cosine`: $1 - s \cdot v / (\|v\| \sqrt{\|s\|^2 + (0.01 \|v\|)^2})$: the direction alone, no length.

    Where nothing is wanted and nothing moved, every one of them is 0 and so is its gradient.

    Args:
        kind: Which.
        moved: The change that there is.
        shift: The change that is wanted.
        scale: $c_l$ for `rel_mse`; a layer with 0 counts as `mse`.

    Example:
        >>> one = torch.ones(1, 1, 4)
        >>> float(state_loss("l2", 0 * one, one)), float(state_loss("mse", 0 * one, one))
        (2.0, 4.0)
    """
    if kind == "cosine":
        return _cosine_loss(moved, shift)
    error = moved - shift
    if kind == "l2":
        return length(error)
    squared = error.square().sum(-1)
    if kind == "mse":
        return squared
    if scale is None:
        raise InputError("rel_mse needs the mean squared length of the wanted change at each layer")
    return squared / torch.where(scale > 0, scale, 1.0).to(squared).unsqueeze(-1)


def retain_loss(kind: Loss, moved: Float[Tensor, "layer rest hidden"]) -> Float[Tensor, "layer rest"]:
    """The change at each token that should stay: its length, or its square where the loss counts squares."""
    return moved.square().sum(-1) if kind in ("mse", "rel_mse") else length(moved)


def divergence(log_p: Float[Tensor, "token vocab"], log_q: Float[Tensor, "token vocab"]) -> Float[Tensor, " token"]:
    r"""$KL(p \| q)$ of each token, in nats, from log-probabilities.

    Where both are the same bit for bit, its gradient is exactly 0 and not rounding, which Adam would make a step of.
    """
    same = (log_p == log_q).all(-1)
    return torch.where(same, 0.0, (log_p.exp() * (log_p - log_q)).sum(-1))


def root_mean_squares(values: Float[Tensor, " token"], scope: Bool[Tensor, "batch pos"]) -> Float[Tensor, " batch"]:
    """The root mean square of each row over its tokens in scope (0 for a row without any).

    Args:
        values: At the tokens in scope, row by row.
        scope: Which tokens those are.
    """
    counts = scope.sum(-1)
    rows = torch.split(values, counts.tolist())
    return torch.stack([length(row) / math.sqrt(max(len(row), 1)) for row in rows])


def cosines(moved: Tensor, shift: Tensor) -> Tensor:
    """The cosine of the change with the wanted one, in [-1, 1]; 0 where either has no length."""
    lengths = length(moved) * length(shift)
    return torch.where(lengths > 0, (moved * shift).sum(-1) / torch.where(lengths > 0, lengths, 1.0), 0.0)


def length(values: Float[Tensor, "*any hidden"]) -> Float[Tensor, "*any"]:
    """The Euclidean length, with the gradient 0 at 0."""
    lengths: Tensor = torch.linalg.vector_norm(values, dim=-1)
    return lengths


def _cosine_loss(moved: Tensor, shift: Tensor) -> Tensor:
    wanted = length(shift)
    there = wanted > 0
    safe = torch.where(there, wanted, 1.0)
    soft = (moved.square().sum(-1) + (SOFT * safe).square()).sqrt()
    return torch.where(there, 1 - (moved * shift).sum(-1) / (safe * soft), 0.0)
