"""A steering vector from preferences, with the layer and the strength that suit them best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.data.chat import Prompt
from steerkit.data.pairs import ContrastPair, Pairs, Side
from steerkit.data.preference_items import Preference
from steerkit.data.preference_sets import Preferences
from steerkit.errors import DataError
from steerkit.extraction import extract
from steerkit.recording import record
from steerkit.steering import Steer
from steerkit.training.teaching.answers import Answered, end_token, read_answered
from steerkit.training.teaching.scoring import Run, score_rows
from steerkit.vectors import SteeringVector

COEFS = (0.25, 0.5, 1.0, 2.0)
MOST_LAYERS = 8
MOST_PREFERENCES = 48
MOST_LOSS = 0.1
"""Nats a token by which chosen answers may become less likely; beyond it a model begins to lose its language."""
NEARLY = 0.05
"""How much smaller a share may be for a weaker push."""


@dataclass(frozen=True)
class Hook:
    r"""An edit that was chosen.

    Args:
        vector: Of the preferences, at all layers.
        layer: Where it is added.
        coef: How strongly.
        positions: At which tokens.
        share: Mean over preferences of $\sigma(\log p(y^+) - \log p(y^-))$, the chosen answer's share of both.
        likelihood: Mean log-probability of a token of the chosen answers.
    """

    vector: SteeringVector
    layer: int
    coef: float
    positions: Literal["generation", "all"]
    share: float
    likelihood: float

    def on(self, model: HuggingFaceModel) -> Steer:
        """The model with the edit, beside the model itself."""
        return Steer(model).add(self.vector, layer=self.layer, coef=self.coef, positions=self.positions)


def as_choices(preferences: Sequence[Preference]) -> Pairs:
    r"""Preferences as questions with two options, in the form of CAA's data; the chosen answer is A and B in turn.

    Raises:
        DataError: A prompt is no conversation, so that options have no place in it.

    Example:
        >>> asked = Prompt([{"role": "user", "content": "Is the sea dry?"}])
        >>> (pair,) = as_choices([Preference(asked, "No.", "Yes.")])
        >>> pair.positive.prompt.content[0]["content"], pair.positive.answer
        ('Is the sea dry?\n\nChoices:\n (A) No.\n (B) Yes.', '(A)')
    """
    return Pairs([_choice(one, number) for number, one in enumerate(preferences)], name="choices", format="caa")


def _choice(one: Preference, number: int) -> ContrastPair:
    if isinstance(one.prompt.content, str):
        raise DataError(f"the prompt of preference {one.id!r} is plain text; only conversations take options")
    options = (one.chosen, one.rejected) if number % 2 == 0 else (one.rejected, one.chosen)
    letter, other = ("(A)", "(B)") if number % 2 == 0 else ("(B)", "(A)")
    *before, last = one.prompt.content
    said = f"{last['content']}\n\nChoices:\n (A) {options[0].strip()}\n (B) {options[1].strip()}"
    question = Prompt([*before, {**last, "content": said}])
    return ContrastPair(Side(question, letter), Side(question, other), id=one.id)


def preference_vector(model: HuggingFaceModel, preferences: Preferences) -> SteeringVector:
    """CAA on preferences: the mean difference of the states at the letter of the chosen and of the rejected option.

    Prompts of plain text have no place for options. There it is the mean over the chosen answers' tokens less that over
    the rejected answers'.
    """
    if all(one.prompt.is_chat for one in preferences):
        return extract(record(model, as_choices(preferences), progress=False))
    return extract(record(model, preferences.pairs(), read="mean", progress=False))


def choose_hook(
    model: HuggingFaceModel,
    vector: SteeringVector,
    preferences: Sequence[Preference],
    *,
    positions: Literal["generation", "all"] = "generation",
    coefs: Sequence[float] = COEFS,
) -> Hook:
    """The layer and strength that raise the chosen answers most over the rejected ones, and do not break the model.

    Of all cells in which a token of a chosen answer becomes at most 0.1 nats less likely, the one with the largest
    share; but a weaker push whose share is nearly as large is taken first, for it disturbs less of what else is said.
    Without such a cell, the one that does least harm.

    Args:
        model: The model.
        vector: A concept at several layers.
        preferences: Others than those that the vector was made from; the first 48 are used.
        positions: At which tokens it is added.
        coefs: Strengths to try.

    Raises:
        DataError: No preferences, or one that cannot be read.
    """
    some = list(preferences)[:MOST_PREFERENCES]
    if not some:
        raise DataError("no preferences to choose a layer by; give at least one")
    rows = [row for one in some for row in _rows(model, one)]
    _, unsteered = _measure(model.forward, rows, model.pad_id)
    every = max(1, -(-len(vector.layers) // MOST_LAYERS))
    found = []
    for layer in vector.layers[::-1][::every]:
        for coef in coefs:
            steer = Steer(model).add(vector, layer=layer, coef=coef, positions=positions)
            share, likelihood = _measure(steer.forward, rows, model.pad_id)
            found.append(Hook(vector, layer, float(coef), positions, share, likelihood))
    unharmed = [one for one in found if one.likelihood >= unsteered - MOST_LOSS]
    if not unharmed:
        return max(found, key=lambda one: one.likelihood)
    most = max(one.share for one in unharmed)
    return min((one for one in unharmed if one.share >= most - NEARLY), key=lambda one: (abs(one.coef), -one.share))


def _rows(model: HuggingFaceModel, one: Preference) -> tuple[Answered, Answered]:
    end = end_token(model.tokenizer, chat=one.prompt.is_chat)
    good, bad = (read_answered(one.prompt, text, model.tokenizer, end=end) for text in (one.chosen, one.rejected))
    return good, bad


def _measure(run: Run, rows: Sequence[Answered], pad_id: int) -> tuple[float, float]:
    means = score_rows(run, rows, batch_size=32, pad_id=pad_id).view(-1, 2)
    sums = means * torch.tensor([len(row.response) for row in rows], dtype=means.dtype).view(-1, 2)
    return float(torch.sigmoid(sums[:, 0] - sums[:, 1]).mean()), float(means[:, 0].mean())
