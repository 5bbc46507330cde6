"""The contract of a steering operation."""

from __future__ import annotations

from typing import Any

import torch

from steerkit.testing.checks import Check, Conformance, distance, judge


def check_operation(operation: Any, *, hidden_size: int = 16, seed: int = 0) -> Conformance:
    """Hold a steering operation to its contract: `operation(hidden, vector, coef)` on float32 tensors.

    Shape and dtype stay; the input is not written to; every token is treated alike, alone or in a batch; the result is
    finite, also for a zero activation; a `[batch, 1, 1]` coefficient equals each row by itself.

    Args:
        operation: What `Steer.apply` takes.
        hidden_size: Width of the activations tried.
        seed: Of the random activations.

    Raises:
        ConformanceError: A check failed; the message shows all of them.

    Example:
        >>> check_operation(lambda hidden, vector, coef: hidden + coef * vector).passed
        True
    """
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(3, 5, hidden_size, generator=generator)
    hidden[0, 0] = 0
    vector = torch.randn(hidden_size, generator=generator)
    coef = torch.tensor([-1.0, 0.5, 2.0])
    kept = hidden.clone()
    out = operation(hidden, vector, 0.5)
    rows = operation(hidden, vector, coef.reshape(-1, 1, 1))
    each = torch.cat([operation(hidden[i : i + 1], vector, float(coef[i])) for i in range(3)])
    tokens = torch.cat([operation(hidden[:, i : i + 1], vector, 0.5) for i in range(5)], dim=1)
    checks = (
        Check("shape and dtype stay", float(out.shape != hidden.shape or out.dtype != hidden.dtype), 0.0),
        Check("the input is not written to", distance(hidden, kept, exact=True), 0.0),
        Check("the result is finite", float(not bool(out.isfinite().all())), 0.0),
        Check("a token alone = in its row", distance(tokens, out), 1e-5),
        Check("a coefficient by row = each row by itself", distance(rows, each), 1e-5),
    )
    return judge(Conformance(f"{operation!r}: the contract of an operation", checks))
