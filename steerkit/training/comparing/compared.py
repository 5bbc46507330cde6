"""What a comparison of methods came to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from steerkit.errors import InputError
from steerkit.evaluation.conventions import finite
from steerkit.evaluation.intervals import Difference, standard_error
from steerkit.evaluation.win_rates import WinRate
from steerkit.tables import Cell, Table, Tabular
from steerkit.training.baselines.reward_quality import RewardQuality

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, eq=False)
class Compared:
    """One method.

    Args:
        name: What it is called.
        parameters: Numbers that were trained.
        seconds: What it took, with its share of what several methods need.
        answers: Its answers to the test prompts.
        against_base: Win rates against the base's answers, by judge.
        against_preferred: Win rates against the preferred answers of the data, by judge.
        rewards: Of its answers, by the judging reward model; `None` without one.
        effects: How p(matching) of other behaviors moved from the base's, by name.
        note: Anything worth a line.
        failure: Why there is no figure; empty where all went well.
    """

    name: str
    parameters: int = 0
    seconds: float = 0.0
    answers: tuple[str, ...] = ()
    against_base: Mapping[str, WinRate] = field(default_factory=dict)
    against_preferred: Mapping[str, WinRate] = field(default_factory=dict)
    rewards: Tensor | None = None
    effects: Mapping[str, Difference] = field(default_factory=dict)
    note: str = ""
    failure: str = ""

    @property
    def reward(self) -> tuple[float, float] | None:
        """Mean reward and its standard error."""
        if self.rewards is None:
            return None
        return float(self.rewards.mean()), float(standard_error(self.rewards.double()))

    @property
    def longer_by(self) -> float | None:
        """By how many characters its answers are longer than the base's, on average."""
        first = next(iter(self.against_base.values()), None)
        return None if first is None else float(first.longer.mean())

    def as_dict(self) -> dict[str, Any]:
        """All figures as plain values."""
        return {
            "name": self.name, "parameters": self.parameters, "seconds": self.seconds, "note": self.note,
            "failure": self.failure, "answers": list(self.answers), "reward": self.reward,
            "longer_by": self.longer_by,
            "against_base": {name: one.as_dict() for name, one in self.against_base.items()},
            "against_preferred": {name: one.as_dict() for name, one in self.against_preferred.items()},
            "effects": {
                name: {"mean": one.mean, "stderr": one.stderr, "interval": list(one.interval), "count": one.count}
                for name, one in self.effects.items()
            },
        }  # fmt: skip


@dataclass(frozen=True, repr=False, eq=False)
class MethodComparison(Tabular):
    """Methods side by side.

    Args:
        rows: One a method; the first is the base against another sample of itself, which is what chance does.
        prompts: What was asked.
        base: The base's answers, which the others are compared with.
        quality: What the judging reward model is worth on preferences it has not seen; `None` without one.
        failures: By name, what made a method fail.
        seed: Of everything random.
    """

    rows: Sequence[Compared]
    prompts: Sequence[str]
    base: Sequence[str]
    quality: RewardQuality | None = None
    failures: Mapping[str, Exception] = field(default_factory=dict)
    seed: int = 0

    def __getitem__(self, name: str) -> Compared:
        found = next((row for row in self.rows if row.name == name), None)
        if found is None:
            raise InputError(
                f"no method is called {name!r}; there are {', '.join(repr(row.name) for row in self.rows)}"
            )
        return found

    @property
    def judges(self) -> list[str]:
        """Whose verdicts there are."""
        return list(self.rows[0].against_base)

    @property
    def others(self) -> list[str]:
        """The behaviors on which side effects were measured."""
        return list(self.rows[0].effects)

    def table(self) -> Table:
        """Win rates against the base."""
        return self._win_rates("against_base", "the base's answers")

    @property
    def against_preferred(self) -> Table:
        """Win rates against the preferred answers of the data."""
        return self._win_rates("against_preferred", "the preferred answers")

    @property
    def side_effects(self) -> Table:
        """How p(matching) of other behaviors moved, each with its standard error."""
        columns = ["method", *(cell for name in self.others for cell in (name, "±"))]
        rows: list[list[Cell]] = []
        for row in self.rows:
            found = [row.effects.get(name) for name in self.others]
            rows.append([row.name, *(cell for one in found for cell in ([None] * 2 if one is None else
                                                                        [one.mean, one.stderr]))])  # fmt: skip
        return Table(columns, rows, "Side effects: p(matching) less that of the base")

    def _win_rates(self, against: str, whose: str) -> Table:
        columns = ["method", "trained", "seconds", "reward", "longer by"]
        for judge in self.judges:
            columns += [f"wins by {judge}", "95 % from", "to", "LC (minimal GLM)", "from", "to"]
        rows: list[list[Cell]] = []
        for row in self.rows:
            reward = None if row.reward is None else round(row.reward[0], 2)
            by = None if row.longer_by is None else round(row.longer_by, 1)
            cells: list[Cell] = [row.name, row.parameters, round(row.seconds, 1), reward, by]
            for judge in self.judges:
                one = getattr(row, against).get(judge)
                numbers = (
                    [None] * 6 if one is None else [one.rate, *one.interval, one.controlled, *one.controlled_interval]
                )
                cells += [None if number is None else round(number, 3) for number in numbers]
            rows.append([*cells, row.failure or row.note])
        title = f"Win rates against {whose} on {len(self.prompts)} held-out prompts (ties count half)"
        return Table([*columns, "note"], rows, title, self._note())

    def _note(self) -> str:
        lines = []
        if self.quality is not None:
            q = self.quality
            lines.append(
                f"Our reward model, on {q.count} held-out preferences: accuracy {q.accuracy:.2f} "
                f"({q.interval[0]:.2f} to {q.interval[1]:.2f}), calibration error {q.calibration_error:.2f}, length "
                f"correlation {q.length_correlation:+.2f}. No method was trained on what it was trained on."
            )
        lines += [f"{name} failed: {error!r}" for name, error in self.failures.items()]
        return "\n".join(lines)

    def __repr__(self) -> str:
        parts = [repr(self.table())]
        return "\n\n".join([*parts, repr(self.side_effects)] if self.others else parts)

    def _repr_html_(self) -> str:
        return self.table()._repr_html_() + (self.side_effects._repr_html_() if self.others else "")

    def to_frame(self) -> DataFrame:
        """One row a method and judge."""
        from pandas import DataFrame

        return DataFrame([
            {"method": row.name, "judge": judge, "rate": one.rate, "low": one.interval[0], "high": one.interval[1],
             "controlled": one.controlled, "controlled_low": one.controlled_interval[0],
             "controlled_high": one.controlled_interval[1], "seconds": row.seconds, "parameters": row.parameters,
             **{f"{name} effect": effect.mean for name, effect in row.effects.items()}}
            for row in self.rows for judge, one in row.against_base.items()
        ])  # fmt: skip

    def to_json(self) -> str:
        """Everything: figures, answers, failures."""
        from dataclasses import asdict

        return json.dumps(finite({
            "rows": [row.as_dict() for row in self.rows], "prompts": list(self.prompts), "base": list(self.base),
            "reward_model": None if self.quality is None else asdict(self.quality),
            "failures": {name: repr(error) for name, error in self.failures.items()}, "seed": self.seed,
        }), ensure_ascii=False)  # fmt: skip

    def plot(self) -> Any:
        """Win rates with their intervals, and side effects beside them."""
        from steerkit.training.comparing.comparison_figure import plot_comparison

        return plot_comparison(self)
