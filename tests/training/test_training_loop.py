"""The loop: order, accumulation, interruption, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steerkit.errors import DataError, InputError, MismatchError, TrainingError
from steerkit.training.fitting.checkpoints import NAME
from steerkit.training.fitting.fit import Fit
from steerkit.training.fitting.loop import batch_at, train

COUNT = 10


class Problem:
    """A small regression with dropout, so that random numbers count too."""

    def __init__(self, *, dropout: float = 0.5) -> None:
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(COUNT, 4, generator=generator)
        self.targets = torch.randn(COUNT, 3, generator=generator)
        self.layer = nn.Linear(4, 3)
        with torch.no_grad():
            for one in self.layer.parameters():
                one.copy_(torch.randn(one.shape, generator=generator))
        self.dropout = dropout
        self.seen: list[list[int]] = []

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.layer.parameters())

    def step(self, piece: list[int], batch: list[int]) -> tuple[Tensor, dict[str, float]]:
        self.seen.append(piece)
        inputs = nn.functional.dropout(self.inputs[piece], self.dropout)
        errors = (self.layer(inputs) - self.targets[piece]).square().sum(-1)
        return errors.sum() / len(batch), {"rows": len(piece) / len(batch)}

    def train(self, fit: Fit, **options: Any) -> Any:
        return train(self.parameters, COUNT, self.step, fit=fit, progress=False, **options)


def test_every_item_comes_once_an_epoch_in_an_order_of_its_own() -> None:
    steps = [batch_at(step, count=COUNT, batch=4, seed=3) for step in range(5)]
    flat = [item for batch in steps for item in batch]
    assert sorted(flat[:COUNT]) == sorted(flat[COUNT:]) == list(range(COUNT))
    assert flat[:COUNT] != flat[COUNT:]
    assert steps[0] != batch_at(0, count=COUNT, batch=4, seed=4)


def test_accumulation_changes_nothing() -> None:
    whole, pieces = Problem(dropout=0), Problem(dropout=0)
    one = whole.train(Fit(steps=6, batch=4, lr=0.1))
    four = pieces.train(Fit(steps=6, batch=4, lr=0.1, accumulate=4))
    assert [len(piece) for piece in pieces.seen] == [1] * 24
    assert four.loss == pytest.approx(one.loss, rel=1e-6)
    assert four.series("grad_norm") == pytest.approx(one.series("grad_norm"), rel=1e-5)
    assert four.series("rows") == pytest.approx([1.0] * 6)
    for a, b in zip(whole.parameters, pieces.parameters, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_pieces_of_unequal_size_count_by_their_items() -> None:
    whole, pieces = Problem(dropout=0), Problem(dropout=0)
    one = whole.train(Fit(steps=3, batch=5, lr=0.1))
    three = pieces.train(Fit(steps=3, batch=5, lr=0.1, accumulate=3))
    assert {len(piece) for piece in pieces.seen} == {1, 2}
    assert three.loss == pytest.approx(one.loss, rel=1e-6)


class _Killed(Exception):
    pass


@pytest.mark.parametrize("killed_at", [5, 7])
def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(tmp_path: Path, killed_at: int) -> None:
    fit = Fit(steps=9, batch=4, lr=0.1, accumulate=2, schedule="cosine", warmup=0.3, checkpoint_every=2)
    whole = Problem()
    expected = whole.train(fit)
    broken = Problem()

    def step(piece: list[int], batch: list[int]) -> tuple[Tensor, dict[str, float]]:
        if len(broken.seen) == 2 * killed_at:
            raise _Killed
        return broken.step(piece, batch)

    with pytest.raises(_Killed):
        train(broken.parameters, COUNT, step, fit=fit, path=tmp_path, progress=False)
    resumed = Problem()
    curve = resumed.train(fit, path=tmp_path)
    assert len(resumed.seen) == 2 * (9 - (killed_at - killed_at % 2))
    assert curve.loss == expected.loss
    assert curve.series("grad_norm") == expected.series("grad_norm")
    for a, b in zip(whole.parameters, resumed.parameters, strict=True):
        assert torch.equal(a, b)
    assert len((tmp_path / "curve.jsonl").read_text().splitlines()) == 9


def test_a_finished_training_is_read_and_not_repeated(tmp_path: Path) -> None:
    fit = Fit(steps=3, batch=4)
    first, again = Problem(), Problem()
    curve = first.train(fit, path=tmp_path)
    assert again.train(fit, path=tmp_path).loss == curve.loss
    assert again.seen == []
    assert torch.equal(again.layer.weight, first.layer.weight)


def test_another_training_in_the_folder_is_refused_and_named(tmp_path: Path) -> None:
    Problem().train(Fit(steps=1, batch=4), path=tmp_path, identity={"source": "a"})
    with pytest.raises(MismatchError, match="source: there 'a', here 'b'"):
        Problem().train(Fit(steps=1, batch=4), path=tmp_path, identity={"source": "b"})
    with pytest.raises(MismatchError, match="fit"):
        Problem().train(Fit(steps=2, batch=4), path=tmp_path, identity={"source": "a"})


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    Problem().train(Fit(steps=1, batch=4), path=tmp_path)
    (tmp_path / NAME).write_bytes(b"not this")
    with pytest.raises(DataError, match="damaged"):
        Problem().train(Fit(steps=1, batch=4), path=tmp_path)


def test_a_loss_that_is_no_number_names_the_step_and_leaves_the_weights() -> None:
    problem = Problem()
    kept: list[Tensor] = []

    def step(piece: list[int], batch: list[int]) -> tuple[Tensor, dict[str, float]]:
        loss, numbers = problem.step(piece, batch)
        if len(problem.seen) < 3:
            return loss, numbers
        kept.append(problem.layer.weight.detach().clone())
        return loss * float("nan"), numbers

    with pytest.raises(TrainingError, match="step 2: the loss is nan"):
        train(problem.parameters, COUNT, step, fit=Fit(steps=5, batch=4), progress=False)
    assert torch.equal(problem.layer.weight, kept[0])


def test_a_loss_without_parameters_is_refused() -> None:
    problem = Problem()
    with pytest.raises(TrainingError, match="depends on no parameter"):
        train(problem.parameters, COUNT, lambda _a, _b: (torch.ones(()), {}), fit=Fit(steps=1), progress=False)


def test_the_callers_random_numbers_are_left_alone() -> None:
    problem = Problem()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    problem.train(Fit(steps=2, batch=4))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"steps": 0}, "steps=0"),
        ({"steps": 2.5}, "steps=2.5"),
        ({"batch": True}, "batch=True"),
        ({"accumulate": 0}, "accumulate=0"),
        ({"lr": 0}, "lr=0"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"lr": "fast"}, "lr='fast'"),
        ({"warmup": 1.0}, "warmup=1.0"),
        ({"weight_decay": -1}, "weight_decay=-1"),
        ({"clip": 0}, "clip=0"),
        ({"schedule": "step"}, "schedule='step'"),
        ({"seed": -1}, "seed=-1"),
        ({"checkpoint_every": 0}, "checkpoint_every=0"),
        ({"recompute": 1}, "recompute=1"),
    ],
)
def test_settings_out_of_range_are_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        Fit(**change)


@pytest.mark.usefixtures("as_user")
def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(InputError, match="0 parameters and 3 items"):
        train([], 3, lambda _a, _b: (torch.ones(()), {}), fit=Fit())


def test_the_curve_shows_plots_and_writes_itself() -> None:
    curve = Problem().train(Fit(steps=30, batch=4))
    assert "30 steps, loss" in repr(curve)
    assert len(curve.table().rows) == 12
    assert len(curve.to_frame()) == 30
    assert curve.plot().data[0].name == "loss"
