"""What a reward model is worth: accuracy, calibration and how much it goes by length."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.data.preferences import Preference
from steerkit.errors import DataError
from steerkit.evaluation.conventions import finite
from steerkit.evaluation.proportions import wilson_interval
from steerkit.tables import Cell, Table, Tabular

if TYPE_CHECKING:
    from steerkit.training.baselines.reward import RewardModel

BINS = 5


@dataclass(frozen=True)
class Bin:
    """Preferences that the reward model is about equally sure of.

    Args:
        count: How many.
        sure: Mean of its probability for the answer that it takes for the better one, from 0.5 to 1.
        right: Share of them in which that answer was the chosen one.
    """

    count: int
    sure: float
    right: float


@dataclass(frozen=True, repr=False)
class RewardQuality(Tabular):
    """A reward model on preferences that it was not trained on.

    Args:
        count: Preferences.
        accuracy: Share with the higher reward on the chosen answer; ties count half.
        interval: Its 95 % Wilson interval.
        calibration_error: Mean distance between how sure it is and how often it is right, weighted by bin, in [0, 1].
        bins: Both, by how sure it is.
        length_correlation: Pearson correlation of the difference in reward with that in length (characters), in
            [-1, 1]; NaN where all lengths are equal.
        chosen_longer: Share with the longer answer chosen; ties count half. What a judge by length alone would reach.
    """

    count: int
    accuracy: float
    interval: tuple[float, float]
    calibration_error: float
    bins: tuple[Bin, ...]
    length_correlation: float
    chosen_longer: float

    def table(self) -> Table:
        """What is shown of it."""
        low, high = self.interval
        rows: list[list[Cell]] = [
            [self.count, self.accuracy, low, high, self.calibration_error, self.length_correlation, self.chosen_longer]
        ]
        columns = [
            "held out",
            "accuracy",
            "95 % from",
            "to",
            "calibration error",
            "length correlation",
            "chosen longer",
        ]
        sure = ", ".join(f"sure {one.sure:.2f}: right {one.right:.2f} of {one.count}" for one in self.bins)
        return Table(columns, rows, "Reward model on held-out preferences", f"calibration: {sure}")

    def to_json(self) -> str:
        """All figures."""
        return json.dumps(finite(asdict(self)))

    def plot(self) -> Any:
        """How often it is right by how sure it is; the diagonal is perfect calibration."""
        import plotly.graph_objects as go

        figure = go.Figure()
        figure.add_scatter(x=[0.5, 1], y=[0.5, 1], mode="lines", line={"color": "#9498a0", "dash": "dot"}, name="ideal")
        figure.add_scatter(
            x=[one.sure for one in self.bins],
            y=[one.right for one in self.bins],
            marker={"size": [8 + 30 * one.count / self.count for one in self.bins], "color": "#4269d0"},
            mode="markers+lines",
            name="held out",
        )
        figure.update_layout(template="plotly_white", title=f"Accuracy {self.accuracy:.2f} on {self.count} held out")
        figure.update_xaxes(title="how sure", range=[0.48, 1.02])
        figure.update_yaxes(title="how often right", range=[-0.02, 1.02])
        return figure


def measure_rewards(reward: RewardModel, held_out: Sequence[Preference]) -> RewardQuality:
    """A reward model on preferences that it has not seen.

    Raises:
        DataError: No preferences.
    """
    if not held_out:
        raise DataError("no held-out preferences; give at least one")
    prompts = [one.prompt for one in held_out]
    chosen = reward.score(prompts, [one.chosen for one in held_out])
    rejected = reward.score(prompts, [one.rejected for one in held_out])
    longer = [float(len(one.chosen) - len(one.rejected)) for one in held_out]
    return quality_of(chosen - rejected, torch.tensor(longer))


def quality_of(margins: Float[Tensor, " item"], longer: Float[Tensor, " item"]) -> RewardQuality:
    """The figures of some differences: reward of the chosen answer less that of the rejected one, and of lengths.

    Example:
        >>> found = quality_of(torch.tensor([2.0, 1.0, -1.0, 0.0]), torch.tensor([4.0, 2.0, -2.0, 0.0]))
        >>> found.accuracy, round(found.length_correlation, 6), found.chosen_longer
        (0.625, 1.0, 0.625)
    """
    margins, longer = margins.double(), longer.double()
    right = (margins > 0).double() + 0.5 * (margins == 0).double()
    sure = torch.sigmoid(margins.abs())
    place = ((sure - 0.5) * 2 * BINS).long().clamp(max=BINS - 1)
    bins = tuple(
        Bin(int(rows.sum()), float(sure[rows].mean()), float(right[rows].mean()))
        for rows in (place == i for i in range(BINS))
        if bool(rows.any())
    )
    count = len(margins)
    error = sum(one.count * abs(one.sure - one.right) for one in bins) / count
    taller = float(((longer > 0).double() + 0.5 * (longer == 0).double()).mean())
    interval = wilson_interval(float(right.mean()), count)
    return RewardQuality(count, float(right.mean()), interval, error, bins, _correlation(margins, longer), taller)


def _correlation(a: Tensor, b: Tensor) -> float:
    if len(a) < 2 or float(a.std()) == 0 or float(b.std()) == 0:
        return float("nan")
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])
