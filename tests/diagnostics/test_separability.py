from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from layered import layered, swapped

from steerkit.diagnostics import Separation, separation
from steerkit.errors import InputError, VectorError
from steerkit.extraction import extract
from steerkit.store import ActivationStore, Paired
from steerkit.vectors import SteeringVector


def measured(*, onset: int | None, seed: int = 0) -> Separation:
    train, test = layered(onset=onset, seed=seed).split(test=0.5)
    return separation(test, extract(train))


@pytest.mark.parametrize("onset", [0, 3, 7])
def test_it_emerges_where_it_was_put(onset: int) -> None:
    result = measured(onset=onset)
    assert result.emerges == onset
    assert result.best >= onset
    assert bool((result.auroc[onset:] > 0.97).all())
    assert bool((result.d_prime[onset:] > 2.5).all())
    assert bool((result.probe_accuracy[onset:] > 0.9).all())
    assert bool((result.auroc[:onset] < 0.75).all())


def test_nothing_emerges_from_nothing_as_often_as_is_said() -> None:
    found = [measured(onset=None, seed=seed).emerges is not None for seed in range(60)]
    assert sum(found) <= 9


def test_a_dip_ends_what_has_emerged() -> None:
    result = measured(onset=2)
    low = result.auroc.clone()
    low[5] = 0.5
    assert replace(result, auroc=low).emerges == 6
    low[7] = 0.5
    assert replace(result, auroc=low).emerges is None


def test_best_is_the_largest_d_prime_where_auroc_is_full() -> None:
    result = measured(onset=2)
    full, d = torch.ones(8), torch.arange(8.0)
    d[3] = torch.nan
    assert replace(result, auroc=full, d_prime=d).best == 7
    assert replace(result, auroc=torch.eye(8)[4], d_prime=d).best == 4


def test_the_null_band_holds_shuffled_labels() -> None:
    """Sides swapped at random beforehand: the AUROC lies above the 95th percentile in about 5% of cases, below the 5th
    likewise, and the p-value is about uniform."""
    high = low = small = 0
    store = layered(onset=0, layers=1, pairs=40, gap=2.0)
    vector = extract(store)
    trials = 300
    for seed in range(trials):
        swap = torch.randint(0, 2, (40, 1), generator=torch.Generator().manual_seed(1000 + seed)).bool()
        acts = store[0]
        mixed = Paired(torch.where(swap, acts.negative, acts.positive), torch.where(swap, acts.positive, acts.negative))
        at = separation(ActivationStore.from_layers({0: mixed}), vector, permutations=100, seed=seed).at(0)
        high += at["auroc"] > at["null_high"]
        low += at["auroc"] < at["null_low"]
        small += at["p_value"] <= 0.2
    assert 0.015 * trials <= high <= 0.1 * trials
    assert 0.015 * trials <= low <= 0.1 * trials
    assert 0.12 * trials <= small <= 0.28 * trials


def test_swapped_sides_and_turned_vector_is_the_same() -> None:
    train, test = layered(onset=2, gap=1.0).split(test=0.5)
    vector = extract(train)
    there, back = separation(test, vector), separation(swapped(test), -vector)
    for name in ("auroc", "d_prime", "silhouette", "first_component", "probe_accuracy"):
        torch.testing.assert_close(getattr(there, name), getattr(back, name), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(separation(swapped(test), vector).auroc, 1 - there.auroc)
    torch.testing.assert_close(separation(test, -vector).d_prime, -there.d_prime)


def test_it_is_the_same_each_time_and_for_any_length() -> None:
    store = layered(onset=2, layers=3)
    vector = extract(store)
    first, again = separation(store, vector), separation(store, 7.5 * vector)
    assert first.to_json() == again.to_json()


def test_a_layer_where_nothing_differs_is_at_chance() -> None:
    same = torch.randn(20, 4)
    store = ActivationStore.from_layers({0: Paired(same, same)})
    at = separation(store, SteeringVector(torch.ones(4), layers=0)).at(0)
    assert (at["auroc"], at["probe_accuracy"], at["p_value"]) == (0.5, 0.5, 1.0)
    assert "null" in separation(store, SteeringVector(torch.ones(4), layers=0)).to_json()


def test_only_common_layers_are_measured() -> None:
    store = layered(onset=0)
    assert separation(store.select([1, 2, 5]), extract(store, layers=[2, 5, 7])).layers == (2, 5)


def test_what_does_not_belong_together_is_refused() -> None:
    store = layered(onset=0)
    with pytest.raises(VectorError, match="recorded at resid_post, the vector belongs to mlp_out"):
        separation(store, SteeringVector(torch.ones(12), layers=0, site="mlp_out"))
    with pytest.raises(VectorError, match="hidden size 12, the vector 5"):
        separation(store, SteeringVector(torch.ones(5), layers=0))
    with pytest.raises(InputError, match="none in common"):
        separation(store, SteeringVector(torch.ones(12), layers=99))
    with pytest.raises(InputError, match="permutations=3 is too few"):
        separation(store, extract(store), permutations=3)
    with pytest.raises(VectorError, match="layer 1 is zero"):
        separation(store, SteeringVector(torch.eye(12)[:2] * torch.tensor([[1.0], [0.0]]), layers=[0, 1]))
    with pytest.raises(InputError, match="layer 40 was not measured"):
        separation(store, extract(store)).at(40)


def test_its_forms_agree() -> None:
    result = measured(onset=3)
    frame, content = result.to_frame(), json.loads(result.to_json())
    assert frame["layer"].tolist() == list(result.layers) == content["layer"]
    assert frame["auroc"].tolist() == content["auroc"] == result.auroc.tolist()
    assert content["emerges"] == 3
    text = repr(result)
    assert "emerges at layer 3" in text
    assert len(text.splitlines()) == 2 + len(result.layers)
    assert result._repr_html_().startswith("<table")
    figure = result.plot()
    assert [trace.name for trace in figure.data][1] == "AUROC along the vector"
    assert list(figure.data[1].y) == pytest.approx(result.auroc.tolist())
    assert "from layer 3 on" in figure.layout.title.text
