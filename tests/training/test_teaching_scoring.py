from __future__ import annotations

import pytest
import torch
from teaching_cases import TOLD, model, own_score, preferences

from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.training.teaching.answers import Answered
from steerkit.training.teaching.lessons import read_lessons
from steerkit.training.teaching.scoring import mean_log_probabilities, score_rows, token_log_probabilities


def rows_of(of: HuggingFaceModel, count: int = 4) -> list[Answered]:
    return [row for one in read_lessons(preferences(count), TOLD, of) for row in one.rows]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_scoring_is_a_gather_of_log_softmax_token_by_token(architecture: str) -> None:
    of = model(architecture)
    rows = rows_of(of)
    assert len({row.start for row in rows}) > 2
    assert len({len(row.response) for row in rows}) > 1
    wanted = torch.tensor([own_score(of, row) for row in rows], dtype=torch.float64)
    with torch.no_grad():
        together = mean_log_probabilities(of.run, rows, pad_id=of.pad_id).double()
    torch.testing.assert_close(together, wanted, atol=2e-6, rtol=0)
    torch.testing.assert_close(score_rows(of.forward, rows, batch_size=3), wanted, atol=2e-6, rtol=0)


def test_the_logits_one_place_before_a_token_score_it() -> None:
    """Regression: unshifted labels score how well the current token is echoed."""
    of, (row, *_) = model(), rows_of(model())
    with torch.no_grad():
        logs = of.hf(torch.tensor([row.ids])).logits[0].log_softmax(-1)
    echoed = logs[range(row.start, len(row)), list(row.response)].mean()
    ours = mean_log_probabilities(of.forward, [row])[0]
    assert abs(float(ours) - own_score(of, row)) < 1e-5
    assert abs(float(ours - echoed)) > 0.05


def test_an_answer_is_found_after_contexts_of_any_length() -> None:
    """Regression: the places of the answer after the good instruction are not those after the bad one."""
    of = model()
    (lesson, *_) = read_lessons(preferences(2), TOLD, of)
    good, bad = lesson.chosen_good, lesson.chosen_bad
    assert good.start != bad.start
    with torch.no_grad():
        logs = of.hf(torch.tensor([bad.ids])).logits[0].log_softmax(-1)
    places = range(good.start, good.start + len(good.response))
    misplaced = sum(float(logs[place - 1, bad.ids[place]]) for place in places) / len(good.response)
    ours = float(mean_log_probabilities(of.forward, [good, bad])[1])
    assert abs(ours - own_score(of, bad)) < 1e-5
    assert abs(ours - misplaced) > 0.05


def test_only_tokens_of_the_answer_count() -> None:
    rows = rows_of(model())
    values, mask = token_log_probabilities(model().run, rows)
    assert mask.sum(-1).tolist() == [len(row.response) for row in rows]
    assert bool((values[~mask] == 0).all())
    assert bool(mask[:, -1].all())


def test_longer_neighbors_change_nothing() -> None:
    of, rows = model(), rows_of(model())
    short = min(rows, key=len)
    alone = mean_log_probabilities(of.run, [short])[0]
    longer = Answered((*range(5, 100), *short.ids), 97, 97)
    among = mean_log_probabilities(of.run, [longer, short])[1]
    torch.testing.assert_close(alone, among, atol=1e-5, rtol=0)


def test_training_gets_gradients_and_scoring_none() -> None:
    of, rows = model(), rows_of(model())
    assert mean_log_probabilities(of.run, rows).requires_grad
    assert not score_rows(of.run, rows).requires_grad
