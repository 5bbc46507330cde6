"""Whether a model tells chosen from rejected answers by what it is told: the margins of held-out preferences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steerkit.diagnostics.figures import to_json
from steerkit.errors import InputError
from steerkit.evaluation.intervals import Difference, paired_difference, standard_error
from steerkit.evaluation.proportions import Rate
from steerkit.tables import Cell, Table, Tabular

Side = Literal["chosen", "rejected", "both", "order"]
SIDES: tuple[Side, ...] = get_args(Side)


@dataclass(frozen=True, eq=False)
class Margins:
    r"""What the instruction does to each answer: $\Delta = P(r \mid p^+) - P(r \mid p^-)$, in nats per token.

    Args:
        chosen: Of the chosen answer; it should be above 0.
        rejected: Of the rejected answer; it should be below 0.
    """

    chosen: Float[Tensor, " item"]
    rejected: Float[Tensor, " item"]

    def hits(self, side: Side) -> Float[Tensor, " item"]:
        """How right each item is, 0 or 1: one class, the mean of `"both"`, or the `"order"` of their margins."""
        chosen, rejected = (self.chosen > 0).double(), (self.rejected < 0).double()
        if side == "order":
            return (self.chosen > self.rejected).double()
        return {"chosen": chosen, "rejected": rejected, "both": (chosen + rejected) / 2}[side]

    def values(self, side: Side) -> Float[Tensor, " item"]:
        """The margin of each item, signed so that it should be above 0; of `"both"` the mean, of `"order"` the sum."""
        total = self.chosen - self.rejected
        return {"chosen": self.chosen, "rejected": -self.rejected, "both": total / 2, "order": total}[side]


@dataclass(frozen=True, eq=False, repr=False)
class Discrimination(Tabular):
    r"""How well chosen and rejected answers are told apart by the instruction they are read under.

    An answer's margin is $\Delta = P(r \mid p^+) - P(r \mid p^-)$ with $P$ the mean log-probability of its tokens. For
    dual weights the two models take the place of the two instructions.

    Args:
        arms: Margins by name: `"base"`, and `"taught"` where something was.
        ids: The preferences.
        lengths: Tokens of the chosen and of the rejected answer.
        tolerance: Lengths that differ by at most this share of the longer one count as matched.
        goal: The margin that smoothing aims at, where it was used.
    """

    arms: Mapping[str, Margins]
    ids: tuple[str, ...]
    lengths: Int[Tensor, "item side=2"]
    tolerance: float = 0.1
    goal: float | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def matched(self) -> Bool[Tensor, " item"]:
        """Preferences whose two answers are about equally long."""
        gap = (self.lengths[:, 0] - self.lengths[:, 1]).abs()
        return gap <= self.tolerance * self.lengths.max(dim=1).values

    def margins(self, arm: str | None = None, *, matched: bool = False) -> Margins:
        """The margins of an arm; without a name, of what was taught, or else of the base.

        Raises:
            InputError: There is no such arm.
        """
        name = arm or ("taught" if "taught" in self.arms else "base")
        if name not in self.arms:
            raise InputError(f"arm={arm!r} was not measured; choose one of {', '.join(map(repr, self.arms))}")
        of = self.arms[name]
        return Margins(of.chosen[self.matched], of.rejected[self.matched]) if matched else of

    def accuracy(self, side: Side = "both", *, arm: str | None = None, matched: bool = False) -> Rate:
        r"""The share of answers on the right side of 0, with its interval (Wilson's, 95 %).

        Args:
            side: `"chosen"`, `"rejected"`, `"both"` classes together, or `"order"`: the share of preferences whose
                chosen answer has the larger margin (the accuracy as a reward model).
            arm: `"base"` or `"taught"`; without it the latter, where it is there.
            matched: Only preferences whose answers are about equally long.

        Raises:
            InputError: No such side or arm.
        """
        check_side(side)
        return Rate.of(self.margins(arm, matched=matched).hits(side))

    def gain(self, side: Side = "both", *, matched: bool = False) -> Difference:
        """How much accuracy the teaching added, item by item, with its interval.

        Raises:
            InputError: There are no two arms.
        """
        check_side(side)
        taught, base = (self.margins(arm, matched=matched).hits(side) for arm in ("taught", "base"))
        return paired_difference(taught, base)

    def table(self) -> Table:
        """What is shown of it."""
        rows: list[list[Cell]] = []
        for arm in self.arms:
            for matched in (False, True):
                for side in SIDES:
                    rows.append(self._row(arm, side, matched))
        columns = ["arm", "items", "class", "accuracy", "95 % from", "to", "margin", "±", "count"]
        return Table(columns, rows, self._title(), self._note())

    def _row(self, arm: str, side: Side, matched: bool) -> list[Cell]:
        rate = self.accuracy(side, arm=arm, matched=matched)
        which = "equally long" if matched else "all"
        if not rate.count:
            return [arm, which, side, None, None, None, None, None, 0]
        values = self.margins(arm, matched=matched).values(side).double()
        spread = float(standard_error(values))
        return [arm, which, side, rate.share, rate.low, rate.high, float(values.mean()), spread, rate.count]

    def _title(self) -> str:
        return f"Told apart by instruction: {len(self)} held-out preferences (margins in nats per token)"

    def _note(self) -> str:
        parts = [f"equally long: within {self.tolerance:.0%} of the longer answer"]
        if {"base", "taught"} <= set(self.arms):
            by = self.gain()
            low, high = by.interval
            parts.insert(0, f"taught against base: {by.mean:+.3f} accuracy (95 % {low:+.3f} to {high:+.3f})")
        if self.goal is not None:
            parts.append(f"smoothing aims at a margin of {self.goal:.3f}")
        return "; ".join(parts)

    def plot(self) -> Any:
        """Histograms of the margins, chosen against rejected, one panel an arm."""
        from steerkit.training.teaching.discrimination_figure import draw

        return draw(self)

    def to_frame(self) -> Any:
        """A pandas DataFrame with one row a preference and arm."""
        import pandas as pd

        return pd.concat(
            [
                pd.DataFrame(
                    {
                        "id": list(self.ids), "arm": arm,
                        "chosen": of.chosen.tolist(), "rejected": of.rejected.tolist(),
                        "chosen_tokens": self.lengths[:, 0].tolist(), "rejected_tokens": self.lengths[:, 1].tolist(),
                    }
                )
                for arm, of in self.arms.items()
            ],
            ignore_index=True,
        )  # fmt: skip

    def to_json(self) -> str:
        """The figures and the items, as JSON."""
        return to_json(self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, from which `from_dict` makes it again."""
        table = self.table()
        arms = {a: {"chosen": of.chosen.tolist(), "rejected": of.rejected.tolist()} for a, of in self.arms.items()}
        return {
            "figures": [dict(zip(table.columns, row, strict=True)) for row in table.rows],
            "ids": list(self.ids), "lengths": self.lengths.tolist(), "tolerance": self.tolerance, "goal": self.goal,
            "arms": arms,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Discrimination:
        """What `as_dict` wrote."""
        arms = {
            name: Margins(*(torch.tensor(of[side], dtype=torch.float64) for side in ("chosen", "rejected")))
            for name, of in content["arms"].items()
        }
        lengths = torch.tensor(content["lengths"], dtype=torch.long)
        return cls(arms, tuple(content["ids"]), lengths, content["tolerance"], content["goal"])


def check_side(side: str) -> None:
    """Refuse a class of answers that there is not.

    Raises:
        InputError: It is none of `SIDES`.
    """
    if side not in SIDES:
        raise InputError(f"side={side!r} is not known; choose one of {', '.join(map(repr, SIDES))}")
