from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import ARCHITECTURES, VARIANTS, tiny
from torch import Tensor

from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.backends.layouts import LAYOUTS
from steerkit.backends.module_taps import ModuleTaps as Taps
from steerkit.backends.probe import check_layout
from steerkit.backends.taps import MidTap
from steerkit.packing import can_pack
from steerkit.testing import ConformanceError, check_backend
from steerkit.testing.running import kinds_of, sites_of


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *VARIANTS])
def test_every_architecture_keeps_the_contract(architecture: str) -> None:
    model = tiny(architecture)
    check_layout(model)
    report = check_backend(model)
    offered = {site for layer in kinds_of(model).values() for site in sites_of(model, layer)}
    packs = can_pack(model.info, length=8)
    attn, mid, both, heads = (
        wanted <= offered for wanted in ({"attn_out"}, {"resid_mid"}, {"attn_out", "mlp_out"}, {"z", "attn_out"})
    )
    assert report.passed
    assert len(report.checks) == 15 + packs + 2 * attn + mid + both + heads


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_every_attention_implementation_keeps_the_contract(attention: str) -> None:
    assert check_backend(tiny("llama", attn_implementation=attention)).passed


@pytest.mark.parametrize("architecture", ["qwen2", "gpt_oss", "jamba", "falcon"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_contract(dtype: torch.dtype, architecture: str) -> None:
    full = tiny(architecture)
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


def _planted_lost_cache_edit(model: HuggingFaceModel, monkeypatch: pytest.MonkeyPatch) -> None:
    run = model._run

    def forget(arguments: dict[str, Any]) -> Tensor:
        if arguments["use_cache"] and arguments["input_ids"].shape[1] == 1:
            taps, model._taps._taps = model._taps._taps, {}
            functions = [list(tap.functions) for tap in taps.values()]
            for tap in taps.values():
                tap.functions.clear()
            try:
                return run(arguments)
            finally:
                model._taps._taps = taps
                for tap, own in zip(taps.values(), functions, strict=True):
                    tap.functions.extend(own)
        return run(arguments)

    monkeypatch.setattr(model, "_run", forget)


def _planted_mid_that_only_the_norm_reads(_model: HuggingFaceModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: MidTap, hidden: Tensor) -> Tensor:
        super(MidTap, self).run(self.entering + hidden)
        return hidden

    monkeypatch.setattr(MidTap, "run", run)


def _planted_deafness(model: HuggingFaceModel, _monkeypatch: pytest.MonkeyPatch) -> None:
    """Generation reaches the model without the hooks."""
    generate = model._sequences

    def deaf(arguments: dict[str, Any]) -> Tensor:
        functions = [(tap, list(tap.functions)) for tap in model._taps._taps.values()]
        for tap, _ in functions:
            tap.functions.clear()
        answers = generate(arguments)
        for tap, own in functions:
            tap.functions.extend(own)
        return answers

    model._sequences = deaf  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("plant", "named"),
    [
        (_planted_position_bug, "reads equal hidden_states"),
        (_planted_leak, "leaving restores bit for bit"),
        (_planted_lost_cache_edit, "steered, token by token over a cache = uncached"),
        (_planted_mid_that_only_the_norm_reads, "every site takes what is written"),
        (_planted_deafness, "steered generate = a greedy loop (tokens off)"),
    ],
)
def test_planted_bugs_are_found(plant: Callable[..., None], named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("gpt2")
    plant(model, monkeypatch)
    _fails(model, named)


@pytest.mark.parametrize(
    ("architecture", "changes", "named"),
    [
        ("gemma2", {"attn": "self_attn"}, "input + attention + MLP = output"),
        ("gpt_neox", {"has_mid": True}, "resid_mid lies where the MLP reads"),
        ("llama", {"has_mid": False}, "resid_mid lies where the MLP reads"),
        ("llama", {"heads": "self_attn.q_proj"}, "attention adds the projection of z"),
        ("bloom", {"packs": True}, "packed = one by one"),
    ],
)
def test_wrong_rows_are_found(
    architecture: str, changes: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = {"when": (), **changes}
    monkeypatch.setitem(LAYOUTS, architecture, replace(LAYOUTS[architecture], **wrong))
    if named.startswith("packed"):
        with pytest.raises((ConformanceError, RuntimeError, ValueError)):
            check_backend(tiny(architecture))
        return
    _fails(tiny(architecture), named)


def _fails(model: HuggingFaceModel, named: str) -> None:
    with pytest.raises(ConformanceError) as caught:
        check_backend(model)
    line = next(line for line in str(caught.value).splitlines() if line.startswith(named))
    assert line.endswith("FAILED")
