"""What choices came to: p(matching), the mass behind it, and whether it is the answer or the letter that counts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.errors import DataError
from steerkit.evaluation.conventions import GROUPS, Convention, check_convention, check_given, finite, letter_mask
from steerkit.evaluation.intervals import Difference, bootstrap_interval, paired_difference, standard_error
from steerkit.evaluation.questions import Scoring
from steerkit.tables import Cell, Table, Tabular

if TYPE_CHECKING:
    from pandas import DataFrame

COLUMNS = ["items", "count", "p(matching)", "±", "95 % from", "to", "mass", "least mass", "accuracy"]


@dataclass(frozen=True, eq=False)
class ScoredItems:
    """One number an item, in the order of the pairs.

    Args:
        id: The pair's name.
        letter: Multiple-choice letter of its positive answer; empty without one.
        p_positive: Probability of the positive answer over the whole vocabulary; NaN where it was not read.
        p_negative: The same for the negative answer.
        mass: What both have together, in [0, 1].
        p_matching: The positive answer's share of it, in [0, 1].
    """

    id: tuple[str, ...]
    letter: tuple[str, ...]
    p_positive: Float[Tensor, " item"]
    p_negative: Float[Tensor, " item"]
    mass: Float[Tensor, " item"]
    p_matching: Float[Tensor, " item"]

    def __len__(self) -> int:
        return len(self.id)


@dataclass(frozen=True)
class Figures:
    """The figures of some of the items.

    Args:
        count: Items; without any, the others are NaN.
        p_matching: Mean share of the positive answer.
        stderr: Standard error of that mean.
        mass: Mean mass of both answers.
        accuracy: Share of items with p(matching) above one half.
    """

    count: int
    p_matching: float
    stderr: float
    mass: float
    accuracy: float


@dataclass(frozen=True, repr=False, eq=False)
class ChoiceScores(Tabular):
    r"""How often a model takes the answers that match a behaviour.

    For each item $p = p_+ / (p_+ + p_-)$, where both are probabilities of an answer over the whole vocabulary.

    Args:
        items: The numbers by item.
        scoring: `"letter"`: the probability of the one token that differs; `"sequence"`: of all tokens that differ.
        convention: `"own"` scores every item with its own two answers. Under `"caa"` an item whose matching letter is
            neither A nor B counts as 0.

    Source: Rimsky et al. 2024 (CAA), section 4 and `get_avg_key_prob` in `plot_results.py`. We differ: the mass, the
    standard error and the letters are always shown, and an item beyond A and B is scored with its own letter.

    Example:
        >>> scores = ChoiceScores.from_probabilities([0.6, 0.1], [0.2, 0.8], ["A", "A"])
        >>> round(scores.p_matching, 3), round(scores.mass, 2), scores.accuracy
        (0.431, 0.85, 0.5)
    """

    items: ScoredItems
    scoring: Scoring = "letter"
    convention: Convention = "own"

    @classmethod
    def from_logs(
        cls, ids: Sequence[str], letters: Sequence[str], positive: Tensor, negative: Tensor, scoring: Scoring = "letter"
    ) -> ChoiceScores:
        """From the log-probabilities of both answers; they may be too small to be told from 0."""
        p, n = positive.double().exp(), negative.double().exp()
        share = torch.sigmoid(positive.double() - negative.double())
        return cls(ScoredItems(tuple(ids), tuple(letters), p, n, p + n, share), scoring)

    @classmethod
    def from_probabilities(
        cls,
        p_a: Sequence[float],
        p_b: Sequence[float],
        matching: Sequence[str],
        *,
        convention: Convention = "own",
    ) -> ChoiceScores:
        """From published probabilities of the letters A and B.

        Args:
            p_a: Probability of A, by item.
            p_b: Probability of B.
            matching: The letter that matches the behaviour, such as `A` or `(A)`.
            convention: `"caa"` counts an item that matches another letter as 0; `"own"` refuses it, because that
                letter's probability is not given.

        Raises:
            DataError: Unequal lengths, no items, a probability outside [0, 1] or both 0, or no letter.
        """
        letters = [one.strip().strip("()") for one in matching]
        a, b = (torch.tensor(list(p), dtype=torch.float64) for p in (p_a, p_b))
        check_given(a, b, letters, convention)
        is_a = torch.tensor([letter == "A" for letter in letters])
        known = torch.tensor([letter in ("A", "B") for letter in letters])
        nan = torch.full_like(a, float("nan"))
        positive = torch.where(known, torch.where(is_a, a, b), nan)
        negative = torch.where(known, torch.where(is_a, b, a), nan)
        share = torch.where(known, positive / (a + b), torch.zeros_like(a))
        ids = tuple(str(i) for i in range(len(letters)))
        return cls(ScoredItems(ids, tuple(letters), positive, negative, a + b, share), "letter", convention)

    def under(self, convention: Convention) -> ChoiceScores:
        """The same items under CAA's convention: those whose matching letter is beyond A and B count as 0.

        Raises:
            DataError: The convention has no such name, or it cannot be undone.
        """
        check_convention(convention)
        if convention == self.convention:
            return self
        if convention == "own":
            raise DataError("scores under the convention 'caa' no longer hold the other letters; score the pairs again")
        beyond = torch.tensor([letter not in ("", "A", "B") for letter in self.items.letter])
        share = torch.where(beyond, 0.0, self.items.p_matching)
        return replace(self, items=replace(self.items, p_matching=share), convention=convention)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def p_matching(self) -> float:
        """Mean over items of the matching answer's share, in [0, 1]."""
        return float(self.items.p_matching.mean())

    @property
    def stderr(self) -> float:
        """Standard error of that mean over items."""
        return float(standard_error(self.items.p_matching))

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % bootstrap interval over items, seeded."""
        return bootstrap_interval(self.items.p_matching)

    @property
    def mass(self) -> float:
        """Mean probability of both answers together; where it is low, the model is about to say something else."""
        return float(self.items.mass.mean())

    @property
    def least_mass(self) -> float:
        """The smallest such mass of an item."""
        return float(self.items.mass.min())

    @property
    def accuracy(self) -> float:
        """Share of items with p(matching) above one half."""
        return float((self.items.p_matching > 0.5).double().mean())

    @property
    def beyond(self) -> int:
        """Items whose matching letter is neither A nor B."""
        return sum(letter not in ("", "A", "B") for letter in self.items.letter)

    @property
    def a_items(self) -> Figures:
        """The figures of items whose matching letter is A."""
        return self.group("A")

    @property
    def b_items(self) -> Figures:
        """The figures of items whose matching letter is B."""
        return self.group("B")

    @property
    def other_items(self) -> Figures:
        """The figures of items with another matching letter, or none."""
        return self.group("other")

    @property
    def letter_bias(self) -> float:
        """p(matching) of A-items minus that of B-items; 0 for a model that does not care for letters."""
        return self.a_items.p_matching - self.b_items.p_matching

    def group(self, name: str) -> Figures:
        """The figures of one group of letters: `"A"`, `"B"` or `"other"`."""
        chosen = letter_mask(self.items.letter, name)
        p, mass = self.items.p_matching[chosen], self.items.mass[chosen]
        if not len(p):
            return Figures(0, *[float("nan")] * 4)
        right = (p > 0.5).double().mean()
        return Figures(len(p), float(p.mean()), float(standard_error(p)), float(mass.mean()), float(right))

    def minus(self, other: ChoiceScores) -> Difference:
        """How much more the matching answer is taken here than there, item by item.

        Raises:
            DataError: The two were not scored on the same items in the same order.
        """
        if self.items.id != other.items.id or self.items.letter != other.items.letter:
            raise DataError(f"{len(self)} and {len(other)} items that are not the same; score the same pairs twice")
        return paired_difference(self.items.p_matching, other.items.p_matching)

    def table(self) -> Table:
        """What is shown of it."""
        low, high = self.interval
        head: list[Cell] = [self.p_matching, self.stderr, low, high, self.mass, self.least_mass, self.accuracy]
        rows: list[list[Cell]] = [["all", len(self), *head]]
        if any(self.items.letter):
            for name in GROUPS:
                of = self.group(name)
                cells: list[Cell] = [of.p_matching, of.stderr, None, None, of.mass, None, of.accuracy]
                rows.append([f"matching {name}", of.count, *(cells if of.count else [None] * 7)])
        title = f"choices by {self.scoring}"
        if self.beyond:
            how = "counted as 0, as CAA does" if self.convention == "caa" else "scored with their own letter"
            title += f"; {self.beyond} beyond A and B, {how}"
        return Table(COLUMNS, rows, title)

    def to_frame(self) -> DataFrame:
        """One row an item."""
        from pandas import DataFrame

        return DataFrame(self._columns())

    def to_json(self) -> str:
        """The figures and the items."""
        figures = {
            "p_matching": self.p_matching, "stderr": self.stderr, "interval": list(self.interval), "mass": self.mass,
            "least_mass": self.least_mass, "accuracy": self.accuracy, "count": len(self), "beyond": self.beyond,
            "scoring": self.scoring, "convention": self.convention, "items": self._columns(),
        }  # fmt: skip
        return json.dumps(finite(figures), ensure_ascii=False)

    def _columns(self) -> dict[str, list[Any]]:
        items = self.items
        numbers = {name: getattr(items, name).tolist() for name in ("p_positive", "p_negative", "mass", "p_matching")}
        return {"id": list(items.id), "letter": list(items.letter), **numbers}

    def plot(self) -> Any:
        """Every item by its share and its mass, coloured by the letter of its matching answer."""
        from steerkit.evaluation.charts import plot_items

        return plot_items(self.items, title=f"p(matching) {self.p_matching:.3f} ± {self.stderr:.3f}")
