from __future__ import annotations

import pytest
import torch
from planted import cosine, planted
from sklearn.decomposition import PCA as SklearnPCA

from steerkit.errors import VectorError
from steerkit.extraction import PCA, MeanDifference
from steerkit.extraction.pca import leading_direction
from steerkit.store import Paired


def test_centering_would_lose_the_concept() -> None:
    """A PCA that centers the differences (repeng's default does) finds noise; ours finds the direction."""
    acts, direction = planted(pairs=200, hidden=64, gap=4.0, noise=0.5)
    centered = torch.from_numpy(SklearnPCA(1, random_state=0).fit(acts.difference.numpy()).components_[0])
    assert abs(cosine(centered, direction)) < 0.3
    assert cosine(PCA()(acts), direction) > 0.99


def test_it_is_the_first_singular_vector_of_what_is_given() -> None:
    for shape in ((12, 5), (5, 12), (1, 7), (7, 1)):
        rows = torch.randn(*shape, dtype=torch.float64)
        _, sizes, axes = torch.linalg.svd(rows, full_matrices=False)
        direction, share = leading_direction(rows)
        assert abs(cosine(direction, axes[0])) == pytest.approx(1, abs=1e-9)
        assert share == pytest.approx(float(sizes[0] ** 2 / sizes.square().sum()), rel=1e-9)


def test_most_pairs_give_the_sign() -> None:
    """Three pairs point one way and one very long one the other: the majority wins, as documented."""
    differences = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, -0.1], [-9.0, 0.0]])
    assert PCA()(Paired(differences, torch.zeros(4, 2)))[0] > 0
    assert MeanDifference()(Paired(differences, torch.zeros(4, 2)))[0] < 0


def test_its_length_is_the_mean_gap_along_it() -> None:
    acts, _ = planted()
    vector = PCA()(acts)
    along = acts.difference @ (vector / vector.norm())
    assert float(vector.norm()) == pytest.approx(float(along.mean()), rel=1e-5)


def test_differences_that_cancel_have_no_length() -> None:
    with pytest.raises(VectorError, match="do not differ along"):
        PCA()(Paired(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.zeros(2, 2)))
