"""What is called at a point while a model runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steerkit.errors import SteeringError
from steerkit.positions import Pass, select
from steerkit.steering.edits import Edit
from steerkit.steering.operations import Add, name_of
from steerkit.steering.placement import Placed
from steerkit.steering.receipts import Receipt, Tally, as_receipts


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A placed edit on one device, in one precision, for one size of batch."""

    device: torch.device
    dtype: torch.dtype
    batch: int
    compute: torch.dtype
    vector: Tensor
    coef: float | Tensor
    acting: Tensor | None
    delta: Tensor | None
    change: Tensor


class Action:
    """A hook that carries out one placed edit and counts what it did.

    Args:
        placed: The edit at its point.
    """

    def __init__(self, placed: Placed) -> None:
        self.placed = placed
        self._still = not any(placed.acting)
        self._prepared: _Prepared | None = None
        self.reset()

    def reset(self) -> None:
        """Forget what was counted."""
        self.tally = Tally(self.placed.rows or 1)

    @property
    def receipts(self) -> list[Receipt]:
        """What was done since the last reset."""
        placed = self.placed
        return as_receipts(placed.edits, layer=placed.point.layer, tally=self.tally, acting=placed.acting)

    @property
    def spec(self) -> dict[str, Any] | None:
        """The edit as tensors and the name of its operation, for who carries it out elsewhere; none without a name."""
        placed, name = self.placed, name_of(self.placed.operation)
        if name is None:
            return None
        return {"operation": name, "vector": placed.vector, "coef": placed.coef, "acting": placed.acting,
                "positions": placed.positions}  # fmt: skip

    def receive(self, tokens: Tensor, change: Tensor, norm: Tensor) -> None:
        """What was done by row in a pass elsewhere: tokens changed, norms of the change, norms before it."""
        self.tally.add_sums(tokens, change, norm)

    def __repr__(self) -> str:
        return repr(self.placed.operation)

    def __call__(self, hidden: Tensor, pass_: Pass) -> Tensor | None:
        """The changed activations of a pass."""
        ready = self._prepared
        if (
            ready is None
            or hidden.shape[0] != ready.batch
            or hidden.dtype != ready.dtype
            or hidden.device != ready.device
        ):
            ready = self._prepared = self._prepare(hidden, pass_)
        if self._still:
            self.tally.passes += 1
            return None
        mask = select(self.placed.positions, pass_)
        if mask is not None or ready.delta is None:
            return self._selectively(hidden, mask, ready)
        self.tally.add_known(hidden, ready.change)
        changed = hidden + ready.delta
        return changed if changed.dtype == hidden.dtype else changed.to(hidden.dtype)

    def _selectively(self, hidden: Tensor, mask: Tensor | None, ready: _Prepared) -> Tensor:
        if mask is not None:
            mask = mask.to(hidden.device)
        if ready.acting is not None:
            mask = ready.acting.expand(hidden.shape[:2]) if mask is None else mask & ready.acting
        before = hidden.to(ready.compute)
        after = self.placed.operation(before, ready.vector, ready.coef)
        if not isinstance(after, Tensor) or after.shape != hidden.shape:
            shape = list(after.shape) if isinstance(after, Tensor) else type(after).__name__
            raise SteeringError(f"{self.placed.operation!r} returned {shape}; it must return a tensor of the shape of "
                                f"hidden, {list(hidden.shape)}")  # fmt: skip
        self.tally.add_measured(before, after, mask)
        after = after.to(hidden.dtype)
        return after if mask is None else torch.where(mask.unsqueeze(-1), after, hidden)

    def _prepare(self, hidden: Tensor, pass_: Pass) -> _Prepared:
        """Outside inference mode, so that what is kept also serves a later pass with gradients."""
        placed, batch = self.placed, hidden.shape[0]
        compute = torch.promote_types(hidden.dtype, torch.float32)
        with torch.inference_mode(False), torch.no_grad():
            vector = placed.vector.to(hidden.device, compute)
            coef, acting = placed.coef, None
            if isinstance(coef, Tensor):
                repeats = _repeats(len(coef), batch, pass_.prompts)
                coef = coef.to(hidden.device, compute).repeat_interleave(repeats).reshape(-1, 1, 1)
                if vector.ndim == 2:
                    vector = vector.repeat_interleave(repeats, dim=0).unsqueeze(1)
                if not all(placed.acting):
                    acting = torch.tensor(placed.acting, device=hidden.device).repeat_interleave(repeats).unsqueeze(1)
            delta = None
            if type(placed.operation) is Add:
                delta = coef * vector
                if acting is not None:  # -0.0 is what leaves every number as it is, bit for bit; 0.0 turns -0.0 round
                    delta = torch.where(acting.unsqueeze(-1), delta, -0.0)
            change = torch.linalg.vector_norm(torch.as_tensor(placed.coef).reshape(-1, 1) * placed.vector, dim=-1)
            change = change.to(hidden.device, compute)
        return _Prepared(hidden.device, hidden.dtype, batch, compute, vector, coef, acting, delta, change)


def _repeats(rows: int, batch: int, prompts: int | None) -> int:
    prompts = batch if prompts is None else prompts
    if rows != prompts:
        raise SteeringError(f"the edits are for {rows} rows, but {prompts} prompts are run at a time; give one "
                            "coefficient (or list of edits) for each")  # fmt: skip
    return batch // rows


def without_effect(actions: Iterable[Action]) -> list[tuple[Edit, int | None, int]]:
    """Edits that were to act, ran, and touched no token at any of their layers; each with its row and its passes."""
    touched: dict[tuple[Edit, int | None], tuple[int, int]] = {}
    for action in actions:
        if not action.tally.passes:
            continue
        rows = action.placed.acting
        for pair, receipt in zip(action.placed.edits, action.receipts, strict=True):
            if any(rows) if pair[1] is None else rows[pair[1]]:
                passes, tokens = touched.get(pair, (0, 0))
                touched[pair] = (max(passes, receipt.passes), tokens + receipt.tokens)
    return [(edit, row, passes) for (edit, row), (passes, tokens) in touched.items() if tokens == 0]
