from __future__ import annotations

import json

import pytest
import torch
from layered import layered
from sklearn.decomposition import PCA

from steerkit.diagnostics import principal_components
from steerkit.errors import InputError
from steerkit.store import ActivationStore, Paired


@pytest.mark.parametrize(("pairs", "hidden"), [(80, 12), (6, 40)])
def test_coordinates_are_scikit_learns_up_to_sign(pairs: int, hidden: int) -> None:
    store = layered(onset=1, layers=2, pairs=pairs, hidden=hidden)
    result = principal_components(store, count=3)
    for i, layer in enumerate(store.layers):
        acts = store[layer]
        fitted = PCA(3, svd_solver="full")
        expected = torch.from_numpy(fitted.fit_transform(torch.cat([acts.positive, acts.negative]).double().numpy()))
        ours = torch.cat([result.positive[i], result.negative[i]]).double()
        signs = (ours * expected).sum(0).sign()
        torch.testing.assert_close(ours, expected * signs, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            result.explained[i].double(), torch.from_numpy(fitted.explained_variance_ratio_), atol=1e-5, rtol=1e-4
        )


def test_positive_lies_above() -> None:
    result = principal_components(layered(onset=0, gap=8.0))
    assert bool((result.positive.mean(1) >= result.negative.mean(1)).all())
    assert bool((result.positive[:, :, 0].mean(1) > 3).all())


def test_letters_are_the_stores_and_the_other_one_for_the_other_side() -> None:
    store = layered(onset=0, layers=1, pairs=4)
    assert principal_components(store).letters == (("B", "A"), ("A", "B"), ("B", "A"), ("A", "B"))
    plain = ActivationStore.from_layers({0: store[0]})
    assert principal_components(plain).letters == ()
    given = [("C", "A"), ("A", "B"), ("B", "A"), ("A", "C")]
    figure = principal_components(plain, letters=given).plot()
    assert len(figure.data) == 2 * 3
    assert sum(len(trace.x) for trace in figure.data) == 8


def test_its_forms_agree() -> None:
    store = layered(onset=1, layers=3)
    result = principal_components(store)
    frame = result.to_frame()
    assert len(frame) == 3 * 2 * 80
    row = frame[(frame["layer"] == 2) & (frame["pair"] == "pair-5") & (frame["side"] == "negative")].iloc[0]
    assert row["component_2"] == pytest.approx(float(result.negative[2, 5, 1]))
    assert json.loads(result.to_json())["explained"][1] == pytest.approx(result.explained[1].tolist())
    figure = result.plot(layer=0)
    assert [bool(trace.visible) for trace in figure.data] == [True] * 4 + [False] * 8
    assert len(figure.layout.sliders[0].steps) == 3


def test_bad_input_is_named() -> None:
    store = layered(onset=0, layers=1, pairs=2)
    with pytest.raises(InputError, match="count=4 is not valid; 2 pairs of size 12 have 1 to 3"):
        principal_components(store, count=4)
    with pytest.raises(InputError, match="1 pairs of letters for 2 pairs"):
        principal_components(store, letters=[("A", "B")])
    with pytest.raises(InputError, match="needs two components"):
        principal_components(store, count=1).plot()
    with pytest.raises(InputError, match="layer 3 was not measured"):
        principal_components(store).plot(layer=3)


def test_equal_activations_explain_nothing() -> None:
    store = ActivationStore.from_layers({0: Paired(torch.ones(3, 4), torch.ones(3, 4))})
    assert principal_components(store).explained.tolist() == [[0.0, 0.0]]
