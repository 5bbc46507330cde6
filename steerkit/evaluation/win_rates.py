"""How often one way of answering beats another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.data.chat import PromptLike
from steerkit.errors import DataError
from steerkit.evaluation.conventions import finite
from steerkit.evaluation.intervals import bootstrap_interval
from steerkit.evaluation.judging import Judge, judge_pairs
from steerkit.evaluation.length_control import length_controlled
from steerkit.evaluation.proportions import wilson_interval
from steerkit.tables import Cell, Table, Tabular

COLUMNS = ("judge", "prompts", "win rate", "95 % from", "to", "wins", "ties", "losses", "LC (minimal GLM)", "from",
           "to", "longer by", "overlap")  # fmt: skip


@dataclass(frozen=True, repr=False, eq=False)
class WinRate(Tabular):
    """How often some answers beat others to the same prompts.

    Args:
        judge: Whose verdict it is.
        preference: For each prompt, how probable it is that the answer is the better one; 0.5 is a tie.
        longer: By how many characters the answer is the longer one.
        rate: Mean preference, in [0, 1]; ties count half.
        interval: Its 95 % interval: Wilson's where every verdict is a win, a tie or a loss, else the bootstrap's.
        controlled: The rate at equal lengths, by the minimal generalized linear model; see `length_controlled`.
        controlled_interval: Its 95 % bootstrap interval.
        order_effect: How much the judge goes by the order, before both orders are averaged; 0 is fair.
    """

    judge: str
    preference: Float[Tensor, " item"]
    longer: Float[Tensor, " item"]
    rate: float
    interval: tuple[float, float]
    controlled: float
    controlled_interval: tuple[float, float]
    order_effect: float

    def __len__(self) -> int:
        return len(self.preference)

    @property
    def wins(self) -> int:
        """Prompts with the better answer here."""
        return int((self.preference > 0.5).sum())

    @property
    def ties(self) -> int:
        """Prompts with equally good answers."""
        return int((self.preference == 0.5).sum())

    @property
    def losses(self) -> int:
        """Prompts with the better answer there."""
        return int((self.preference < 0.5).sum())

    @property
    def overlap(self) -> float:
        """Twice the smaller share of longer and shorter answers (equal ones count half for each), in [0, 1].

        At 1 answers are longer as often as shorter; at 0 all are longer or all shorter, and the length-controlled rate
        is an extrapolation.
        """
        longer = float(((self.longer > 0).double() + 0.5 * (self.longer == 0).double()).mean())
        return 2 * min(longer, 1 - longer)

    def table(self) -> Table:
        """What is shown of it."""
        return Table(COLUMNS, [self.row()])

    def row(self) -> list[Cell]:
        """The figures, in the order of `COLUMNS`."""
        return [self.judge, len(self), self.rate, *self.interval, self.wins, self.ties, self.losses, self.controlled,
                *self.controlled_interval, float(self.longer.mean()), self.overlap]  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """All figures as plain values."""
        return {
            "judge": self.judge, "count": len(self), "rate": self.rate, "interval": list(self.interval),
            "wins": self.wins, "ties": self.ties, "losses": self.losses, "controlled": self.controlled,
            "controlled_interval": list(self.controlled_interval), "overlap": self.overlap,
            "longer_by": float(self.longer.mean()), "order_effect": self.order_effect,
            "preference": self.preference.tolist(),
        }  # fmt: skip

    def to_json(self) -> str:
        """All figures."""
        return json.dumps(finite(self.as_dict()))


def win_rate(
    judge: Judge,
    prompts: Sequence[PromptLike],
    answers: Sequence[str],
    against: Sequence[str],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> WinRate:
    """How often answers beat others to the same prompts.

    Exchanging the two sides gives exactly one minus the rate: the judge is asked in both orders. Prompts are taken for
    independent; give each one once.

    Args:
        judge: Compares two answers: a `RuleJudge`, a reward model, or your own.
        prompts: What was asked.
        answers: One answer to each.
        against: What they are compared with, such as the answers of the base.
        resamples: Of the bootstrap, at least 1.
        seed: Of the bootstrap.

    Raises:
        DataError: Not two answers a prompt, no prompts, or the judge gives something that is no probability.

    Source: the win rates of AlpacaEval (Li et al. 2023). We differ: the interval, the order and the length are always
    looked at.

    Example:
        >>> from steerkit.evaluation.judging import RuleJudge
        >>> polite = RuleJudge(lambda prompt, answer: float("please" in answer))
        >>> found = win_rate(polite, ["a", "b", "c"], ["please do", "please", "no"], ["yes", "please", "never"])
        >>> found.wins, found.ties, found.losses, round(found.rate, 3)
        (1, 2, 0, 0.667)
    """
    if isinstance(resamples, bool) or not isinstance(resamples, int) or resamples < 1:
        raise DataError(f"resamples={resamples!r} is not valid; give an integer of at least 1")
    verdicts = judge_pairs(judge, prompts, answers, against)
    preference = verdicts.preference
    longer = torch.tensor([float(len(a.strip()) - len(b.strip())) for a, b in zip(answers, against, strict=True)])
    rate = float(preference.mean())
    if bool(torch.isin(preference, torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)).all()):
        interval = wilson_interval(rate, len(preference))
    else:
        interval = bootstrap_interval(preference, resamples=resamples, seed=seed)
    fits = length_controlled(preference, longer, resamples=resamples, seed=seed)
    ends = torch.quantile(fits[1:], torch.tensor([0.025, 0.975], dtype=fits.dtype))
    return WinRate(judge.name, preference, longer, rate, interval, float(fits[0]), (float(ends[0]), float(ends[1])),
                   verdicts.order_effect)  # fmt: skip
