from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tiny import ARCHITECTURES, tiny

from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.backends.module_taps import ModuleTaps as Taps
from steerkit.testing import ConformanceError, check_backend


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_keeps_the_contract(architecture: str) -> None:
    report = check_backend(tiny(architecture))
    assert report.passed
    assert len(report.checks) == 11


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_every_attention_implementation_keeps_the_contract(attention: str) -> None:
    assert check_backend(tiny("llama", attn_implementation=attention)).passed


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_contract(dtype: torch.dtype) -> None:
    full = tiny("qwen2")
    half = HuggingFaceModel(full.hf.to(dtype), full.tokenizer, name="half")
    assert check_backend(half).passed


@pytest.mark.parametrize("name", ["CraftGPT-5M-chat", "TinyStories-656K", "stories260K"])
def test_pretrained_models_keep_the_contract(data_root: Any, name: str) -> None:
    from steerkit.backends.loading import load

    model = load(data_root / "models" / name, dtype="float32")
    assert check_backend(model).passed


def _planted_position_bug(model: HuggingFaceModel, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = model._arguments

    def off_by_one(*args: Any) -> dict[str, Any]:
        given = arguments(*args)
        return {**given, "position_ids": given["position_ids"] * 0}

    monkeypatch.setattr(model, "_arguments", off_by_one)


def _planted_leak(_model: HuggingFaceModel, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def leak(self: Taps, point: Any, fn: Any) -> Any:
        tap = self._taps.get(point) or self._install(point)
        tap.functions.append(fn)
        yield

    monkeypatch.setattr(Taps, "open", leak)


@pytest.mark.parametrize(
    ("plant", "named"),
    [(_planted_position_bug, "reads equal hidden_states"), (_planted_leak, "leaving restores bit for bit")],
)
def test_planted_bugs_are_found(plant: Callable[..., None], named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("gpt2")
    plant(model, monkeypatch)
    with pytest.raises(ConformanceError) as caught:
        check_backend(model)
    line = next(line for line in str(caught.value).splitlines() if line.startswith(named))
    assert line.endswith("FAILED")
