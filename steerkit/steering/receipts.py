"""Receipts: how many tokens an edit changed, and by how much."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from steerkit.steering.edits import Edit

EVERY = 16
"""Of the decoding steps whose change is known beforehand, one in so many has its activations measured, as the first."""

KEPT = 256
"""Sums that are kept apart before they are added up."""


@dataclass(frozen=True, eq=False)
class Receipt:
    """What one edit did at one layer since its `Steer` was last entered.

    Args:
        edit: The edit.
        layer: One of its layers.
        row: The row of the batch it is for; `None` for all rows.
        passes: Forward passes it saw.
        tokens: Tokens it changed, summed over rows; beams and returned sequences count each for itself, and so do the
            tokens that `generate` writes behind a row that has ended. A token read again without a cache counts again.
        change_norm: Mean norm of the change, in the units of the activations; 0 where nothing changed.
        relative: `change_norm` over the mean norm of the same activations before the change. Where the change is known
            beforehand, decoding steps enter that mean by each sixteenth; all else is exact.
    """

    edit: Edit
    layer: int
    row: int | None
    passes: int
    tokens: int
    change_norm: float
    relative: float


class Tally:
    """Running sums of one edit at one point, kept on the device; reading them is what waits for the device.

    Tokens and changes are exact. Where the change is known beforehand (each step of cached decoding under an addition),
    the norm of the activations is taken at each `EVERY`-th step only, so that a step costs no more than the addition.

    Args:
        rows: How many rows are told apart; 1 for all together.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.passes = 0
        self._tokens: list[Tensor] = []
        self._sums: list[Tensor] = []
        self._known: Tensor | None = None
        self._known_tokens = 0
        self._norms: list[Tensor] = []

    def add_known(self, hidden: Tensor, change: Tensor) -> None:
        """A pass whose every token changed by a known norm `[row]`, the same object from pass to pass."""
        self.passes += 1
        if self._known is not change:
            self._flush()
            self._known = change
        batch, length = hidden.shape[:2]
        tokens = batch // self.rows * length
        if length > 1:
            norm = self._by_row(torch.linalg.vector_norm(hidden.detach(), dim=-1, dtype=change.dtype))
            self._store(torch.full_like(norm, tokens, dtype=torch.long), change * tokens, norm)
            return
        if self._known_tokens % (EVERY * tokens) == 0:
            norm = torch.linalg.vector_norm(hidden.detach(), dim=-1, dtype=change.dtype)
            self._norms.append(self._by_row(norm) / tokens)
        self._known_tokens += tokens

    def add_measured(self, before: Tensor, after: Tensor, mask: Tensor | None) -> None:
        """A pass of which the tokens of a mask (or all) changed."""
        self.passes += 1
        before, after = before.detach(), after.detach()
        norm = torch.linalg.vector_norm(before, dim=-1)
        change = torch.linalg.vector_norm(after - before, dim=-1)
        if mask is None:
            mask = torch.ones_like(norm, dtype=torch.bool)
        zero = norm.new_zeros(())
        change, norm = torch.where(mask, change, zero), torch.where(mask, norm, zero)
        self._store(self._by_row(mask), self._by_row(change), self._by_row(norm))

    def add_sums(self, tokens: Tensor, change: Tensor, norm: Tensor) -> None:
        """A pass that was counted elsewhere: tokens, norms of the change and norms before it, each summed by row."""
        self.passes += 1
        self._store(tokens, change, norm)

    def read(self) -> list[tuple[int, float, float]]:
        """By row: tokens, sum of the norms of the change, sum of the norms before it."""
        self._flush()
        if not self._tokens:
            return [(0, 0.0, 0.0)] * self.rows
        tokens = torch.stack(self._tokens).sum(0)
        change, norm = torch.stack([one.to("cpu", torch.float64) for one in self._sums]).sum(0).tolist()
        return list(zip(tokens.tolist(), change, norm, strict=True))

    def _by_row(self, values: Tensor) -> Tensor:
        return values.reshape(self.rows, -1).sum(-1)

    def _flush(self) -> None:
        if self._known is None or not self._norms:
            return
        norm = torch.stack(self._norms).mean(0)
        tokens = self._known_tokens
        self._store(torch.full_like(norm, tokens, dtype=torch.long), self._known * tokens, norm * tokens)
        self._known_tokens = 0
        self._norms.clear()

    def _store(self, tokens: Tensor, change: Tensor, norm: Tensor) -> None:
        self._tokens.append(tokens)
        self._sums.append(torch.stack([change, norm]))
        if len(self._tokens) >= KEPT:
            self._tokens = [torch.stack(self._tokens).sum(0)]
            self._sums = [torch.stack(self._sums).sum(0)]


def as_receipts(
    edits: tuple[tuple[Edit, int | None], ...], *, layer: int, tally: Tally, acting: list[bool]
) -> list[Receipt]:
    """The receipts of the edits that one tally stands for.

    Args:
        edits: Each with its row.
        layer: Where.
        tally: What was counted.
        acting: Which rows are changed at all.
    """
    sums = [row if acts else (0, 0.0, 0.0) for row, acts in zip(tally.read(), acting, strict=True)]
    receipts = []
    for edit, row in edits:
        parts = sums if row is None else [sums[row]]
        tokens, change, norm = (sum(column) for column in zip(*parts, strict=True))
        mean = change / tokens if tokens else 0.0
        relative = change / norm if norm else 0.0
        receipts.append(Receipt(edit, layer, row, tally.passes, int(tokens), mean, relative))
    return receipts
