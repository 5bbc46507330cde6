from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from teaching_cases import TOLD, model, own_score, preferences
from torch import Tensor

from steerkit.adapters import Lora, attach
from steerkit.data.preference_sets import Preferences
from steerkit.training.fitting.fit import Fit
from steerkit.training.fitting.loop import batch_at
from steerkit.training.teaching.course import teach
from steerkit.training.teaching.lessons import Lesson, read_lessons
from steerkit.training.teaching.scit import conditional_loss, scit_step

LOG = st.floats(-6, 0)


def lessons(count: int = 4) -> list[Lesson]:
    return read_lessons(preferences(count), TOLD, model())


@given(LOG, LOG, st.floats(0, 3))
def test_the_loss_is_the_formula_of_the_paper(plus: float, minus: float, weight: float) -> None:
    loss = conditional_loss(*torch.tensor([[plus], [minus]], dtype=torch.float64), contrastive_weight=weight)
    wanted = -(plus + weight * math.log(math.exp(plus) / (math.exp(plus) + math.exp(minus))))
    assert float(loss) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("smoothing", [0.05, 0.2, 0.4])
def test_smoothing_puts_the_best_margin_at_its_logit(smoothing: float) -> None:
    grid = torch.linspace(-1, 6, 70001, dtype=torch.float64)
    terms = conditional_loss(torch.zeros_like(grid), -grid, smoothing=smoothing)
    assert float(grid[terms.argmin()]) == pytest.approx(math.log((1 - smoothing) / smoothing), abs=2e-4)
    assert bool(conditional_loss(torch.zeros_like(grid), -grid).diff().lt(0).all())


def test_a_step_is_the_mean_over_both_answers_of_every_preference() -> None:
    of, given_lessons = model(), lessons(3)
    loss, numbers = scit_step(of.run, given_lessons, contrastive_weight=0.7, smoothing=0.1)([0, 1, 2], [0, 1, 2])
    wanted, margins = [], []
    for one in given_lessons:
        for fits, other in ((one.chosen_good, one.chosen_bad), (one.rejected_bad, one.rejected_good)):
            p, n = own_score(of, fits), own_score(of, other)
            margins.append(p - n)
            smoothed = 0.9 * math.log(1 / (1 + math.exp(n - p))) + 0.1 * math.log(1 / (1 + math.exp(p - n)))
            wanted.append(-(p + 0.7 * smoothed))
    assert float(loss.detach()) == pytest.approx(sum(wanted) / 6, abs=1e-5)
    assert numbers["margin"] == pytest.approx(sum(margins) / 6, abs=1e-5)
    assert numbers["accuracy"] == pytest.approx(sum(m > 0 for m in margins) / 6)


def test_pieces_of_a_batch_add_up_to_the_batch() -> None:
    step = scit_step(model().run, lessons(4))
    whole, numbers = step([0, 1, 2, 3], [0, 1, 2, 3])
    parts = [step([i], [0, 1, 2, 3]) for i in range(4)]
    assert sum(float(loss.detach()) for loss, _ in parts) == pytest.approx(float(whole.detach()), abs=1e-5)
    for name, value in numbers.items():
        assert sum(part[name] for _, part in parts) == pytest.approx(value, abs=1e-5)


def test_swapping_instructions_and_answers_changes_nothing() -> None:
    data = preferences(4)
    turned = Preferences([type(one)(one.prompt, one.rejected, one.chosen, one.id) for one in data])
    losses = []
    for given_data, told in ((data, TOLD), (turned, TOLD.swapped), (turned, TOLD)):
        loss, _ = scit_step(model().forward, read_lessons(given_data, told, model()))([0, 1, 2, 3], [0, 1, 2, 3])
        losses.append(float(loss))
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)
    assert abs(losses[2] - losses[0]) > 1e-4


def conditional_sft(rows: Sequence[Lesson]) -> Tensor:
    """Plain fine-tuning by transformers' own loss: labels on the answer alone, one row at a time."""
    losses = []
    for one in rows:
        for row in (one.chosen_good, one.rejected_bad):
            ids = torch.tensor([row.ids])
            labels = ids.clone()
            labels[0, : row.start] = -100
            losses.append(model().hf(ids, labels=labels).loss)
    return torch.stack(losses).mean()


def test_without_the_contrast_it_is_plain_conditional_fine_tuning() -> None:
    data, fit = preferences(5), Fit(steps=3, lr=1e-2, batch=2, clip=None, seed=3)
    lora = Lora(r=2, dropout=0.0)
    ours = teach(model(), data, mode="scit", instructions=TOLD, held_out=None, contrastive_weight=0, lora=lora, fit=fit)
    told = read_lessons(data, TOLD, model())
    torch.manual_seed(3)
    with attach(model(), {"taught": lora.config(model())}) as attached, attached.only("taught"):
        parameters = attached.parameters("taught")
        optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.0)
        curve = []
        for number in range(3):
            optimizer.zero_grad()
            loss = conditional_sft([told[i] for i in batch_at(number, count=5, batch=2, seed=3)])
            loss.backward()
            optimizer.step()
            curve.append(float(loss.detach()))
        theirs = attached.adapter("taught")
    assert ours.curves["taught"].loss == pytest.approx(curve, abs=1e-5)
    assert "margin" not in ours.curves["taught"].names
    for name, tensor in theirs.weights.items():
        torch.testing.assert_close(ours.weights["taught"].weights[name], tensor, atol=1e-4, rtol=0)
