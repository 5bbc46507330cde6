"""Which of two answers a model takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.backends.base import Batch, Model, pad
from steerkit.data.pairs import ContrastPair
from steerkit.errors import DataError
from steerkit.evaluation.questions import Question, Scoring, choose_scoring, read_questions
from steerkit.evaluation.scores import ChoiceScores


@runtime_checkable
class Scorable(Protocol):
    """What can be scored: a model, or a `Steer`."""

    def forward(self, prompts: Batch, *, columns: Sequence[int] | None = None) -> Float[Tensor, "batch pos vocab"]:
        """Logits of a forward pass; see `steerkit.backends.base.Model.forward`."""
        ...


def score_choices(
    model: Scorable,
    pairs: Sequence[ContrastPair],
    *,
    batch_size: int = 16,
    template: str | None = None,
    scoring: Scoring | None = None,
) -> ChoiceScores:
    r"""How often a model takes the answer that matches the behaviour.

    What both answers begin with is fed (for CAA's data up to `(`), and each answer's probability is read over the whole
    vocabulary: $p_+ / (p_+ + p_-)$, with the mass $p_+ + p_-$ beside it. Where the answers differ in more than one
    token, an answer's probability is that of all its tokens from the first that differs,
    $\log p = \sum_t \log p(x_t \mid x_{<t})$, without a correction for length.

    Edits act as they do in generation: those with positions `"generation"` begin at the template's last token.

    Args:
        model: A model, or a `Steer`; inside `with Steer(model)` the model itself is steered.
        pairs: Pairs with one prompt and two answers each.
        batch_size: Questions a forward pass, at least 1.
        template: A prompt template by name; left out, the pairs' own, or else the tokenizer's.
        scoring: `"letter"` reads the first token that differs, `"sequence"` all of them. Left out, it is `"letter"`
            where every pair differs in one token.

    Raises:
        DataError: No pairs, a pair without two answers to one prompt, or one that is too long; a bad batch size.

    Source: Rimsky et al. 2024 (CAA), section 4; `prompting_with_steering.py` and `get_avg_key_prob`. We differ: items
    beyond A and B are scored with their own letters (`.under("caa")` counts them as CAA does), and batches are run.

    Example:
        >>> import steerkit as sk
        >>> from steerkit.data.loading import load_pairs
        >>> scores = score_choices(sk.load("demo"), load_pairs("demo:sycophancy", split="test")[:4])
        >>> scores.scoring, len(scores), 0 < scores.mass <= 1
        ('letter', 4, True)
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise DataError(f"batch_size={batch_size!r} is not valid; give an integer of at least 1")
    if scoring is not None and scoring not in get_args(Scoring):
        raise DataError(f"scoring={scoring!r} is not known; choose 'letter' or 'sequence', or leave it out")
    plain = _underneath(model)
    questions = read_questions(pairs, plain.tokenizer, plain.info, template=template)
    by = scoring or choose_scoring(questions)
    positive = torch.zeros(len(questions), dtype=torch.float64)
    negative = torch.zeros_like(positive)
    order = list(range(len(questions)))
    if len(order) > batch_size:
        order.sort(key=lambda i: len(questions[i].shared))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = [questions[i] for i in chosen]
        positive[chosen], negative[chosen] = _letters(model, batch) if by == "letter" else _sequences(model, batch)
    return ChoiceScores.from_logs([q.id for q in questions], [q.letter for q in questions], positive, negative, by)


def _underneath(model: Any) -> Model:
    """The model that knows the tokenizer: itself, or the one that a `Steer` steers."""
    if isinstance(model, Model):
        return model
    inner = getattr(model, "model", None)
    if not isinstance(inner, Model):
        raise DataError(f"a {type(model).__name__} cannot be scored; give what steerkit.load returns, or a Steer of it")
    return inner


def _letters(model: Scorable, questions: Sequence[Question]) -> tuple[Tensor, Tensor]:
    batch = pad([one.shared for one in questions], [one.prompt_length for one in questions], pad_id=0)
    logs = _log_probabilities(model, batch, 1)[:, 0]
    rows = torch.arange(len(questions))
    chosen = [[one.positive[0], one.negative[0]] for one in questions]
    both = logs[rows.unsqueeze(1), torch.tensor(chosen)].double()
    return both[:, 0], both[:, 1]


def _sequences(model: Scorable, questions: Sequence[Question]) -> tuple[Tensor, Tensor]:
    """Both answers of each question as rows; padded on the left, so that they end together."""
    answers = [side for one in questions for side in (one.positive, one.negative)]
    shared = [one.shared for one in questions for _ in range(2)]
    lengths = [one.prompt_length for one in questions for _ in range(2)]
    rows = [(*before, *answer[:-1]) for before, answer in zip(shared, answers, strict=True)]
    logs = _log_probabilities(model, pad(rows, lengths, pad_id=0), max(len(answer) for answer in answers))
    found = [float(logs[r, range(-len(one), 0), list(one)].sum()) for r, one in enumerate(answers)]
    both = torch.tensor(found, dtype=torch.float64).view(-1, 2)
    return both[:, 0], both[:, 1]


def _log_probabilities(model: Scorable, batch: Batch, last: int) -> Float[Tensor, "batch pos vocab"]:
    width = batch.input_ids.shape[1]
    logits = model.forward(batch, columns=range(max(width - last, 0), width))
    return logits.float().log_softmax(-1).cpu()
