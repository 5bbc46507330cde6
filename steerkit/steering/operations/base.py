"""What an operation is: how a vector changes the activations."""

from __future__ import annotations

from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

Meaning = Literal["multiple", "share", "value"]
"""What `coef` counts: multiples of the vector, the share of an effect, or a projection on the unit vector."""


@runtime_checkable
class Operation(Protocol):
    """Any callable with this signature; a frozen dataclass prints best.

    All tensors are float32 (float64 in a float64 model). `hidden` is `[batch, pos, hidden]`; `vector` is `[hidden]`,
    or `[batch, 1, hidden]` where rows differ; `coef` is a number, or `[batch, 1, 1]`. The answer has the shape of
    `hidden`, which must not be written to. What lies outside the edit's positions is thrown away afterwards.

    A class may say `coef_means = "multiple" | "share" | "value"`. Then `coef=0` is known to change nothing (for a
    multiple or a share), and a vector without direction is refused (for a share or a value).
    """

    def __call__(self, hidden: Tensor, vector: Tensor, coef: float | Tensor) -> Tensor:
        """The changed activations."""
        ...


def meaning(operation: Any) -> Meaning | None:
    """What `coef` counts in an operation; `None` where it does not say."""
    return getattr(operation, "coef_means", None)
