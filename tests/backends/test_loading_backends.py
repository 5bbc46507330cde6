"""Every backend through the one door, and what only plain models can do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from tiny import tiny_hf, tiny_tokenizer
from torch import Tensor

import steerkit as sk
from steerkit.adapters import Adapter, attach
from steerkit.backends.causal import CausalModel
from steerkit.backends.loading import BACKENDS, load
from steerkit.errors import InputError
from steerkit.points import Point

NAMES = tuple(BACKENDS)
OTHERS = tuple(name for name in BACKENDS if name != "huggingface")


def tiny(backend: str, architecture: str = "llama") -> CausalModel:
    hf = tiny_hf(architecture, attn_implementation="eager")
    return load(hf, tokenizer=tiny_tokenizer(), backend=backend)


def vector(seed: int = 1) -> Tensor:
    return torch.randn(32, generator=torch.Generator().manual_seed(seed))


def close(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() <= 1e-5 * other.abs().max())


def alike(run: Callable[[CausalModel], Tensor]) -> None:
    """A run gives the same through every backend."""
    wanted, *found = (run(tiny(backend)) for backend in NAMES)
    assert all(close(one, wanted) for one in found)


@pytest.mark.parametrize("backend", NAMES)
def test_a_backend_is_chosen_by_name_and_runs_a_folder_a_live_model_or_the_demo(backend: str, tmp_path: Path) -> None:
    tiny_hf("llama").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    models = load(tmp_path, backend=backend), tiny(backend)
    assert [type(one).backend for one in models] == [backend] * 2
    assert models[0].info.fingerprint == models[1].info.fingerprint
    assert close(models[0].forward("hello"), models[1].forward("hello"))
    assert load("demo", backend=backend, dtype="bfloat16").info.dtype == "bfloat16"


@pytest.mark.parametrize("backend", OTHERS)
def test_an_object_of_a_library_names_its_backend_and_stays_as_it_is(backend: str) -> None:
    model: Any = tiny(backend)
    own = model.bridge if backend == "transformer_lens" else model.nn
    again: Any = load(own)
    assert type(again) is type(model)
    assert again.info == model.info
    assert (again.bridge if backend == "transformer_lens" else again.nn) is own
    with pytest.raises(InputError, match="those of the live model"):
        load(own, dtype="bfloat16")
    with pytest.raises(InputError, match=f"is run by {backend}; leave out backend='huggingface'"):
        load(own, backend="huggingface")


@pytest.mark.parametrize("backend", NAMES)
def test_steers_nest_and_leave_in_any_order(backend: str) -> None:
    model = tiny(backend)
    base = model.forward("hello there")
    first = sk.Steer(model).add(vector(1), layer=1, positions="all")
    second = sk.Steer(model).ablate(vector(2), layer=1, positions="all")
    first.__enter__()
    second.__enter__()
    both = model.forward("hello there")
    first.__exit__(None, None, None)
    alone = model.forward("hello there")
    second.__exit__(None, None, None)
    assert torch.equal(model.forward("hello there"), base)
    assert torch.equal(alone, second.forward("hello there"))
    with first, second:
        assert torch.equal(model.forward("hello there"), both)


def test_edits_at_one_site_act_in_the_order_of_entering_everywhere() -> None:
    def run(model: CausalModel, *, turned: bool) -> Tensor:
        steps = [lambda hidden, _: hidden * 2, lambda hidden, _: hidden + vector()]
        one, other = reversed(steps) if turned else steps
        with model.hook(Point(1), one), model.hook(Point(1), other):
            return model.forward("hello there")

    alike(lambda model: run(model, turned=False))
    alike(lambda model: run(model, turned=True))
    assert not close(run(tiny("nnsight"), turned=True), run(tiny("nnsight"), turned=False))


def test_the_middle_begins_with_what_the_block_is_given_after_all_edits() -> None:
    def run(model: CausalModel, *, given_first: bool) -> Tensor:
        given = model.hook(Point(1, "resid_pre"), lambda hidden, _: hidden + vector(3))
        middle = model.hook(Point(1, "resid_mid"), lambda hidden, _: hidden * 1.5 + vector(1))
        with given if given_first else middle, middle if given_first else given:
            return model.forward("hello there")

    alike(lambda model: run(model, given_first=True))
    alike(lambda model: run(model, given_first=False))
    assert torch.equal(run(tiny("nnsight"), given_first=True), run(tiny("nnsight"), given_first=False))


def test_the_middle_and_the_attention_are_edited_together_everywhere() -> None:
    def run(model: CausalModel, *, middle_first: bool) -> Tensor:
        seen: list[Tensor] = []
        middle = model.hook(Point(1, "resid_mid"), lambda hidden, _: hidden * 1.5 + vector(1))
        attention = model.hook(Point(1, "attn_out"), lambda hidden, _: hidden * 0.5 + vector(2))
        with middle if middle_first else attention, attention if middle_first else middle, \
                model.hook(Point(1, "resid_pre"), lambda hidden, _: hidden + vector(3)), \
                model.hook(Point(1, "resid_mid"), lambda hidden, _: seen.append(hidden.clone())):  # fmt: skip
            logits = model.forward("hello there")
        return torch.cat([logits[0], seen[0][0].repeat(1, 10)])

    alike(lambda model: run(model, middle_first=True))
    alike(lambda model: run(model, middle_first=False))


class Mine(Exception):
    """What a user's hook raises."""


