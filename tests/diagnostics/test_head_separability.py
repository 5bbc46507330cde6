from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from steerkit.diagnostics import HeadSeparation, head_separation, layer_similarity, separation
from steerkit.diagnostics.head_probes import probe_heads
from steerkit.errors import InputError, VectorError
from steerkit.extraction import extract
from steerkit.store import ActivationStore, Paired
from steerkit.vectors import SteeringVector

HEADS, SIZE = 4, 6
SEPARATE = ((1, 2, 4.0), (3, 0, 1.2))


def store(pairs: int = 60, *, seed: int = 0, gaps: Any = SEPARATE) -> ActivationStore:
    """Noise at two layers, with a gap between the sides in some heads."""
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    for layer in (1, 3):
        both = torch.randn(2, pairs, HEADS * SIZE, generator=generator)
        for at, head, gap in gaps:
            if at == layer:
                both[0, :, head * SIZE] += gap
        layers[layer] = Paired(both[0], both[1])
    return ActivationStore.from_layers(layers, site="z", manifest={"heads": HEADS})


def by_hand(positive: Tensor, negative: Tensor, *, folds: int = 5, seed: int = 0) -> float:
    """One probe a fold, fitted from scratch with scikit-learn's covariance."""
    n = len(positive)
    right = 0
    for held in torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tensor_split(folds):
        kept = torch.tensor([i not in held.tolist() for i in range(n)])
        rows = torch.cat([positive[kept], negative[kept]]).double()
        center = rows.mean(0)
        covariance = torch.tensor(ledoit_wolf((rows - center).numpy(), assume_centered=True)[0])
        weights = torch.linalg.solve(covariance, (positive[kept] - negative[kept]).double().mean(0))
        right += int(((positive[held].double() - center) @ weights > 0).sum())
        right += int(((negative[held].double() - center) @ weights < 0).sum())
    return right / (2 * n)


def test_every_probe_and_every_swap_is_the_one_fitted_alone() -> None:
    acts = store().paired(1)
    sides = [side.reshape(60, HEADS, SIZE) for side in (acts.positive, acts.negative)]
    swaps = torch.randint(0, 2, (20, 60)).float()
    accuracy, null, margins = probe_heads(*sides, swaps=swaps)
    assert margins.shape == (2, HEADS, 60)
    for head in range(HEADS):
        a, b = sides[0][:, head], sides[1][:, head]
        assert float(accuracy[head]) == pytest.approx(by_hand(a, b))
        for number in (0, 7, 19):
            swapped = swaps[number].bool().unsqueeze(1)
            alone = by_hand(torch.where(swapped, b, a), torch.where(swapped, a, b))
            assert float(null[number, head]) == pytest.approx(alone)


def test_planted_heads_are_found_and_noise_is_not() -> None:
    found = head_separation(store())
    assert found.top(2) == [(1, 2), (3, 0)]
    assert found.above == [(1, 2), (3, 0)]
    assert found.at(1, 2)["accuracy"] > 0.9
    assert found.at(1, 2)["d_prime"] == pytest.approx(4.0, abs=0.8)
    assert found.at(3, 0)["p_value"] == pytest.approx(1 / 201)
    assert found.at(1, 2)["p_value"] < 0.01 < found.at(3, 3)["p_value"]
    assert found.chance_best >= float(found.null_high.max())


def test_noise_is_above_the_best_by_chance_in_one_of_twenty_cases() -> None:
    stores = [store(30, seed=seed, gaps=()) for seed in range(60)]
    hits = sum(bool(head_separation(one, permutations=60, seed=seed).above) for seed, one in enumerate(stores))
    assert hits <= 9
    alone = [float((head_separation(one, permutations=60).p_value < 0.05).float().mean()) for one in stores[:20]]
    assert sum(alone) / len(alone) < 0.12


