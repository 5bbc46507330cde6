from __future__ import annotations

import json

import pytest
import torch

from steerkit.errors import DataError, LayerError
from steerkit.evaluation.grids import Sweep
from steerkit.evaluation.questions import Question

COEFS = (-1.0, 0.0, 1.0)


def made(p: torch.Tensor, *, letters: str = "ABAB", mass: float = 1.0, coefs: tuple[float, ...] = COEFS) -> Sweep:
    """A grid from p(matching) by variant and item: the unsteered one first."""
    questions = [Question(str(i), letter, (1,), 1, (2,), (3,)) for i, letter in enumerate(letters)]
    logs = ((mass * p).double().log(), (mass * (1 - p)).double().log())
    layers = range((len(p) - 1) // len([c for c in coefs if c]))
    return Sweep.from_variants(list(layers), coefs, questions, logs, how=("packed", "as asked", 0.0))


def test_cells_stand_where_they_belong() -> None:
    p = torch.linspace(0.1, 0.9, 7 * 4).view(7, 4)
    grid = made(p)
    assert grid.layers == (0, 1, 2)
    for layer in range(3):
        assert torch.allclose(grid.items[layer, 0].float(), p[1 + 2 * layer])
        assert torch.allclose(grid.items[layer, 1].float(), p[0])
        assert torch.allclose(grid.items[layer, 2].float(), p[2 + 2 * layer])
    cell = grid.at(layer=1, coef=1)
    assert cell.p_matching == pytest.approx(float(p[4].mean()), abs=1e-6)
    assert cell.stderr == pytest.approx(float(grid.stderr[1, 2]))
    assert grid.at(layer=2, coef=0).p_matching == pytest.approx(float(p[0].mean()), abs=1e-6)
    assert grid.a_items[1, 2] == pytest.approx(float(p[4, [0, 2]].mean()), abs=1e-6)


def test_the_effect_is_between_the_ends_and_paired() -> None:
    p = torch.rand(7, 4) * 0.8 + 0.1
    grid = made(p)
    change = p[2::2] - p[1::2]
    assert torch.allclose(grid.effect.mean.float(), change.mean(-1), atol=1e-5)
    assert torch.allclose(grid.effect.stderr.float(), change.std(-1) / 2, atol=1e-5)
    difference = grid.at(layer=1, coef=1).minus(grid.at(layer=1, coef=-1))
    assert difference.stderr == pytest.approx(float(grid.effect.stderr[1]))


def test_with_one_sign_the_other_end_is_the_unsteered_model() -> None:
    p = torch.rand(5, 4) * 0.8 + 0.1
    grid = made(p, coefs=(0.5, 1.0))
    assert grid.effect.ends == (0.0, 1.0)
    assert torch.allclose(grid.effect.items.float(), p[[2, 4]] - p[0], atol=1e-5)


def test_the_best_layer_names_those_it_cannot_be_told_from() -> None:
    noise = torch.randn(40)
    p = torch.full((7, 40), 0.3)
    for layer, effect in enumerate((0.05, 0.3, 0.31)):
        p[2 + 2 * layer] = 0.3 + effect + 0.05 * torch.roll(noise, layer)
    best = made(p, letters="AB" * 20).best
    assert best.rivals in ((1,), (2,))
    assert {best.layer, *best.rivals} == {1, 2}
    assert 0.3 < best.share < 1
    p[6] = p[6] + 0.15
    sure = made(p, letters="AB" * 20).best
    assert (sure.layer, sure.rivals, sure.share) == (2, (), 1.0)
    assert "ahead of all others" in str(sure)


def test_low_mass_and_letters_that_disagree_are_pointed_out() -> None:
    fair = made(torch.full((7, 4), 0.5))
    assert "mass" not in fair._warnings(0)
    assert fair._warnings(0) == ""
    assert "mass 0.50 at" in made(torch.full((7, 4), 0.5), mass=0.5)._warnings(1)
    p = torch.full((7, 4), 0.5)
    p[4] = torch.tensor([0.9, 0.2, 0.9, 0.2])
    grid = made(p)
    assert grid._warnings(1) == "A 0.90 B 0.20 at +1"
    assert "A 0.90 B 0.20 at +1" in repr(grid)
    assert grid._warnings(0) == ""


def test_the_other_forms_hold_the_same_numbers() -> None:
    grid = made(torch.rand(7, 4) * 0.8 + 0.1)
    frame = grid.to_frame()
    assert len(frame) == 9
    cell = frame[(frame.layer == 2) & (frame.coef == -1)]
    assert cell.p_matching.item() == pytest.approx(float(grid.p_matching[2, 0]))
    loaded = json.loads(grid.to_json())
    assert loaded["best"]["layer"] == grid.best.layer
    assert len(loaded["cells"]) == 9
    assert "best layer" in grid._repr_html_()
    assert "wrong way" in repr(grid.effect)


def test_the_heat_map_is_centered_at_the_unsteered_value() -> None:
    grid = made(torch.rand(7, 4) * 0.8 + 0.1)
    heat = grid.plot().data[0]
    assert (heat.zmin + heat.zmax) / 2 == pytest.approx(grid.unsteered.p_matching)
    assert heat.zmax >= float(grid.p_matching.max())
    assert list(heat.x) == ["-1", "0", "+1"]
    names = {trace.name for trace in grid.plot().data[1:]}
    assert names == {"all items (95 %)", "A-items", "B-items"}


def test_cells_that_are_not_there_are_refused() -> None:
    grid = made(torch.full((7, 4), 0.5))
    with pytest.raises(LayerError, match="no layer 9"):
        grid.at(layer=9, coef=1)
    with pytest.raises(DataError, match="no coefficient 2"):
        grid.at(layer=1, coef=2)
