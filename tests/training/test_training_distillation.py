"""Distillation of edits into adapters of random models: what holds exactly, and that it learns."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from distillation_cases import pairs, tiny, vector_for
from torch import Tensor

from steerkit.adapters import Attached, Lora
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.errors import MismatchError, SteerkitWarning
from steerkit.points import Point
from steerkit.steering import Steer
from steerkit.training.distilling.distillation import distill
from steerkit.training.distilling.distilled import Distilled
from steerkit.training.distilling.losses import Objective
from steerkit.training.distilling.samples import Sample, Samples
from steerkit.training.distilling.student import Student
from steerkit.training.distilling.targets import Targets
from steerkit.training.fitting.fit import Fit

PROMPT = "Is the sea dry?"


def _distill(model: HuggingFaceModel, *layers: int, coef: float = 1.0, **options: Any) -> Distilled:
    options = {"prompts": pairs(), "fit": Fit(steps=2, batch=4), "lora": Lora(r=4, targets="all-linear"), **options}
    vector = vector_for(model, *layers)
    return distill(model, vector, layer=list(layers), coef=coef, progress=False, **options)


def _same(a: Distilled, b: Distilled) -> bool:
    return all(torch.equal(one, b.adapter.weights[name]) for name, one in a.adapter.weights.items())


@pytest.mark.parametrize("objective", [Objective(), Objective(loss="cosine", output=1, guard=1)])
def test_a_coefficient_of_zero_changes_nothing_at_all(objective: Objective) -> None:
    model = tiny("llama")
    plain = model.forward(PROMPT)
    nothing = _distill(model, 2, coef=0.0, objective=objective, fit=Fit(steps=3, batch=4))
    other = _distill(model, 2, coef=0.0, objective=objective, fit=Fit(steps=1, batch=4))
    assert nothing.curve.loss == [0.0] * 3
    assert nothing.curve.series("grad_norm") == [0.0] * 3
    assert _same(nothing, other)
    assert torch.equal(nothing.forward(PROMPT), plain)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "mistral", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("layers", [(1, 2), (3,)])
def test_every_part_of_the_adapter_learns_by_the_second_step(architecture: str, layers: tuple[int, ...]) -> None:
    model = tiny(architecture)
    one, two = (_distill(model, *layers, fit=Fit(steps=steps, batch=8)) for steps in (1, 2))
    blocks = {int(part) for name in two.adapter.weights for part in name.split(".") if part.isdigit()}
    assert blocks == set(range(layers[-1] + 1))
    for name, tensor in two.adapter.weights.items():
        assert bool(tensor.any())
        assert not torch.equal(tensor, one.adapter.weights[name])


def test_afterwards_the_model_is_itself() -> None:
    model = tiny("llama")
    names = [name for name, _ in model.hf.named_modules()]
    needs = [one.requires_grad for one in model.hf.parameters()]
    plain = model.forward(PROMPT)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    found = _distill(model, 1)
    assert torch.equal(torch.rand(2), expected)
    assert [name for name, _ in model.hf.named_modules()] == names
    assert [one.requires_grad for one in model.hf.parameters()] == needs
    assert torch.equal(model.forward(PROMPT), plain)
    assert not torch.equal(found.forward(PROMPT), plain)
    assert torch.equal(found.on(scale=0).forward(PROMPT), plain)


def test_an_error_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    plain, names = model.forward(PROMPT), [name for name, _ in model.hf.named_modules()]
    _kill(monkeypatch, at=3)
    with pytest.raises(KeyboardInterrupt):
        _distill(model, 1, fit=Fit(steps=5, batch=4))
    assert [name for name, _ in model.hf.named_modules()] == names
    assert torch.equal(model.forward(PROMPT), plain)


def _kill(monkeypatch: pytest.MonkeyPatch, *, at: int) -> None:
    """Interrupt a training at one of its steps; the pass before training counts too."""
    done, go_on = [0], Student.__call__

    def step(self: Student, piece: list[int], batch: list[int]) -> tuple[Tensor, dict[str, float]]:
        done[0] += 1
        if done[0] > at:
            raise KeyboardInterrupt
        return go_on(self, piece, batch)

    monkeypatch.setattr(Student, "__call__", step)


def test_killed_and_called_again_it_is_as_if_never_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {
        "prompts": [*pairs(), "What now?"],
        "fit": Fit(steps=6, batch=4, checkpoint_every=2, lr=1e-3),
        "lora": Lora(r=4, dropout=0.2),
        "max_new_tokens": 3,
    }
    model = tiny("llama")
    whole = _distill(model, 2, **options)
    with monkeypatch.context() as patch:
        _kill(patch, at=6)
        with pytest.raises(KeyboardInterrupt):
            _distill(model, 2, path=tmp_path, **options)
    resumed = _distill(tiny("llama"), 2, path=tmp_path, **options)
    assert resumed.curve.loss == whole.curve.loss
    assert _same(whole, resumed)
    read = Distilled.load(tmp_path, model)
    assert _same(read, whole)
    assert torch.equal(read.forward(PROMPT), whole.forward(PROMPT))
    assert read.settings == whole.settings
    assert read.steer is not None
    assert whole.steer is not None
    assert torch.equal(read.steer.forward(PROMPT), whole.steer.forward(PROMPT))
    with pytest.raises(MismatchError, match="another training"):
        _distill(model, 2, path=tmp_path, coef=2.0, **options)
    with pytest.raises(MismatchError):
        Distilled.load(tmp_path, tiny("llama", seed=5))


def test_accumulating_gives_the_same_training() -> None:
    model = tiny("llama")
    lora = Lora(r=4, dropout=0.0)
    whole, pieces = (_distill(model, 1, 3, lora=lora, fit=Fit(steps=4, batch=4, accumulate=n, lr=1e-3)) for n in (1, 4))
    assert pieces.curve.loss == pytest.approx(whole.curve.loss, rel=1e-4)


def test_recomputing_gives_the_same_adapter() -> None:
    model = tiny("llama")
    lora = Lora(r=4, dropout=0.3)
    kept, again = (_distill(model, 2, lora=lora, fit=Fit(steps=3, batch=4, recompute=r)) for r in (False, True))
    assert kept.curve.loss == again.curve.loss
    assert _same(kept, again)


def test_a_model_in_half_precision_is_taught_in_full() -> None:
    model = tiny("llama", dtype=torch.bfloat16)
    model.hf.to(torch.bfloat16)
    model = HuggingFaceModel(model.hf, model.tokenizer, name="half")
    found = _distill(model, 1, 2, coef=2.0, fit=Fit(steps=12, batch=8, lr=1e-2))
    assert {one.dtype for one in found.adapter.weights.values()} == {torch.float32}
    assert found.curve.rows[0]["error"] == found.curve.rows[0]["shift"]
    assert found.curve.loss[-1] < 0.8 * found.curve.loss[0]


def test_the_change_is_learned_where_it_is_wanted_and_kept_off_elsewhere() -> None:
    model = tiny("llama")
    found = _distill(model, 2, coef=2.0, fit=Fit(steps=60, batch=8, lr=1e-2, schedule="cosine"))
    assert found.missing < 0.25
    assert found.cosine > 0.95
    assert found.curve.rows[-1]["retain"] < 0.25 * found.curve.rows[-1]["shift"]
    free = _distill(model, 2, coef=2.0, objective=Objective(retain=0))
    assert "retain" not in free.curve.names


def test_several_layers_compound_as_in_steering() -> None:
    model = tiny("llama")
    found = _distill(model, 1, 2, fit=Fit(steps=1, batch=8))
    norms = vector_for(model, 1, 2).norms
    assert found.wanted.layers == (1, 2)
    assert float(found.wanted.shift[0]) == pytest.approx(float(norms[0]), rel=1e-5)
    assert float(found.wanted.shift[1]) != pytest.approx(float(norms[1]), rel=1e-2)
    assert float(found.wanted.difficulty[0]) == pytest.approx(0, abs=1e-6)
    assert float(found.wanted.difficulty[1]) > 1e-3


class _Within:
    """A teacher of one's own: attention's output at one layer is to move, and with it no MLP of its block."""

    layers = (1,)
    site = "attn_out"
    adapters: ClassVar[dict[str, Any]] = {}
    start = ()

    def __init__(self, model: HuggingFaceModel) -> None:
        ids = model.encode(PROMPT).input_ids[0].tolist()
        self.samples = Samples([Sample(tuple(ids), len(ids), (False, *[True] * (len(ids) - 1)))])

    def identity(self) -> dict[str, Any]:
        return {"kind": "within"}

    def targets(self, attached: Attached, indices: Any) -> Targets:
        states: list[Tensor] = []
        with attached.only(), attached.model.hook(Point(1, "attn_out"), lambda hidden, _pass: states.append(hidden)):
            attached.model.forward(self.samples.batch(indices, pad_id=0).batch, until=1)
        base = states[0][:, 1:].flatten(0, 1).unsqueeze(0)
        return Targets(base, torch.ones_like(base))


def test_a_teacher_of_ones_own_is_learned_from_and_parts_that_it_cannot_reach_are_named() -> None:
    model = tiny("llama")
    lora, fit = Lora(r=2, targets="all-linear"), Fit(steps=3, batch=1)
    with pytest.warns(SteerkitWarning, match="3 of 14 parts of the adapter never had a gradient, such as .*mlp"):
        found = distill(model, _Within(model), lora=lora, fit=fit, progress=False)
    assert found.curve.loss[0] == pytest.approx(model.info.hidden_size**0.5, rel=1e-5)
    assert found.curve.loss[-1] < found.curve.loss[0]
    assert found.steer is None


def test_a_steer_is_distilled_with_all_its_edits_and_answers_of_its_own() -> None:
    model = tiny("llama")
    vector = vector_for(model, 1, 2)
    steer = Steer(model).add(vector, layer=1, coef=2, positions="all").ablate(vector[2], layer=2)
    found = distill(model, steer, prompts=["What is it?", "Why?"], fit=Fit(steps=2, batch=2), max_new_tokens=4,
                    progress=False)  # fmt: skip
    assert found.steer is not None
    assert torch.equal(found.steer.forward(PROMPT), steer.forward(PROMPT))
    assert found.wanted.tokens > 10


def test_a_teacher_that_starts_elsewhere_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from steerkit.training.distilling.edit_teacher import EditTeacher
    from steerkit.training.distilling.targets import Targets

    honest = EditTeacher.targets

    def wrong(self: EditTeacher, attached: Any, indices: Any) -> Targets:
        found = honest(self, attached, indices)
        return Targets(found.base + 1, found.shift, outside=found.outside)

    monkeypatch.setattr(EditTeacher, "targets", wrong)
    with pytest.warns(SteerkitWarning, match="before training the error is"):
        _distill(tiny("llama"), 1)


def test_it_shows_and_writes_itself(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        found = _distill(tiny("llama"), 1, path=tmp_path / "made")
    assert "2 steps, loss" in repr(found)
    assert "of the wanted change is missing" in repr(found)
    assert "settings" in found.to_json()
    assert found.plot().data
    assert {one.name for one in (tmp_path / "made").iterdir()} >= {"adapter_model.safetensors", "adapter_config.json"}
