from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import cosine, planted, store_of
from torch import Tensor

from steerkit.errors import InputError, LayerError, StoreError, VectorError
from steerkit.extraction import EXTRACTORS, Extractor, LogisticProbe, MeanDifference, extract
from steerkit.store import ActivationStore, Paired

METHODS = sorted(EXTRACTORS)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("hidden", [16, 300])
def test_every_method_finds_a_planted_direction(method: str, hidden: int) -> None:
    acts, direction = planted(pairs=100, hidden=hidden, gap=6.0)
    row = extract(store_of(acts), method).at(3)
    assert cosine(row, direction) > 0.95
    assert float(row.norm()) == pytest.approx(6.0, rel=0.15)


@given(st.sampled_from(METHODS), st.integers(0, 10**6), st.integers(2, 20), st.integers(2, 30))
@settings(deadline=None, max_examples=60)
def test_swapped_sides_flip_the_vector(method: str, seed: int, pairs: int, hidden: int) -> None:
    acts, _ = planted(pairs=pairs, hidden=hidden, seed=seed)
    there = extract(store_of(acts), method)
    back = extract(store_of(Paired(acts.negative, acts.positive)), method)
    torch.testing.assert_close(there.values, -back.values, atol=2e-3, rtol=2e-3)


@given(st.sampled_from(METHODS), st.integers(0, 10**6), st.floats(0.01, 100))
@settings(deadline=None, max_examples=40)
def test_scaled_activations_scale_the_vector(method: str, seed: int, by: float) -> None:
    acts, _ = planted(pairs=12, hidden=8, seed=seed)
    scaled = extract(store_of(Paired(by * acts.positive, by * acts.negative)), method).at(3)
    torch.testing.assert_close(scaled / by, extract(store_of(acts), method).at(3), atol=2e-3, rtol=2e-3)


@given(st.sampled_from(METHODS), st.integers(0, 10**6))
@settings(deadline=None, max_examples=40)
def test_turned_activations_turn_the_vector(method: str, seed: int) -> None:
    acts, _ = planted(pairs=12, hidden=8, seed=seed)
    turn, _ = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(seed + 1)))
    turned = extract(store_of(Paired(acts.positive @ turn, acts.negative @ turn)), method).at(3)
    torch.testing.assert_close(turned, extract(store_of(acts), method).at(3) @ turn, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("method", METHODS)
def test_a_common_shift_changes_nothing(method: str) -> None:
    acts, _ = planted()
    moved = Paired(acts.positive + 7, acts.negative + 7)
    torch.testing.assert_close(
        extract(store_of(moved), method).values, extract(store_of(acts), method).values, atol=2e-3, rtol=2e-3
    )


@pytest.mark.parametrize("method", ["mean_difference", "pca", "logistic"])
def test_one_pair_is_its_own_difference(method: str) -> None:
    acts = Paired(torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]]))
    torch.testing.assert_close(extract(store_of(acts), method).at(3), torch.tensor([2.0, 1.0, 0.0]))


def test_one_pair_is_too_few_for_lda() -> None:
    with pytest.raises(VectorError, match=r"at layer 3: .*give more pairs"):
        extract(store_of(Paired(torch.ones(1, 2), torch.zeros(1, 2))), "lda")


def test_it_says_where_the_vector_comes_from() -> None:
    acts, _ = planted()
    manifest = {"model": {"name": "tiny"}, "data": {"name": "demo", "fingerprint": "ff"}, "read": "letter"}
    store = ActivationStore.from_layers({2: acts, 5: acts}, site="mlp_out", manifest=manifest)
    vector = extract(store)
    assert (vector.layers, vector.site) == ((2, 5), "mlp_out")
    facts = vector.meta
    assert {key: facts[key] for key in ("model", "data", "read", "method", "pairs")} == {
        "model": {"name": "tiny"},
        "data": {"name": "demo", "fingerprint": "ff"},
        "read": "letter",
        "method": "mean_difference",
        "pairs": 60,
    }
    both = torch.cat([acts.positive, acts.negative])
    assert facts["residual_norm"][5] == pytest.approx(float(both.norm(dim=-1).mean()), rel=1e-6)
    assert facts["gap"][5] == pytest.approx(float(vector.norms[1]), rel=1e-5)
    assert "settings" not in facts
    assert (
        extract(store, LogisticProbe(strength=0.1)).meta["settings"] == "LogisticProbe(strength=0.1, iterations=5000)"
    )


def test_layers_can_be_chosen() -> None:
    acts, _ = planted()
    store = ActivationStore.from_layers({2: acts, 5: acts})
    assert extract(store, layers=5).layers == (5,)
    with pytest.raises(LayerError, match="4"):
        extract(store, layers=[4])


def test_any_callable_will_do() -> None:
    acts, _ = planted()

    def median(acts: Paired) -> Tensor:
        return acts.difference.median(dim=0).values

    vector = extract(store_of(acts), median)
    torch.testing.assert_close(vector.at(3), acts.difference.median(dim=0).values)
    assert vector.meta["method"] == "median"
    assert isinstance(MeanDifference(), Extractor)


WRONG: list[tuple[Any, type[Exception], str]] = [
    ("mean", InputError, "method='mean' is not known; choose 'mean_difference'"),
    (MeanDifference, InputError, r"give an instance, MeanDifference\(\)"),
    (lambda acts: acts.difference, VectorError, r"returned shape \[60, 16\].*layer 3.*\[16\]"),
    (lambda acts: acts.difference.mean(0).tolist(), VectorError, "returned list at layer 3"),
    (lambda acts: acts.difference.mean(0) / 0, VectorError, "returned NaN or infinity at layer 3"),
]


@pytest.mark.parametrize(("method", "error", "message"), WRONG, ids=[message for *_, message in WRONG])
def test_a_wrong_method_is_named(method: Callable[[Paired], Tensor], error: type[Exception], message: str) -> None:
    acts, _ = planted()
    with pytest.raises(error, match=message):
        extract(store_of(acts), method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_bad_activations_are_named(method: str, value: float) -> None:
    acts, _ = planted()
    acts.negative[4, 2] = value
    with pytest.raises(StoreError, match=r"layer 3 .*negative side of 1 of 60 pairs, first in pair 'pair-4'"):
        extract(store_of(acts), method)


@pytest.mark.parametrize("method", METHODS)
def test_identical_sides_are_refused(method: str) -> None:
    with pytest.raises(VectorError, match="all 5 pairs are identical at layer 3"):
        extract(store_of(Paired(torch.ones(5, 4), torch.ones(5, 4))), method)
