"""What a precision leaves of a merged change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from exporting import PROMPTS, lora, reload
from tiny import tiny

from steerkit.adapters import Adapter, FullWeights
from steerkit.backends.huggingface import HuggingFaceModel
from steerkit.interchange import save_merged


def planted(change: float) -> tuple[HuggingFaceModel, Adapter]:
    """Weights of root mean square 0.02 in bfloat16, and an adapter that changes them by `change`."""
    model = tiny("llama", hidden_size=128, intermediate_size=256, num_hidden_layers=2)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for one in model.hf.parameters():
            one.normal_(std=0.02, generator=draw) if one.ndim == 2 else one.fill_(1.0)
    model.hf.to(torch.bfloat16)
    model = HuggingFaceModel(model.hf, model.tokenizer)
    adapter = lora(model, size=1.0, r=16, alpha=16.0)
    return model, adapter.scaled(change / 4)


@pytest.mark.parametrize(
    ("change", "error", "unchanged"), [(1e-5, 0.89, 0.89), (1e-4, 0.32, 0.35), (1e-3, 0.033, 0.04)]
)
def test_bfloat16_loses_small_changes_by_the_known_amount(
    change: float, error: float, unchanged: float, tmp_path: Path
) -> None:
    """Known: weights of rms 0.02, changes of rms 1e-5, 1e-4, 1e-3, both of a normal distribution."""
    model, adapter = planted(change)
    merged = save_merged(model, adapter, tmp_path / "merged")
    assert merged.overall.weight == pytest.approx(0.02, rel=0.02)
    assert merged.overall.delta == pytest.approx(change, rel=0.1)
    assert merged.error == pytest.approx(error, rel=0.15)
    assert merged.unchanged == pytest.approx(unchanged, abs=0.03)
    assert ("bfloat16 loses" in repr(merged)) == (change < 1e-3)
    again = reload(tmp_path / "merged", like=model).hf.state_dict()
    same = [float((again[one.name] == model.hf.state_dict()[one.name]).float().mean()) for one in merged.weights]
    assert [one.unchanged for one in merged.weights] == pytest.approx(same)


@pytest.mark.parametrize("dtype", ["float32", torch.float16])
def test_a_finer_precision_keeps_what_bfloat16_loses(dtype: Any, tmp_path: Path) -> None:
    model, adapter = planted(1e-5)
    merged = save_merged(model, adapter, tmp_path / "merged", dtype=dtype)
    bound = {"float32": 1e-3, "float16": 0.4}[merged.dtype]
    assert merged.error < bound
    assert str(reload(tmp_path / "merged", like=model).hf.dtype) == f"torch.{merged.dtype}"


def test_the_error_is_that_of_the_saved_numbers(tmp_path: Path) -> None:
    """From float32 to bfloat16: against the base in bfloat16, computed apart."""
    model = tiny("qwen2")
    adapter = lora(model, size=0.05, targets=["q_proj", "down_proj"])
    merged = save_merged(model, adapter, tmp_path / "merged", dtype="bfloat16")
    again = reload(tmp_path / "merged", like=model).hf.state_dict()
    missed = wanted = 0.0
    for one in merged.weights:
        key = f"base_model.model.{one.name.removesuffix('.weight')}"
        a, b = (adapter.weights[f"{key}.lora_{side}.weight"].double() for side in "AB")
        delta, base = (16 / 4) * b @ a, model.hf.state_dict()[one.name]
        effective = again[one.name].double() - base.bfloat16().double()
        missed += float((effective - delta).square().sum())
        wanted += float(delta.square().sum())
        assert one.error == pytest.approx(float((effective - delta).norm() / delta.norm()), rel=1e-4)
    assert len(merged.weights) == 8
    assert merged.error == pytest.approx((missed / wanted) ** 0.5, rel=1e-4)


def test_the_logit_error_is_that_of_the_reloaded_model(tmp_path: Path) -> None:
    model, adapter = planted(1e-3)
    merged = save_merged(model, adapter, tmp_path / "merged", prompts=PROMPTS[0])
    again = reload(tmp_path / "merged", like=model)
    found = (again.forward(PROMPTS[0]).float() - adapter.on(model).forward(PROMPTS[0]).float()).abs().max()
    step = 2**-9  # of bfloat16 at this size: its kernels round by where the numbers lie in memory
    assert merged.logit_error == pytest.approx(float(found), abs=step)


def test_the_logit_error_of_another_precision_is_that_of_its_rounded_weights(tmp_path: Path) -> None:
    model = tiny("llama")
    adapter = lora(model)
    merged = save_merged(model, adapter, tmp_path / "merged", dtype="bfloat16", prompts=PROMPTS[0])
    saved = reload(tmp_path / "merged", like=model).hf.state_dict()
    rounded = FullWeights({one.name: saved[one.name].float() for one in merged.weights})
    found = rounded.on(model).forward(PROMPTS[0]) - adapter.on(model).forward(PROMPTS[0])
    assert merged.logit_error > 1e-3
    assert merged.logit_error == pytest.approx(float(found.abs().max()), rel=1e-4)
