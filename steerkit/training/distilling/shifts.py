"""How large the wanted changes are, how much they agree with each other, and how hard they will be to learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.adapters.attached import Attached
from steerkit.errors import DataError
from steerkit.tables import Cell, Table, Tabular
from steerkit.training.distilling.losses import length
from steerkit.training.distilling.targets import Teacher

LOOKED_AT = 64
"""Samples that are looked at before training; some are as good as all for a mean."""


@dataclass(frozen=True, repr=False, eq=False)
class WantedShifts(Tabular):
    r"""What a teacher asks for, by layer.

    Args:
        layers: Blocks.
        shift: Mean of $\|v\|$ over tokens.
        squared: Mean of $\|v\|^2$.
        base: Mean of $\|h_{base}\|$.
        common: $\|\bar v\|$, the length of the mean.
        tokens: How many tokens were looked at.
    """

    layers: tuple[int, ...]
    shift: Float[Tensor, " layer"]
    squared: Float[Tensor, " layer"]
    base: Float[Tensor, " layer"]
    common: Float[Tensor, " layer"]
    tokens: int

    @property
    def relative(self) -> Float[Tensor, " layer"]:
        r"""Mean of $\|v\|$ over that of $\|h\|$; above 1 the change drowns the state."""
        return self.shift / self.base

    @property
    def consistency(self) -> Float[Tensor, " layer"]:
        r"""$\|\bar v\|$ over the mean of $\|v\|$: 1 where all tokens want the same, near 0 where each wants its own."""
        return self.common / torch.where(self.shift > 0, self.shift, 1.0)

    @property
    def difficulty(self) -> Float[Tensor, " layer"]:
        r"""$1 - \|\bar v\|^2 / \overline{\|v\|^2}$: the share that no constant change can give, from 0 to 1."""
        return 1 - self.common.square() / torch.where(self.squared > 0, self.squared, 1.0)

    def table(self) -> Table:
        """What is shown of it."""
        columns = ["layer", "wanted change", "state", "relative", "consistency", "difficulty"]
        numbers = (self.shift, self.base, self.relative, self.consistency, self.difficulty)
        rows: list[list[Cell]] = [[at, *(float(one[i]) for one in numbers)] for i, at in enumerate(self.layers)]
        return Table(columns, rows, f"Wanted changes, over {self.tokens} tokens")

    def as_dict(self) -> dict[str, Any]:
        """The numbers as plain values."""
        names = ("shift", "squared", "base", "common")
        return {"layers": list(self.layers), **{one: getattr(self, one).tolist() for one in names},
                "tokens": self.tokens}  # fmt: skip

    @classmethod
    def from_dict(cls, found: Any) -> WantedShifts:
        """From what `as_dict` gave."""
        numbers = {one: torch.tensor(found[one]) for one in ("shift", "squared", "base", "common")}
        return cls(tuple(found["layers"]), tokens=found["tokens"], **numbers)


def look_at(teacher: Teacher, attached: Attached, *, batch: int) -> WantedShifts:
    """Measure what a teacher asks for on some samples, spread over all of them.

    Raises:
        DataError: A wanted change, or a state, is not finite.
    """
    found = len(teacher.samples)
    chosen = sorted({found * i // min(found, LOOKED_AT) for i in range(min(found, LOOKED_AT))})
    sums: dict[str, Tensor] = {}
    tokens = 0
    for start in range(0, len(chosen), batch):
        some = chosen[start : start + batch]
        targets = teacher.targets(attached, some)
        tokens += targets.shift.shape[1]
        parts = {"shift": length(targets.shift).double().sum(-1), "base": length(targets.base).double().sum(-1),
                 "squared": targets.shift.double().square().sum((-2, -1)),
                 "common": targets.shift.double().sum(1)}  # fmt: skip
        for name, part in parts.items():
            if not bool(part.isfinite().all()):
                raise DataError(f"samples {_few(some)} have a state or a wanted change that is not finite; run the "
                                "model in float32 or bfloat16, or leave them out")  # fmt: skip
            sums[name] = sums.get(name, torch.zeros_like(part)) + part
    means = {name: (one / max(tokens, 1)).cpu() for name, one in sums.items()}
    means["common"] = length(means["common"])
    return WantedShifts(tuple(teacher.layers), tokens=tokens, **means)


def _few(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:4])) + (", ..." if len(numbers) > 4 else "")
