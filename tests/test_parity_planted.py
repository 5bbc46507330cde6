from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import tiny
from torch import Tensor

from steerkit.agreement import Parity, ParityRow, parity
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.backends.loading import BACKENDS
from steerkit.errors import LayerError
from steerkit.points import Point

QUANTITIES = ["weights", "logits", "states", "recorded states", "p(matching)", "sweep cells", "steered tokens",
              "steered logits", "greedy answers"]  # fmt: skip


def failing(found: Parity, backend: str) -> list[str]:
    return [row.quantity for row in found.of(backend) if not row.passed]


def row_of(found: Parity, backend: str, quantity: str) -> ParityRow:
    return next(row for row in found.of(backend) if row.quantity == quantity)


class _OffByOne(HuggingFaceModel):
    """Its hooks act one block too late."""

    backend = "planted"

    def hook(self, point: Point, fn: Any) -> Any:
        return super().hook(replace(point, layer=min(point.layer + 1, self.info.num_layers - 1)), fn)


class _Late(HuggingFaceModel):
    """It tells functions that every prompt is one token longer."""

    backend = "planted"

    def hook(self, point: Point, fn: Any) -> Any:
        return super().hook(point, lambda hidden, p: fn(hidden, replace(p, prompt_length=p.prompt_length + 1)))


class _LateDecoding(HuggingFaceModel):
    """It steers prompts, and forgets every decoded token."""

    backend = "planted"

    def hook(self, point: Point, fn: Any) -> Any:
        return super().hook(point, lambda hidden, p: None if p.answer else fn(hidden, p))


class _Drifting(HuggingFaceModel):
    """Its weights have gone through bfloat16."""

    backend = "planted"

    @classmethod
    def wrap(cls, hf: Any, tokenizer: Any, *, name: str = "", revision: str = "") -> _Drifting:
        return cls(hf.to(torch.bfloat16).float(), tokenizer, name=name, revision=revision)


class _Half(HuggingFaceModel):
    """It runs in another precision."""

    backend = "planted"

    @classmethod
    def wrap(cls, hf: Any, tokenizer: Any, *, name: str = "", revision: str = "") -> _Half:
        return cls(hf.to(torch.bfloat16), tokenizer, name=name, revision=revision)


class _Broken(HuggingFaceModel):
    """It cannot generate."""

    backend = "planted"

    def _sequences(self, arguments: dict[str, Any]) -> Tensor:
        raise KeyError("no such thing")


class _Unstartable(HuggingFaceModel):
    backend = "planted"

    @classmethod
    def wrap(cls, hf: Any, tokenizer: Any, *, name: str = "", revision: str = "") -> _Unstartable:
        raise TypeError("a slip of the pen")


class _Choosy(HuggingFaceModel):
    backend = "planted"

    @classmethod
    def wrap(cls, hf: Any, tokenizer: Any, *, name: str = "", revision: str = "") -> _Choosy:
        raise ValueError(f"Unsupported architecture: {hf.config.model_type}\nsee the list")


class _Blind(HuggingFaceModel):
    """It has no place to read heads."""

    backend = "planted"

    def hook(self, point: Point, fn: Any) -> Any:
        if point.site == "z":
            raise LayerError("no heads here")
        return super().hook(point, fn)


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[[type], None]:
    def put(cls: type) -> None:
        monkeypatch.setitem(BACKENDS, "planted", f"{__name__}:{cls.__name__}")
        monkeypatch.setitem(globals(), cls.__name__, cls)

    return put


@pytest.mark.parametrize(
    ("bug", "bad", "good"),
    [
        (_OffByOne, {"states", "recorded states", "sweep cells", "steered logits", "greedy answers"},
         {"weights", "logits"}),
        (_Late, {"steered tokens", "steered logits", "greedy answers"},
         {"weights", "logits", "states", "recorded states"}),
        (_LateDecoding, {"greedy answers"}, set(QUANTITIES) - {"greedy answers"}),
        (_Drifting, {"weights", "logits", "states", "steered logits"}, {"steered tokens"}),
        (_Half, {"weights", "logits", "states", "recorded states"}, set()),
        (_Broken, {"greedy answers"}, set(QUANTITIES) - {"greedy answers"}),
    ],
)  # fmt: skip
def test_planted_bugs_are_named_in_their_rows(
    bug: type, bad: set[str], good: set[str], plant: Callable[[type], None]
) -> None:
    plant(bug)
    found = parity(tiny("llama"), backends=["huggingface", "planted"])
    failed = set(failing(found, "planted"))
    assert bad <= failed
    assert not good & failed
    assert not failing(found, "huggingface")
    assert not found.passed
    assert f"planted differs in {', '.join(failing(found, 'planted'))}" in found.summary


def test_rows_say_where_the_difference_is(plant: Callable[[type], None]) -> None:
    plant(_Half)
    found = parity(tiny("llama"), backends="planted")
    assert row_of(found, "planted", "weights").where == "bfloat16, not float32"
    assert row_of(found, "planted", "logits").verdict == "BEYOND TOLERANCE"
    plant(_Late)
    found = parity(tiny("llama"), backends="planted")
    assert row_of(found, "planted", "steered tokens").where.endswith("is not steered")
    assert row_of(found, "planted", "steered tokens").difference == 4.0
    plant(_OffByOne)
    assert row_of(parity(tiny("llama"), backends="planted"), "planted", "states").where.startswith("block ")


def test_a_late_scope_is_seen_in_half_precision_too(plant: Callable[[type], None]) -> None:
    full = tiny("llama")
    half = HuggingFaceModel(full.hf.to(torch.bfloat16), full.tokenizer, name="half")
    assert parity(half, backends="nnsight").passed
    plant(_Late)
    found = parity(half, backends="planted")
    assert "steered tokens" in failing(found, "planted")
    assert row_of(found, "planted", "logits").allowed == 0.1


def test_an_error_in_one_backend_hides_no_other(plant: Callable[[type], None]) -> None:
    plant(_Unstartable)
    found = parity(tiny("llama"), backends=["planted", "nnsight"])
    assert [row.verdict for row in found.of("planted")] == ["FAILED with TypeError: a slip of the pen"]
    assert not found.passed
    assert len(found.of("nnsight")) == len(QUANTITIES)
    assert "planted differs in the start" in found.summary
    plant(_Broken)
    found = parity(tiny("llama"), backends="planted")
    assert row_of(found, "planted", "greedy answers").verdict.startswith("FAILED with KeyError")


def test_what_cannot_run_here_is_said_and_is_no_failure(
    plant: Callable[[type], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(_Choosy)
    monkeypatch.setitem(BACKENDS, "missing", "steerkit_no_such_library:Model")
    found = parity(tiny("llama"), backends=["huggingface", "planted", "missing"])
    assert found.passed
    assert [row.verdict for row in found.of("planted")] == [
        "does not support this model: Unsupported architecture: llama"
    ]
    assert found.of("missing")[0].verdict.startswith("not installed: No module named 'steerkit_no_such_library'")
    assert found.summary.endswith("not compared: planted, missing")


def test_a_site_that_a_backend_lacks_is_named(plant: Callable[[type], None]) -> None:
    plant(_Blind)
    found = parity(tiny("llama"), backends="planted")
    assert found.passed
    assert row_of(found, "planted", "states").where == "z cannot be read here"