def test_a_vector_is_asked_about_head_by_head() -> None:
    train, held_out = store().split(test=0.5, seed=0)
    vector = extract(train)
    found = head_separation(held_out, vector)
    assert found.auroc is not None
    part = held_out.select(3)
    alone = {3: Paired(*(side.reshape(30, HEADS, SIZE)[:, 0] for side in (part[3].positive, part[3].negative)))}
    same = separation(ActivationStore.from_layers(alone), SteeringVector(vector.head(3, 0), layers=3))
    assert found.at(3, 0)["auroc"] == pytest.approx(float(same.auroc[0]))
    assert found.top(1) == found.top(1, by="auroc") == [(1, 2)]
    chosen = head_separation(held_out, vector.heads([(3, 0)]))
    assert chosen.layers == (3,)
    assert chosen.auroc is not None
    assert chosen.auroc.isnan().tolist() == [[False, True, True, True]]
    assert chosen.top(1, by="auroc") == [(3, 0)]


def test_heads_go_into_a_vector() -> None:
    data = store()
    vector = extract(data).heads(head_separation(data).top(2))
    assert vector.chosen_heads == ((1, 2), (3, 0))
    assert separation(data, vector).at(1)["auroc"] > 0.9


def test_a_dead_head_is_at_chance() -> None:
    acts = store().paired(1)
    for side in (acts.positive, acts.negative):
        side[:, :SIZE] = 0
    found = head_separation(ActivationStore.from_layers({1: acts}, site="z", manifest={"heads": HEADS}))
    assert found.at(1, 0)["accuracy"] == 0.5


def test_it_shows_itself() -> None:
    found = head_separation(store())
    text = repr(found)
    assert text.startswith("Separation of 60 pairs by head: 2 of 8 heads above the best one by chance (")
    assert len(found.to_frame()) == 8
    data = json.loads(found.to_json())
    assert data["above"] == [[1, 2], [3, 0]]
    assert len(data["accuracy"]) == len(data["layer"]) == 8
    figure = found.plot()
    assert torch.allclose(torch.tensor(figure.data[0].z), found.accuracy)
    assert "2 of 8 heads" in figure.layout.title.text
    many = HeadSeparation(tuple(range(8)), 9, 20, *[torch.rand(8, 8) for _ in range(4)], chance_best=0.5)
    assert len(repr(many).splitlines()) == 15
    assert "52 more heads" in repr(many)


ANY = SteeringVector(torch.ones(2, 24), layers=[1, 3], site="z")
BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: head_separation(ActivationStore.from_layers({1: Paired(torch.ones(4, 2), torch.zeros(4, 2))})),
     InputError, "recorded at resid_post, where heads are already mixed"),
    (lambda: head_separation(ActivationStore.from_layers(
        {1: Paired(torch.ones(4, 2), torch.zeros(4, 2))}, site="z")), InputError, "does not know how many heads"),
    (lambda: ActivationStore.from_layers({1: Paired(torch.ones(4, 2), torch.zeros(4, 2))}, site="z",
                                         manifest={"heads": 3}), InputError, "width 2 do not hold 3 heads"),
    (lambda: head_separation(store(), permutations=5), InputError, "permutations=5 is too few"),
    (lambda: head_separation(store(3)), InputError, "3 pairs are too few"),
    (lambda: head_separation(store(), SteeringVector(torch.ones(24), layers=1)), VectorError, "recorded at z"),
    (lambda: head_separation(store(), SteeringVector(torch.ones(8), layers=1, site="z")), VectorError, "width 24"),
    (lambda: head_separation(store(), SteeringVector(torch.ones(24), layers=1, site="z", meta={"heads": 2})),
     VectorError, "holds 4 heads a layer, the vector 2"),
    (lambda: head_separation(store(), ANY.select(1)).at(3, 0), InputError, "head 0 of layer 3 was not measured"),
    (lambda: head_separation(store()).at(1, 4), InputError, "head 4 of layer 1 was not measured"),
    (lambda: head_separation(store()).top(0), InputError, "there are 8 heads"),
    (lambda: head_separation(store()).top(9), InputError, "there are 8 heads"),
    (lambda: head_separation(store()).top(1, by="auroc"), InputError, "needs a vector"),
    (lambda: head_separation(store()).top(1, by="d_prime"), InputError, "by='d_prime' is not valid"),
    (lambda: layer_similarity(ANY, SteeringVector(torch.ones(24), layers=1)), VectorError, "z and resid_post"),
]  # fmt: skip


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(("make", "error", "message"), BAD, ids=[message for *_, message in BAD])
def test_bad_input_is_named(make: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