@pytest.mark.parametrize("backend", NAMES)
def test_an_exception_comes_through_and_everything_is_as_before(backend: str) -> None:
    model, error = tiny(backend), Mine()
    base, said = model.forward("hello"), model.generate("hello", max_new_tokens=3)

    def fail(*_: Any) -> None:
        raise error

    for run in (lambda: model.forward("hello"), lambda: model.generate("hello", max_new_tokens=3)):
        with pytest.raises(Mine) as caught, sk.Steer(model).add(vector(), layer=0), model.hook(Point(2, "z"), fail):
            run()
        assert caught.value is error
    assert torch.equal(model.forward("hello"), base)
    assert model.generate("hello", max_new_tokens=3) == said


@pytest.mark.parametrize("backend", NAMES)
def test_a_standing_hook_sees_every_pass(backend: str) -> None:
    model = tiny(backend)
    seen: list[int] = []
    hook = model.hook(Point(1), lambda hidden, pass_: seen.append(pass_.length))
    hook.__enter__()
    model.forward("hello")
    with sk.Steer(model).add(vector(), layer=1):
        model.generate("hello", max_new_tokens=3)
    model.forward("hello", until=1)
    model.forward("hello", until=0)
    hook.__exit__(None, None, None)
    model.forward("hello")
    assert seen == [5, 5, 1, 1, 5]


def _features(model: Any) -> dict[str, Callable[[], Any]]:
    preferences = sk.load_preferences("demo")[:12]
    adapter = Adapter(LoraConfig(r=1, target_modules=["q_proj"]), {"a": torch.ones(1)}, {})
    direction = sk.SteeringVector(vector()[None], layers=[1])
    return {
        "distill": lambda: sk.distill(model, direction, layer=1, prompts=["x"]),
        "teach": lambda: sk.teach(model, preferences),
        "rahf": lambda: sk.rahf(model, preferences),
        "compare_methods": lambda: sk.compare_methods(model, preferences, reward=False, scorer=lambda *_: 0.0),
        "attach": lambda: attach(model, {"one": adapter}).__enter__(),
        "adapter.on": lambda: adapter.on(model),
        "bake_bias": lambda: sk.bake_bias(model, direction, "nowhere", layer=1),
        "save_merged": lambda: sk.save_merged(model, adapter, "nowhere"),
        "save_peft": lambda: sk.save_peft(model, adapter, "nowhere"),
    }


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize("feature", ["distill", "teach", "rahf", "compare_methods", "attach", "adapter.on", "bake_bias",
                                     "save_merged", "save_peft"])  # fmt: skip
@pytest.mark.parametrize("backend", OTHERS)
def test_what_changes_weights_needs_a_plain_model_and_says_so(backend: str, feature: str) -> None:
    with pytest.raises(InputError, match=r"plain Hugging Face model, not on a \w+Model; load it with "
                                         r"sk.load\(..., backend='huggingface'\)"):  # fmt: skip
        _features(tiny(backend))[feature]()
