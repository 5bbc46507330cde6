"""Closed forms of the operations, and their contract."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steerkit.steering import Ablate, Add, Clamp, PreserveNorm
from steerkit.testing import check_operation

VECTOR = torch.linspace(-1.5, 2.0, 16)
UNIT = VECTOR / VECTOR.norm()
coefs = st.floats(-8, 8, allow_nan=False, width=32)


def hidden(seed: int = 0) -> Tensor:
    return torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(seed))


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    return torch.allclose(a, b, atol=tolerance, rtol=1e-5)


@pytest.mark.parametrize("operation", [Add(), Ablate(), Clamp(), PreserveNorm(), PreserveNorm(Ablate())])
def test_every_operation_keeps_the_contract(operation: Any) -> None:
    assert check_operation(operation).passed


@given(a=coefs, b=coefs)
def test_add_is_linear_in_its_coefficient(a: float, b: float) -> None:
    h, add = hidden(), Add()
    assert close(add(add(h, VECTOR, a), VECTOR, b), add(h, VECTOR, a + b), 1e-4)
    assert close(add(add(h, VECTOR, a), VECTOR, -a), h, 1e-4)


@given(seed=st.integers(0, 99), scale=st.floats(0.01, 100))
def test_ablate_leaves_no_component_whatever_the_length(seed: int, scale: float) -> None:
    once = Ablate()(hidden(seed), scale * VECTOR, 1.0)
    assert (once @ UNIT).abs().max() < 1e-5
    assert close(Ablate()(once, VECTOR, 1.0), once)


def test_half_an_ablation_leaves_half_the_component() -> None:
    assert close(Ablate()(hidden(), VECTOR, 0.5) @ UNIT, 0.5 * (hidden() @ UNIT))


@given(value=coefs, scale=st.floats(0.01, 100))
def test_clamp_sets_the_projection_and_nothing_else(value: float, scale: float) -> None:
    h = hidden()
    out = Clamp()(h, scale * VECTOR, value)
    assert close(out @ UNIT, torch.full((3, 5), value))
    assert close(Ablate()(out, VECTOR, 1.0), Ablate()(h, VECTOR, 1.0))
    assert close(Clamp()(h, VECTOR, 0.0), Ablate()(h, VECTOR, 1.0))


@settings(deadline=None)
@given(coef=coefs, inner=st.sampled_from([Add(), Ablate(), Clamp()]))
def test_preserve_norm_keeps_every_length_and_the_new_direction(coef: float, inner: Any) -> None:
    h = hidden()
    out, free = PreserveNorm(inner)(h, VECTOR, coef), inner(h, VECTOR, coef)
    assert close(out.norm(dim=-1), h.norm(dim=-1))
    assert close(torch.cosine_similarity(out, free, dim=-1), torch.ones(3, 5))


def test_order_matters_for_add_and_ablate() -> None:
    h = hidden()
    assert (Ablate()(Add()(h, VECTOR, 1.0), VECTOR, 1.0) @ UNIT).abs().max() < 1e-5
    assert close(Add()(Ablate()(h, VECTOR, 1.0), VECTOR, 1.0) @ UNIT, VECTOR.norm().expand(3, 5))
