from __future__ import annotations

import pytest
import torch
from sklearn.covariance import ledoit_wolf, ledoit_wolf_shrinkage

from steerkit.errors import VectorError
from steerkit.extraction.shrinkage import shrinkage, solve_shrunk

SHAPES = [(40, 8), (8, 40), (20, 20), (2, 3)]


@pytest.mark.parametrize("shape", SHAPES)
def test_shrinkage_is_scikit_learns(shape: tuple[int, int]) -> None:
    rows = torch.randn(*shape, dtype=torch.float64) * torch.linspace(0.2, 3, shape[1])
    expected = ledoit_wolf_shrinkage(rows.numpy(), assume_centered=True)
    assert shrinkage(rows) == pytest.approx(expected, rel=1e-9)
    assert 0 < expected < 1 or shape == (2, 3)


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_solution_is_that_of_scikit_learns_covariance(shape: tuple[int, int]) -> None:
    rows = torch.randn(*shape, dtype=torch.float64) * torch.linspace(0.2, 3, shape[1])
    right = torch.randn(shape[1], dtype=torch.float64)
    covariance, _ = ledoit_wolf(rows.numpy(), assume_centered=True)
    torch.testing.assert_close(solve_shrunk(rows, right), torch.linalg.solve(torch.from_numpy(covariance), right))


def test_no_variation_is_an_error() -> None:
    with pytest.raises(VectorError, match="do not vary within the sides"):
        solve_shrunk(torch.zeros(2, 3), torch.ones(3))
