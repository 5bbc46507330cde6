"""The teacher of differences: stored or computed anew, the targets and losses are the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from difference_cases import TOLD, dual, lorra, online, preferences, scit
from tiny import tiny

from steerkit.adapters import Lora, attach
from steerkit.errors import InputError, LayerError, MismatchError, SteerkitWarning
from steerkit.training.differences.collecting import collect_differences
from steerkit.training.differences.contrasts import find_contrast
from steerkit.training.differences.difference_teacher import DifferenceTeacher
from steerkit.training.distilling.distillation import distill
from steerkit.training.distilling.losses import Objective
from steerkit.training.distilling.targets import Teacher
from steerkit.training.fitting.fit import Fit

SMALL = 0.05
"""Of alpha: on these random models the differences are long."""


def collected(model: Any, path: Path | None = None, **changes: Any) -> Any:
    options: dict[str, Any] = {"instructions": TOLD, "layers": [1, 2], "responses": "both", "progress": False}
    return collect_differences(model, preferences(), path=path, **{**options, **changes})


@pytest.mark.parametrize("pool", ["token", "example"])
@pytest.mark.parametrize("mode", ["none", "scit", "dual"])
def test_stored_and_computed_targets_are_bit_equal(mode: str, pool: Any, tmp_path: Path) -> None:
    """The store was filled with the same batch, longest first, that is asked for here."""
    model = tiny()
    taught = {"none": None, "scit": scit, "dual": dual}[mode]
    weights = None if taught is None else taught(model)
    contrast = lorra() if weights is None else find_contrast(weights)
    fresh = online(contrast, model=model, pool=pool)
    stored = collected(model, tmp_path / "d", taught=weights, instructions=TOLD if mode == "none" else None, pool=pool)
    order = sorted(range(12), key=lambda i: (-fresh.aligned.longest(i), i))
    found = []
    for source in (fresh, stored):
        teacher = DifferenceTeacher(model, source, alpha=SMALL)
        assert isinstance(teacher, Teacher)
        with attach(model, teacher.adapters) as attached:
            found.append(teacher.targets(attached, order))
    assert torch.equal(found[0].shift, found[1].shift)
    assert torch.equal(found[0].base, found[1].base)
    assert found[0].shift.any()


@pytest.mark.parametrize("mode", ["none", "dual"])
def test_stored_and_computed_differences_train_alike(mode: str, tmp_path: Path) -> None:
    """Three steps over all samples, in the shuffled order of the training; losses to rounding (batches differ)."""
    model = tiny()
    weights = dual(model) if mode == "dual" else None
    contrast = lorra() if weights is None else find_contrast(weights)
    stored = collected(model, tmp_path / "d", taught=weights, instructions=None if weights else TOLD)
    fit, lora = Fit(steps=3, batch=12, lr=1e-3), Lora(r=2)
    curves = []
    for source in (online(contrast, model=model), stored):
        teacher = DifferenceTeacher(model, source, alpha=SMALL)
        curves.append(distill(model, teacher, fit=fit, lora=lora, progress=False).curve.loss)
    assert curves[0] == pytest.approx(curves[1], rel=2e-6)


def test_losses_are_bit_equal_when_the_batches_are(tmp_path: Path) -> None:
    """One response a batch in collecting and in training: nothing is left that could round differently."""
    model = tiny()
    stored = collected(model, tmp_path / "d", batch_tokens=1)
    fit, lora = Fit(steps=3, batch=1, lr=1e-2, seed=3), Lora(r=2, dropout=0.1)
    curves = []
    for source in (online(model=model), stored):
        teacher = DifferenceTeacher(model, source, alpha=SMALL)
        curves.append(distill(model, teacher, fit=fit, lora=lora, progress=False).curve.loss)
    assert curves[0] == curves[1]
    assert curves[0][0] != curves[0][2]


@pytest.mark.parametrize("loss", ["l2", "mse"])
def test_the_first_loss_is_alpha_times_the_length(loss: Any) -> None:
    model = tiny()
    stored = collected(model)
    teacher = DifferenceTeacher(model, stored, alpha=SMALL)
    fit = Fit(steps=1, batch=12)
    found = distill(model, teacher, fit=fit, objective=Objective(loss=loss), progress=False).curve.loss[0]
    with attach(model, {}) as attached:
        lengths = stored.take(attached, list(range(12))).shift.norm(dim=-1)
    wanted = SMALL * lengths.mean() if loss == "l2" else SMALL**2 * lengths.square().mean()
    assert found == pytest.approx(float(wanted), rel=1e-5)


def test_alpha_scales_and_turns_the_change_and_leaves_the_base() -> None:
    model = tiny()
    stored = collected(model)
    found = {}
    for alpha in (0.0, 0.1, -0.1, 0.2):
        teacher = DifferenceTeacher(model, stored, alpha=alpha)
        with attach(model, {}) as attached:
            found[alpha] = teacher.targets(attached, [0, 7])
    assert not found[0.0].shift.any()
    assert torch.equal(found[0.2].shift, 2 * found[0.1].shift)
    assert torch.equal(found[-0.1].shift, -found[0.1].shift)
    assert all(torch.equal(one.base, found[0.1].base) for one in found.values())
    assert torch.equal(found[0.1].wanted, found[0.1].base + found[0.1].shift)


def test_some_of_the_layers_can_be_trained_on() -> None:
    model = tiny()
    stored = collected(model, layers=[0, 2, 3])
    whole, part = (DifferenceTeacher(model, stored, alpha=SMALL, layers=some) for some in (None, [3, 0]))
    assert part.layers == (0, 3)
    with attach(model, {}) as attached:
        found, wanted = part.targets(attached, [5, 1]), whole.targets(attached, [5, 1])
    assert torch.equal(found.shift, wanted.shift[[0, 2]])
    assert torch.equal(found.base, wanted.base[[0, 2]])
    with pytest.raises(LayerError, match="layer 1 is not among"):
        DifferenceTeacher(model, stored, layers=[1])


def test_the_base_of_a_taught_start_is_that_of_the_taught_model() -> None:
    model = tiny()
    weights = scit(model)
    on_taught, on_base = (online(find_contrast(weights, start=one), model=model) for one in ("taught", "base"))
    assert (on_taught.start, on_base.start) == (("taught",), ())
    found = []
    for source in (on_taught, on_base):
        teacher = DifferenceTeacher(model, source, alpha=SMALL)
        with attach(model, teacher.adapters) as attached:
            found.append(teacher.targets(attached, [0, 1]))
    assert torch.equal(found[0].shift, found[1].shift)
    assert not torch.equal(found[0].base, found[1].base)


def test_what_is_distilled_on_a_taught_start_holds_both() -> None:
    model = tiny()
    weights = scit(model)
    teacher = DifferenceTeacher(model, online(find_contrast(weights), model=model), alpha=SMALL)
    found = distill(model, teacher, fit=Fit(steps=1, batch=2), lora=Lora(r=4), progress=False)
    assert found.adapter.config.r == 4 + 2
    unchanged = distill(
        model, DifferenceTeacher(model, teacher.source, alpha=0.0), fit=Fit(steps=1, batch=2), progress=False
    )
    prompt = "Is it dry?"
    with weights.weights["taught"].on(model):
        wanted = model.forward(prompt)
    torch.testing.assert_close(unchanged.forward(prompt), wanted, atol=1e-4, rtol=1e-4)


def test_an_overshooting_change_is_warned_of() -> None:
    model = tiny()
    stored = collected(model)
    most = max(stored.rho(layer) for layer in stored.layers)
    with pytest.warns(SteerkitWarning, match="times as long as the state"):
        DifferenceTeacher(model, stored, alpha=1.01 / most)
    DifferenceTeacher(model, stored, alpha=0.99 / most)


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), "5", True, None])
def test_a_strength_that_is_no_number_is_refused(alpha: Any) -> None:
    model = tiny()
    with pytest.raises(InputError, match="alpha"):
        DifferenceTeacher(model, online(model=model), alpha=alpha)


@pytest.mark.usefixtures("as_user")
def test_what_holds_no_differences_is_refused() -> None:
    model = tiny()
    with pytest.raises(InputError, match="collect_differences"):
        DifferenceTeacher(model, torch.zeros(3))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="another model object"):
        DifferenceTeacher(tiny(), online(model=model))
    with pytest.raises(MismatchError, match=r"model\.fingerprint"):
        DifferenceTeacher(tiny(seed=9), collected(model))


def test_identity_names_what_decides_the_targets() -> None:
    model = tiny()
    stored, fresh = collected(model), online(model=model)
    one = DifferenceTeacher(model, stored, alpha=SMALL).identity()
    assert one["alpha"] == SMALL
    assert one["instructions"] == [TOLD.good, TOLD.bad]
    two = DifferenceTeacher(model, fresh, alpha=SMALL).identity()
    assert {key: two[key] for key in two} == {key: one[key] for key in two}
