from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, silhouette_score

from steerkit.diagnostics.statistics import auroc, cosines, d_prime, probe_accuracy, ranks, silhouette


def two_sides(seed: int, pairs: int, *, hidden: int | None = None, steps: int = 0) -> torch.Tensor:
    shape = (2, pairs) if hidden is None else (2, pairs, hidden)
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return (values * steps).round() / steps if steps else values


@given(st.integers(0, 10**6), st.integers(1, 30), st.sampled_from([0, 1, 3]))
@settings(deadline=None, max_examples=60)
def test_auroc_is_scikit_learns_with_and_without_ties(seed: int, pairs: int, steps: int) -> None:
    positive, negative = two_sides(seed, pairs, steps=steps)
    expected = roc_auc_score([1] * pairs + [0] * pairs, torch.cat([positive, negative]).numpy())
    assert auroc(positive, negative)[0] == pytest.approx(expected, abs=1e-12)


@given(st.integers(0, 10**6), st.integers(1, 20))
@settings(deadline=None, max_examples=30)
def test_swapping_labels_equals_counting_again(seed: int, pairs: int) -> None:
    positive, negative = two_sides(seed, pairs, steps=2)
    swaps = torch.randint(0, 2, (5, pairs), generator=torch.Generator().manual_seed(seed)).float()
    observed, null = auroc(positive, negative, swaps=swaps)
    for swap, value in zip(swaps.bool(), null.tolist(), strict=True):
        again, _ = auroc(torch.where(swap, negative, positive), torch.where(swap, positive, negative))
        assert value == pytest.approx(again, abs=1e-12)
    assert auroc(negative, positive)[0] == pytest.approx(1 - observed, abs=1e-12)


def test_equal_values_share_their_rank() -> None:
    assert ranks(torch.tensor([1.0, 1.0, 0.0, 1.0])).tolist() == [3.0, 3.0, 1.0, 3.0]


def test_d_prime_of_gaussians() -> None:
    rng = torch.Generator().manual_seed(0)
    positive = 2.0 + 1.5 * torch.randn(200_000, generator=rng)
    negative = -1.0 + 0.5 * torch.randn(200_000, generator=rng)
    assert d_prime(positive, negative) == pytest.approx(3.0 / math.sqrt((1.5**2 + 0.5**2) / 2), rel=0.01)


def test_auroc_and_d_prime_agree_on_gaussians() -> None:
    """With equal variances AUROC = Phi(d' / sqrt 2)."""
    positive, negative = torch.randn(2, 100_000) + torch.tensor([[1.2], [0.0]])
    expected = 0.5 * (1 + math.erf(1.2 / 2))
    assert auroc(positive, negative)[0] == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize("values", [torch.ones(1), torch.ones(5)])
def test_d_prime_without_spread_does_not_exist(values: torch.Tensor) -> None:
    assert math.isnan(d_prime(values, values - 1))


@pytest.mark.parametrize(("pairs", "hidden"), [(2, 3), (25, 4), (10, 50)])
def test_silhouette_is_scikit_learns(pairs: int, hidden: int) -> None:
    positive, negative = two_sides(1, pairs, hidden=hidden)
    positive = positive + 1.0
    expected = silhouette_score(torch.cat([positive, negative]).double().numpy(), [1] * pairs + [0] * pairs)
    assert silhouette(positive, negative) == pytest.approx(expected, abs=1e-9)


def test_silhouette_survives_a_large_common_offset() -> None:
    positive, negative = two_sides(2, 20, hidden=5)
    plain = silhouette(positive + 1, negative)
    assert silhouette(positive + 1 + 1000, negative + 1000) == pytest.approx(plain, abs=1e-3)


def test_cosines_are_bounded_and_zero_for_nothing() -> None:
    rows = torch.tensor([[1e-20, 0.0], [-3e18, 0.0], [0.0, 0.0], [1.0, 1.0]])
    torch.testing.assert_close(cosines(rows, torch.tensor([2.0, 0.0])), torch.tensor([1.0, -1.0, 0.0, 0.5**0.5]))


def test_probe_finds_what_is_there_and_nothing_else() -> None:
    positive, negative = two_sides(3, 200, hidden=10)
    assert probe_accuracy(positive, negative) == pytest.approx(0.5, abs=0.07)
    shifted = positive.clone()
    shifted[:, 0] += 3
    assert probe_accuracy(shifted, negative) == pytest.approx(0.933, abs=0.03)


def test_probe_is_judged_on_pairs_it_has_not_seen() -> None:
    """Far more dimensions than pairs: on its own pairs any probe is perfect; on others this one is at chance."""
    positive, negative = two_sides(4, 40, hidden=2000)
    assert probe_accuracy(positive, negative) < 0.65


def test_both_sides_of_a_pair_go_to_one_fold() -> None:
    """Each pair has its own large signature, on both sides: a probe that saw the other side would be fooled by it."""
    positive, negative = two_sides(5, 30, hidden=40)
    signature = 50 * torch.eye(40)[:30]
    assert probe_accuracy(positive + signature, negative + signature) == pytest.approx(0.5, abs=0.15)
