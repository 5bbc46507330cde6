"""Answers side by side: the model as it is, and steered in several ways."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch

from steerkit.backends.base import Model
from steerkit.data.chat import PromptLike, as_prompts
from steerkit.data.pairs import prompt_text
from steerkit.errors import DataError
from steerkit.evaluation.conventions import finite
from steerkit.evaluation.intervals import Difference, paired_difference, standard_error
from steerkit.tables import Cell, html_table, text_table

if TYPE_CHECKING:
    from pandas import DataFrame

Score = Callable[[str, str], float | None]
"""From a prompt and its answer a number, or `None` where the answer cannot be scored."""

UNSTEERED = "unsteered"
WIDTH = 44


@runtime_checkable
class Generator(Protocol):
    """What answers: a model, or a `Steer`."""

    def generate(
        self, prompts: PromptLike | Sequence[PromptLike], *, max_new_tokens: int = 64, **decoding: Any
    ) -> list[str]:
        """The answers, without their prompts; see `steerkit.backends.base.Model.generate`."""
        ...


@dataclass(frozen=True)
class ScoredAnswers:
    """What a scorer makes of one column of answers.

    Args:
        values: One number an answer; `None` where it could not be scored.
        mean: Over those that could; NaN without any.
        stderr: Its standard error.
        parsed: Share of answers that could be scored.
    """

    values: tuple[float | None, ...]
    mean: float
    stderr: float
    parsed: float


@dataclass(frozen=True, repr=False)
class Generations:
    """Answers by prompt and by way of steering.

    Args:
        prompts: What was asked.
        answers: By name, one answer a prompt; `"unsteered"` comes first.
        scores: By name, what the scorer made of them; empty without one.
    """

    prompts: tuple[str, ...]
    answers: Mapping[str, tuple[str, ...]]
    scores: Mapping[str, ScoredAnswers] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prompts)

    def minus(self, name: str, other: str = UNSTEERED) -> Difference:
        """How much higher one column scores than another, over the prompts that both could be scored on.

        Raises:
            DataError: No such column, no scores, or no prompt with both.
        """
        for column in (name, other):
            if column not in self.scores:
                raise DataError(f"no scores for {column!r}; there are {list(self.scores) or 'none, give score='}")
        both = zip(self.scores[name].values, self.scores[other].values, strict=True)
        kept = [(a, b) for a, b in both if a is not None and b is not None]
        if not kept:
            raise DataError(f"no prompt has a score for both {name!r} and {other!r}")
        after, before = torch.tensor(kept, dtype=torch.float64).T
        return paired_difference(after, before)

    def _summary(self) -> tuple[list[str], list[list[Cell]]]:
        rows: list[list[Cell]] = []
        for name, of in self.scores.items():
            change = self._change(name)
            rows.append([name, of.mean, of.stderr, of.parsed, *change])
        return ["answers", "score", "±", "scored", "less unsteered", "± "], rows

    def _change(self, name: str) -> list[Cell]:
        try:
            difference = self.minus(name)
        except DataError:
            return [None, None]
        return [difference.mean, difference.stderr]

    def _rows(self, shorten: Callable[[str], str]) -> list[list[Cell]]:
        return [
            [shorten(prompt), *(shorten(column[i]) for column in self.answers.values())]
            for i, prompt in enumerate(self.prompts)
        ]

    def __repr__(self) -> str:
        table = text_table(["prompt", *self.answers], self._rows(_short))
        return f"{table}\n\n{text_table(*self._summary())}" if self.scores else table

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(name)}</th>" for name in ("prompt", *self.answers))
        body = "".join(
            "<tr>"
            + "".join(f'<td style="text-align:left;white-space:pre-wrap">{escape(str(c))}</td>' for c in row)
            + "</tr>"
            for row in self._rows(str)
        )
        table = f'<table class="steerkit generations"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        return table + (html_table(*self._summary()) if self.scores else "")

    def to_frame(self) -> DataFrame:
        """One row a prompt, one column a way of steering, and its scores beside it."""
        from pandas import DataFrame

        scored = {f"{name} score": list(of.values) for name, of in self.scores.items()}
        return DataFrame({"prompt": list(self.prompts), **{k: list(v) for k, v in self.answers.items()}, **scored})

    def to_json(self) -> str:
        """Prompts, answers and scores."""
        scores = {
            name: {"mean": of.mean, "stderr": of.stderr, "parsed": of.parsed, "values": list(of.values)}
            for name, of in self.scores.items()
        }
        answers = {name: list(column) for name, column in self.answers.items()}
        return json.dumps(finite({"prompts": list(self.prompts), "answers": answers, "scores": scores}))

    def plot(self) -> Any:
        """The mean score of every column with its 95 % interval.

        Raises:
            DataError: No scorer was given.
        """
        if not self.scores:
            raise DataError("there is nothing to plot: no scores; give score= to compare")
        from steerkit.evaluation.charts import plot_scores

        return plot_scores(self.scores)


def compare(
    model: Model,
    prompts: PromptLike | Sequence[PromptLike],
    steers: Mapping[str, Generator | None],
    *,
    max_new_tokens: int = 64,
    batch_size: int = 16,
    score: Score | None = None,
) -> Generations:
    """Answers of the model as it is and under each `Steer`, side by side; decoding is greedy.

    Args:
        model: The model as it is.
        prompts: What is asked.
        steers: By name a `Steer`, or any other thing that generates; `None` stands for the model as it is.
        max_new_tokens: The most tokens of an answer, at least 1.
        batch_size: Prompts at a time, at least 1.
        score: A number for a prompt and its answer, or `None` where the answer cannot be scored. The mean, its standard
            error and the share that was scored are kept.

    Raises:
        DataError: No prompts, a prompt that is too long, or a bad batch size; or one of `steers` does not generate.

    Source: Rimsky et al. 2024 (CAA), section 4.2: open-ended answers, greedy. We differ: the scorer is yours, and what
    it could not score is counted.

    Example:
        >>> import steerkit as sk
        >>> model = sk.load("demo")
        >>> found = compare(model, "Is the sea dry?", {"again": None}, max_new_tokens=4, score=lambda _, a: len(a))
        >>> found.answers["again"] == found.answers["unsteered"], found.scores["again"].parsed
        (True, 1.0)
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise DataError(f"batch_size={batch_size!r} is not valid; give an integer of at least 1")
    for name, steer in steers.items():
        if steer is not None and not isinstance(steer, Generator):
            raise DataError(
                f"steers[{name!r}] is a {type(steer).__name__}; give a Steer, or None for the model as it is"
            )
    asked = as_prompts(prompts)
    named: dict[str, Generator] = {UNSTEERED: model}
    named.update({name: model if steer is None else steer for name, steer in steers.items()})
    answers: dict[str, tuple[str, ...]] = {}
    for name, one in named.items():
        found: list[str] = []
        for start in range(0, len(asked), batch_size):
            some = asked[start : start + batch_size]
            found += one.generate(some, max_new_tokens=max_new_tokens, do_sample=False)
        answers[name] = tuple(found)
    texts = tuple(prompt_text(prompt) for prompt in asked)
    scores = {} if score is None else {name: _score(texts, column, score) for name, column in answers.items()}
    return Generations(texts, answers, scores)


def _score(prompts: Sequence[str], answers: Sequence[str], score: Score) -> ScoredAnswers:
    values = tuple(score(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True))
    known = torch.tensor([float(value) for value in values if value is not None], dtype=torch.float64)
    mean = float(known.mean()) if len(known) else float("nan")
    return ScoredAnswers(values, mean, float(standard_error(known)), len(known) / len(values))


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= WIDTH else flat[: WIDTH - 3] + "..."
