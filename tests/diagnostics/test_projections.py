from __future__ import annotations

import json

import pytest
import torch
from layered import layered

from steerkit.diagnostics import projection
from steerkit.errors import InputError
from steerkit.extraction import extract
from steerkit.store import ActivationStore, Paired


def test_cosines_are_those_of_each_activation() -> None:
    store = layered(onset=1, layers=2)
    vector = extract(store)
    result = projection(store, vector)
    for i, layer in enumerate(store.layers):
        expected = torch.cosine_similarity(store[layer].positive, vector.at(layer).expand(80, -1))
        torch.testing.assert_close(result.positive[i], expected)


def test_pairs_the_wrong_way_round_are_named() -> None:
    store = layered(onset=0, layers=1, gap=20.0)
    vector, acts = extract(store), store[0]
    for pair in (7, 30):
        acts.positive[[pair]], acts.negative[[pair]] = acts.negative[[pair]].clone(), acts.positive[[pair]].clone()
    result = projection(ActivationStore.from_layers({0: acts}, ids=store.ids), vector)
    wrong = result.wrong(0)
    assert {name for name, _ in wrong} == {"pair-7", "pair-30"}
    assert wrong[0][1] <= wrong[1][1] < 0
    assert result.in_order.tolist() == pytest.approx([78 / 80])
    with pytest.raises(InputError, match="layer 5 was not measured"):
        result.wrong(5)


def test_its_forms_agree() -> None:
    store = layered(onset=1, layers=3)
    result = projection(store, extract(store))
    frame = result.to_frame()
    assert len(frame) == 3 * 80
    row = frame[(frame["layer"] == 2) & (frame["pair"] == "pair-5")].iloc[0]
    assert row["positive"] == pytest.approx(float(result.positive[2, 5]))
    assert json.loads(result.to_json())["negative"][2][5] == pytest.approx(float(result.negative[2, 5]))
    assert len(repr(result).splitlines()) == 2 + 3
    figure = result.plot(layer=1)
    assert [bool(trace.visible) for trace in figure.data] == [False, False, True, True, False, False]
    assert list(figure.layout.sliders[0].steps[2].args[0]["visible"]) == [False, False, False, False, True, True]
    assert "Layer 1" in figure.layout.title.text


def test_a_pair_of_equal_sides_is_not_in_order() -> None:
    store = ActivationStore.from_layers({0: Paired(torch.ones(2, 2), torch.ones(2, 2))})
    vector = extract(ActivationStore.from_layers({0: Paired(torch.ones(2, 2), torch.zeros(2, 2))}))
    assert projection(store, vector).in_order.tolist() == [0.0]
