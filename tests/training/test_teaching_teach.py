from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from teaching_cases import TOLD, model, preference, preferences, same, weights_of

from steerkit.adapters import Adapter, FullWeights, Lora
from steerkit.errors import DataError, InputError, MismatchError
from steerkit.training.fitting.fit import Fit
from steerkit.training.teaching.course import default_fit, teach
from steerkit.training.teaching.instructions import Instructions
from steerkit.training.teaching.margins import discriminate
from steerkit.training.teaching.taught import Taught

FIT = Fit(steps=2, lr=5e-3, batch=2)
LORA = Lora(r=2, targets="all-linear", dropout=0.1)
QUICK = {"instructions": TOLD, "lora": LORA, "fit": FIT, "progress": False}


def tensors(weights: Adapter | FullWeights) -> dict[str, torch.Tensor]:
    return dict(weights.weights if isinstance(weights, Adapter) else weights.tensors)


def test_none_trains_nothing_and_measures_all() -> None:
    taught = teach(model(), preferences(4), instructions=TOLD)
    assert taught.mode == "none"
    assert not taught.weights
    assert not taught.curves
    found, wanted = taught.discrimination, discriminate(model(), preferences(4), instructions=TOLD)
    assert found is not None
    assert list(found.arms) == ["base"]
    assert torch.equal(found.arms["base"].chosen, wanted.arms["base"].chosen)
    assert teach(model(), preferences(4), held_out=None).discrimination is None
    assert teach(model(), preferences(4)).instructions == Instructions()


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("mode", ["scit", "dual"])
def test_the_base_is_itself_afterwards_bit_for_bit(mode: str, full: bool) -> None:
    of = model("gpt2") if full else model()
    before, modules = weights_of(of), [type(one) for one in of.hf.modules()]
    needed = [one.requires_grad for one in of.hf.parameters()]
    options = QUICK if mode == "scit" else {**QUICK, "instructions": None}
    taught = teach(of, preferences(6), mode=mode, full=full, held_out=0.3, **options)
    assert same(weights_of(of), before)
    assert [type(one) for one in of.hf.modules()] == modules
    assert [one.requires_grad for one in of.hf.parameters()] == needed
    assert all(one.grad is None for one in of.hf.parameters())
    assert all(isinstance(one, FullWeights if full else Adapter) for one in taught.weights.values())
    for name in taught.weights:
        assert taught.on(of, name).forward("is it?").ne(of.forward("is it?")).any()
    assert same(weights_of(of), before)


def test_full_weights_are_those_that_were_trained() -> None:
    taught = teach(model(), preferences(4), mode="scit", held_out=None, full=True, **QUICK)
    tuned, before = tensors(taught.weights["taught"]), weights_of(model())
    moved = [name for name, one in tuned.items() if not torch.equal(one, before[name])]
    assert len(moved) > len(tuned) / 2
    shift = torch.cat([(tuned[name] - before[name]).abs().flatten() for name in moved])
    assert float(shift.max()) == pytest.approx(2 * FIT.lr, rel=0.1)


@pytest.mark.parametrize("mode", ["scit", "dual"])
def test_teaching_makes_held_out_answers_told_apart(mode: str) -> None:
    fit = Fit(steps=25, lr=2e-2, batch=8)
    told = {"instructions": TOLD} if mode == "scit" else {}
    taught = teach(model(), preferences(12), mode=mode, held_out=0.25, lora=Lora(r=4), fit=fit, progress=False, **told)
    found = taught.discrimination
    assert found is not None
    assert len(found) == 3
    assert found.accuracy("order").share == 1
    assert float(found.margins().values("both").mean()) > 0.3
    for curve in taught.curves.values():
        assert curve.loss[-1] < 0.7 * curve.loss[0]
    if mode == "scit":
        assert float(found.margins("base").values("both").mean()) < 0


def test_nothing_that_is_measured_is_taught() -> None:
    data = preferences(6)
    inside = teach(model(), data, mode="scit", held_out=0.5, **QUICK)
    assert inside.discrimination is not None
    assert inside.settings["preferences"] + len(inside.discrimination) == 6
    outside = teach(model(), data[:4], mode="scit", held_out=data[4:], **QUICK)
    assert outside.discrimination is not None
    assert outside.discrimination.ids == ("p4", "p5")
    assert list(outside.discrimination.arms) == ["base", "taught"]


def test_it_is_the_same_again_and_another_with_another_seed(tmp_path) -> None:
    first = teach(model(), preferences(4), mode="scit", held_out=None, path=tmp_path, **QUICK)
    again = teach(model(), preferences(4), mode="scit", held_out=None, **QUICK)
    kept = teach(model(), preferences(4), mode="scit", held_out=None, path=tmp_path, **QUICK)
    other = teach(model(), preferences(4), mode="scit", held_out=None, **{**QUICK, "fit": replace(FIT, seed=1)})
    assert same(tensors(first.weights["taught"]), tensors(again.weights["taught"]))
    assert same(tensors(first.weights["taught"]), tensors(kept.weights["taught"]))
    assert kept.curves["taught"].series("seconds") == first.curves["taught"].series("seconds")
    assert not same(tensors(first.weights["taught"]), tensors(other.weights["taught"]))
    with pytest.raises(MismatchError):
        teach(model(), preferences(5), mode="scit", held_out=None, path=tmp_path, **QUICK)


