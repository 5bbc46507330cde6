from __future__ import annotations

import torch
from planted import planted

from steerkit.extraction import MeanDifference
from steerkit.store import Paired


def test_mean_of_differences_is_difference_of_means() -> None:
    acts, _ = planted()
    torch.testing.assert_close(MeanDifference()(acts), acts.positive.mean(0) - acts.negative.mean(0))


def test_it_is_caas_formula() -> None:
    acts, _ = planted(pairs=5)
    total = torch.zeros(16)
    for i in range(5):
        total += acts.positive[i] - acts.negative[i]
    torch.testing.assert_close(MeanDifference()(acts), total / 5)


def test_a_balanced_letter_cancels() -> None:
    letter, concept = torch.tensor([5.0, 0.0]), torch.tensor([0.0, 1.0])
    signs = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    acts = Paired(signs * letter + concept, -signs * letter - concept)
    torch.testing.assert_close(MeanDifference()(acts), 2 * concept)


def test_small_differences_of_large_activations_survive() -> None:
    acts = Paired(torch.full((4, 2), 1000.0) + torch.tensor([2**-10, 0.0]), torch.full((4, 2), 1000.0))
    assert MeanDifference()(acts).tolist() == [2**-10, 0.0]
