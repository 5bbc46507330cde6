"""A method run on each attention head by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.errors import VectorError
from steerkit.store import Paired
from steerkit.store.statistics import Moments


@dataclass(frozen=True)
class EachHead:
    """A method whose vector for a row of heads is its vectors for the heads, side by side.

    A head whose two sides are the same in every pair gets zeros.

    Args:
        method: What is run.
        heads: How many heads a row holds.

    Example:
        >>> acts = Paired(torch.tensor([[2.0, 5.0], [4.0, 5.0]]), torch.tensor([[0.0, 5.0], [0.0, 5.0]]))
        >>> EachHead(lambda one: one.difference[0], 2)(acts)
        tensor([2., 0.])
    """

    method: Callable[[Paired], Any]
    heads: int

    @property
    def __name__(self) -> str:
        return str(getattr(self.method, "__name__", type(self.method).__name__))

    def __call__(self, acts: Paired) -> Float[Tensor, " hidden"]:
        positive, negative = (side.reshape(len(acts), self.heads, -1) for side in (acts.positive, acts.negative))
        return self._joined([self._one(Paired(positive[:, i], negative[:, i]), i) for i in range(self.heads)])

    def from_moments(self, moments: Moments, *, sure: bool = True) -> Float[Tensor, " hidden"] | None:
        """From the means alone: covariances of a row are not enough for every method on its heads."""
        part = getattr(self.method, "from_moments", None)
        if part is None:
            return None
        sides = moments.means.reshape(2, self.heads, -1)
        found = [part(Moments(moments.pairs, sides[:, i], moments.norm, moments.apart), sure=sure)
                 for i in range(self.heads)]  # fmt: skip
        return None if any(one is None for one in found) else self._joined(found)

    def _one(self, acts: Paired, head: int) -> Any:
        if torch.equal(acts.positive, acts.negative):
            return torch.zeros(acts.positive.shape[1])
        try:
            return self.method(acts)
        except VectorError as error:
            raise VectorError(f"head {head}: {error}") from error

    def _joined(self, rows: list[Any]) -> Tensor:
        for head, row in enumerate(rows):
            if not isinstance(row, Tensor) or row.ndim != 1:
                shape = list(row.shape) if isinstance(row, Tensor) else type(row).__name__
                raise VectorError(f"head {head}: {self.__name__} returned {shape}; it must return a tensor of one row")
        return torch.cat(rows)