def test_accumulation_and_recomputing_change_nothing() -> None:
    whole = Fit(steps=2, lr=5e-3, batch=4)
    losses, passes = [], []
    inside = model().parts.blocks[0].self_attn.register_forward_hook(lambda *_: passes.append(len(losses)))
    for fit in (whole, replace(whole, accumulate=4), replace(whole, recompute=True)):
        options = {**QUICK, "lora": Lora(r=2, dropout=0.0), "fit": fit}
        losses.append(teach(model(), preferences(4), mode="scit", held_out=None, **options).curves["taught"].loss)
    inside.remove()
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert losses[2] == pytest.approx(losses[0], abs=1e-5)
    assert [passes.count(i) for i in range(3)] == [2, 8, 4]


@pytest.mark.parametrize("mode", ["none", "scit", "dual"])
def test_it_is_saved_and_read_back(mode: str, tmp_path) -> None:
    options = {**QUICK, "instructions": None if mode == "dual" else TOLD}
    made = teach(model(), preferences(5), mode=mode, held_out=0.4, **options)
    made.save(tmp_path / "taught")
    again = Taught.load(tmp_path / "taught")
    assert repr(again) == repr(made)
    assert again.instructions == made.instructions
    assert again.settings == json.loads(json.dumps(made.settings))
    for name, weights in made.weights.items():
        assert same(tensors(again.weights[name]), tensors(weights))
    assert again.discrimination is not None
    assert made.discrimination is not None
    measured = discriminate(model(), preferences(2), taught=again)
    assert torch.equal(measured.margins().chosen, discriminate(model(), preferences(2), taught=made).margins().chosen)
    assert len(made.to_frame()) == len(made.discrimination) * len(made.discrimination.arms)
    assert made.plot().data


def test_full_weights_are_saved_too(tmp_path) -> None:
    made = teach(model(), preferences(4), mode="scit", held_out=None, full=True, **QUICK)
    again = Taught.load(made.save(tmp_path))
    assert same(tensors(again.weights["taught"]), tensors(made.weights["taught"]))


def test_another_base_is_refused() -> None:
    made = teach(model(), preferences(4), mode="scit", held_out=None, **QUICK)
    with pytest.raises(MismatchError):
        discriminate(model("gpt2"), preferences(2), taught=made)
    with pytest.raises(InputError, match="no weights 'good'"):
        made.on(model(), "good")


def test_the_default_learning_rate_suits_the_width() -> None:
    assert default_fit(100, 4096).lr == 1e-4
    assert default_fit(100, 4096, full=True).lr == 2e-5
    assert default_fit(100, 128).lr == pytest.approx(3.2e-3)
    assert default_fit(100, 128).steps == 13


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        ([], {}, DataError, "at least one"),
        (preferences(1), {}, DataError, "at least 2"),
        (["not a preference"], {}, InputError, "is not a preference"),
        (preferences(4), {"mode": "sft"}, InputError, "mode='sft'"),
        (preferences(4), {"held_out": 0.25, "mode": "dual"}, InputError, "leave instructions out"),
        (preferences(4), {"held_out": 1.0}, InputError, "held_out=1.0"),
        (preferences(4), {"held_out": True}, InputError, "held_out=True"),
        (preferences(4), {"held_out": "some"}, InputError, "'s' is not a preference"),
        (preferences(4), {"held_out": preferences(1)}, DataError, "must not have been seen"),
        ([preference(0), preference(0, "no", "yes!")], {"held_out": 0.5}, DataError, "prompts"),
        (preferences(4), {"smoothing": 0.5}, InputError, "smoothing=0.5"),
        (preferences(4), {"smoothing": float("nan")}, InputError, "smoothing=nan"),
        (preferences(4), {"contrastive_weight": -1}, InputError, "contrastive_weight=-1"),
        (preferences(4), {"mode": "none", "full": True}, InputError, "nothing to train in full"),
        (preferences(4), {"mode": "none", "smoothing": 0.2}, InputError, "belong to mode 'scit'"),
        (preferences(4), {"lora": Lora(targets=["nowhere"])}, InputError, "nowhere"),
        ([preference(0, "x" * 520), preference(1)], {}, DataError, "context is 512"),
        (
            [preference(0), preference(1, "no</s>no")],
            {},
            DataError,
            "belongs to the template",
        ),
    ],
)
def test_what_cannot_be_taught_is_refused_before_anything_is_computed(
    given, options, error, message, monkeypatch
) -> None:
    def computed(*_, **__):
        raise AssertionError("the model was run")

    monkeypatch.setattr(model().hf, "forward", computed)
    with pytest.raises(error, match=message):
        teach(model(), given, **{"mode": "scit", "held_out": None, **QUICK, **options})


@pytest.mark.usefixtures("as_user")
def test_something_else_than_a_model_is_refused() -> None:
    with pytest.raises(InputError, match="plain Hugging Face model"):
        teach("demo", preferences(3))  # type: ignore[arg-type]


def test_a_damaged_folder_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match=r"holds no taught\.json"):
        Taught.load(tmp_path)
    (tmp_path / "taught.json").write_text('{"mode": "none"}')
    with pytest.raises(DataError, match="damaged"):
        Taught.load(tmp_path)
