"""Vectors from running statistics are those from the rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import planted
from torch import Tensor

from steerkit.errors import StoreError, VectorError
from steerkit.extraction import PCA, LinearDiscriminant, MeanDifference, extract
from steerkit.store import ActivationStore, Paired
from steerkit.store.statistics import Moments, merge_all

SUMMED: dict[str, Any] = {"mean_difference": MeanDifference(), "pca": PCA(), "lda": LinearDiscriminant()}


def summed(acts: Paired, *, keep: Any = "covariance", parts: int = 3) -> Moments:
    """As recording does it: shard by shard."""
    cuts = [part for part in torch.arange(len(acts)).chunk(parts) if len(part)]
    return merge_all(Moments.of(Paired(acts.positive[i], acts.negative[i]), keep=keep) for i in cuts)


def close(found: Tensor, wanted: Tensor) -> None:
    assert float((found.double() - wanted.double()).norm() / wanted.double().norm()) < 1e-6


@given(st.sampled_from(sorted(SUMMED)), st.integers(0, 10**6), st.integers(3, 40), st.integers(2, 24))
@settings(deadline=None, max_examples=80)
def test_from_statistics_is_from_rows(method: str, seed: int, pairs: int, hidden: int) -> None:
    acts, _ = planted(pairs=pairs, hidden=hidden, seed=seed, gap=6.0)
    acts = Paired(acts.positive + 30, acts.negative + 30)  # a residual stream is nowhere near the origin
    found = SUMMED[method].from_moments(summed(acts), sure=True)
    assert found is not None
    close(found, SUMMED[method](acts))


def test_means_are_too_little_for_pca_and_lda() -> None:
    moments = summed(planted()[0], keep="mean")
    assert PCA().from_moments(moments) is None
    assert LinearDiscriminant().from_moments(moments) is None
    assert MeanDifference().from_moments(moments) is not None


def test_pca_knows_when_it_cannot_know_the_majority() -> None:
    """One very long pair turns the mean; the rows say that three others point the other way."""
    differences = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, -0.1], [-9.0, 0.0]])
    acts = Paired(differences, torch.zeros(4, 2))
    assert PCA().from_moments(summed(acts), sure=True) is None
    by_mean = PCA().from_moments(summed(acts), sure=False)
    assert by_mean is not None
    close(by_mean, -PCA()(acts))


@given(st.integers(0, 10**6), st.integers(2, 30), st.floats(0, 3))
@settings(deadline=None, max_examples=80)
def test_where_pca_is_sure_the_sign_is_that_of_the_rows(seed: int, pairs: int, gap: float) -> None:
    acts, _ = planted(pairs=pairs, hidden=3, gap=gap, noise=1.0, seed=seed)
    found = PCA().from_moments(summed(acts), sure=True)
    if found is not None:
        assert float(found @ PCA()(acts)) > 0


class Summed(ActivationStore):
    """A store that has statistics, and counts how often its rows are read."""

    reads = 0

    def statistics(self, layer: int) -> Moments | None:
        return summed(super().paired(layer))

    def paired(self, layer: int) -> Paired:
        self.reads += 1
        return super().paired(layer)


def store(acts: Paired, **manifest: Any) -> Summed:
    made = ActivationStore.from_layers({3: acts})
    return Summed(made._source, {**made.manifest, **manifest}, index=made._given_index)


@pytest.mark.parametrize("method", [*sorted(SUMMED), "logistic"])
def test_rows_are_read_only_where_statistics_are_not_enough(method: str) -> None:
    acts, _ = planted()
    given = store(acts)
    vector = extract(given, method)
    assert given.reads == (method == "logistic")
    plain = extract(ActivationStore.from_layers({3: acts}), method)
    close(vector.at(3), plain.at(3))
    for name in ("residual_norm", "gap"):
        assert vector.meta[name][3] == pytest.approx(plain.meta[name][3], rel=1e-6)


def test_pca_reads_the_rows_where_the_sign_is_open() -> None:
    acts = Paired(torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, -0.1], [-9.0, 0.0]]), torch.zeros(4, 2))
    given = store(acts)
    close(extract(given, "pca").at(3), PCA()(acts))
    assert given.reads == 1


def test_identical_sides_are_seen_in_statistics() -> None:
    with pytest.raises(VectorError, match="all 5 pairs are identical at layer 3"):
        extract(store(Paired(torch.ones(5, 4), torch.ones(5, 4))))


def test_a_store_without_rows_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    acts, _ = planted()
    means = summed(acts, keep="mean")
    monkeypatch.setattr(Summed, "statistics", lambda self, layer: means)
    with pytest.raises(StoreError, match=r"PCA needs more than the means, .*statistics='covariance'"):
        extract(store(acts, keep="statistics"), PCA())
    with pytest.raises(StoreError, match="keeps statistics and no rows"):
        extract(store(acts, keep="statistics"), "logistic")
