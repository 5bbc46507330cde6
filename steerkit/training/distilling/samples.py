"""The sequences that a student is trained on, and which of their tokens have a target."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import torch
from jaxtyping import Bool
from torch import Tensor

from steerkit.backends.base import Batch, pad
from steerkit.errors import DataError


@dataclass(frozen=True)
class Sample:
    """One sequence.

    Args:
        ids: Its tokens.
        prompt_length: How many of them belong to the prompt's template.
        scope: For each token, whether its state has a target. The others are to stay as they are.

    Raises:
        DataError: There is no token, or `scope` has another length.
    """

    ids: tuple[int, ...]
    prompt_length: int
    scope: tuple[bool, ...]

    def __post_init__(self) -> None:
        if not self.ids or len(self.scope) != len(self.ids):
            raise DataError(f"a sample of {len(self.ids)} tokens with a scope of {len(self.scope)}; give one answer "
                            "for each token, and at least one token")  # fmt: skip

    @cached_property
    def inside(self) -> int:
        """Tokens that have a target."""
        return sum(self.scope)


@dataclass(frozen=True)
class SampleBatch:
    """Some samples, padded, ready for a forward pass.

    Args:
        batch: The tokens.
        scope: Which columns have a target; padding never has.
    """

    batch: Batch
    scope: Bool[Tensor, "batch pos"]

    @property
    def outside(self) -> Bool[Tensor, "batch pos"]:
        """The real tokens without a target."""
        return self.batch.real & ~self.scope

    def __len__(self) -> int:
        return len(self.batch)


@dataclass(frozen=True)
class Samples(Sequence[Sample]):
    """All the sequences of a training.

    Raises:
        DataError: There is none.

    Example:
        >>> samples = Samples([Sample((5, 6, 7), 2, (False, True, True)), Sample((8,), 1, (True,))])
        >>> samples.inside([0, 1]), samples.outside([0, 1])
        (3, 1)
        >>> samples.batch([0, 1], pad_id=0).scope.tolist()
        [[False, True, True], [False, False, True]]
    """

    items: Sequence[Sample]

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", tuple(self.items))
        if not self.items:
            raise DataError("no samples; give at least one")

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Samples: ...
    def __getitem__(self, index: int | slice) -> Sample | Samples:
        return Samples(self.items[index]) if isinstance(index, slice) else self.items[index]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.items)

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits of the SHA-256 of tokens and scopes, in order."""
        digest = hashlib.sha256()
        for one in self:
            scope = "".join("01"[chosen] for chosen in one.scope)
            digest.update(json.dumps([one.ids, one.prompt_length, scope]).encode() + b"\n")
        return digest.hexdigest()[:16]

    def inside(self, indices: Sequence[int] | None = None) -> int:
        """Tokens with a target, of some samples or of all."""
        return sum(self.items[i].inside for i in (range(len(self)) if indices is None else indices))

    def outside(self, indices: Sequence[int] | None = None) -> int:
        """Tokens without a target, of some samples or of all."""
        chosen = range(len(self)) if indices is None else indices
        return sum(len(self.items[i].ids) - self.items[i].inside for i in chosen)

    def batch(self, indices: Sequence[int], *, pad_id: int, left: bool = True) -> SampleBatch:
        """Some samples as one batch, padded to the longest of them.

        Args:
            indices: Which, in this order.
            pad_id: What fills the rest.
            left: On which side the rest lies.
        """
        chosen = [self.items[i] for i in indices]
        batch = pad([one.ids for one in chosen], [one.prompt_length for one in chosen], pad_id=pad_id, left=left)
        scope = torch.zeros_like(batch.real)
        scope[batch.real] = torch.tensor([flag for one in chosen for flag in one.scope])
        return SampleBatch(batch, scope)
