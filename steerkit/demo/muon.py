"""Muon in float32: gradient steps of matrices with all their singular values made about one.

torch's own computes in bfloat16, which a processor without such instructions does twenty times slower than float32.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor
from torch.optim import Optimizer

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic that is iterated: steep at 0, so that five times are enough."""


def orthogonalize(matrices: Tensor, *, times: int = 5) -> Tensor:
    """About $U V^T$ of each matrix $U S V^T$ of a stack `[matrix, row, column]`, by Newton-Schulz iteration.

    Of matrices that are not square only the small Gram matrices are iterated; they themselves are multiplied once, at
    the end.

    Example:
        >>> torch.linalg.svdvals(orthogonalize(torch.tensor([[[3.0, 0.0], [0.0, 0.2]]]))).round(decimals=1)
        tensor([[1.1000, 0.7000]])
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x: Tensor = matrices.mT if tall else matrices
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    if x.shape[-2] == x.shape[-1]:
        for _ in range(times):
            x = _quintic(x @ x.mT) @ x
        return x
    gram = x @ x.mT
    turn = step = _quintic(gram)
    for _ in range(times - 1):
        gram = step @ gram @ step
        step = _quintic(gram)
        turn = step @ turn
    x = turn @ x
    return x.mT if tall else x


def _quintic(gram: Tensor) -> Tensor:
    """What an iteration multiplies a matrix $X$ by, of its Gram matrix $X X^T$."""
    a, b, c = COEFFICIENTS
    found: Tensor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    found.diagonal(dim1=-2, dim2=-1).add_(a)
    return found


class Muon(Optimizer):
    """Nesterov momentum, orthogonalized; matrices of one shape are done together.

    Args:
        matrices: What is trained.
        lr: How long a step is, in the root mean square of its entries times five, as AdamW's steps are.
        weight_decay: Share of a weight that goes with each step, a unit of `lr`.
        momentum: Share of the past in the direction.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the length of a step after
    Liu et al. 2025, "Muon is scalable for LLM training", section 2.2.
    """

    def __init__(
        self, matrices: Iterable[Tensor], *, lr: float, weight_decay: float = 0.0, momentum: float = 0.95
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of every matrix; each has a gradient."""
        assert closure is None, "the loss is not computed again"
        for group in self.param_groups:
            stacks: dict[torch.Size, list[Tensor]] = {}
            for one in group["params"]:
                stacks.setdefault(one.shape, []).append(one)
            for shape, some in stacks.items():
                gradients = torch.stack([cast(Tensor, one.grad) for one in some])
                state = self.state[some[0]]
                if not state:
                    state["past"] = torch.zeros_like(gradients)
                past = state["past"]
                past.lerp_(gradients, 1 - group["momentum"])
                steps = orthogonalize(gradients.lerp(past, group["momentum"]))
                length = 0.2 * max(shape) ** 0.5 * group["lr"]
                for one, step in zip(some, steps, strict=True):
                    one.mul_(1 - group["lr"] * group["weight_decay"]).sub_(step, alpha=length)
