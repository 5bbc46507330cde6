from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny
from torch import Tensor

from steerkit.data.chat import Prompt
from steerkit.data.pairs import ContrastPair, Pairs, Side
from steerkit.errors import StoreError, VectorError
from steerkit.extraction import PCA, LinearDiscriminant, LogisticProbe, MeanDifference, extract
from steerkit.recording import record
from steerkit.store import ActivationStore, Paired
from steerkit.store.statistics import Moments

HEADS, SIZE, PAIRS = 3, 4, 24


def acts(seed: int = 0) -> Paired:
    generator = torch.Generator().manual_seed(seed)
    both = torch.randn(2, PAIRS, HEADS * SIZE, generator=generator)
    both[0] += torch.linspace(0.5, 3, HEADS * SIZE)
    return Paired(both[0] + 5, both[1] + 5)


def store(given: Paired | None = None, **manifest: Any) -> ActivationStore:
    return ActivationStore.from_layers({4: given or acts()}, site="z", manifest={"heads": HEADS, **manifest})


def choices() -> Pairs:
    prompts = [Prompt([{"role": "user", "content": f"Is {i} odd? (A) yes (B) no"}]) for i in range(8)]
    sides = [("(A)", "(B)")[:: 1 - 2 * (i % 2)] for i in range(8)]
    return Pairs([ContrastPair(Side(one, a), Side(one, b), id=a + one.content[0]["content"])
                  for one, (a, b) in zip(prompts, sides, strict=True)])  # fmt: skip


def part(given: Paired, head: int) -> Paired:
    columns = slice(head * SIZE, (head + 1) * SIZE)
    return Paired(given.positive[:, columns], given.negative[:, columns])


@pytest.mark.parametrize("method", [MeanDifference(), PCA(), LogisticProbe(), LinearDiscriminant()], ids=repr)
def test_each_head_is_given_its_own_vector(method: Any) -> None:
    vector = extract(store(), method)
    assert (vector.num_heads, vector.meta["by_head"]) == (HEADS, True)
    for head in range(HEADS):
        torch.testing.assert_close(vector.head(4, head), method(part(acts(), head)))
    whole = extract(store(), method, by_head=False)
    torch.testing.assert_close(whole.at(4), method(acts()))
    assert torch.allclose(whole.at(4), vector.at(4), atol=1e-5) == isinstance(method, MeanDifference)


def test_sigma_is_the_deviation_of_the_activations_along_each_head() -> None:
    """As in ITI's code: np.std of the projections of all tuning activations on the unit direction."""
    vector = extract(store(), "lda")
    rows = torch.cat([acts().positive, acts().negative])
    for head in range(HEADS):
        theta = vector.head(4, head) / vector.head(4, head).norm()
        along = rows[:, head * SIZE : (head + 1) * SIZE] @ theta
        assert vector.meta["sigma"][4][head] == pytest.approx(float(np.std(along.numpy())), rel=1e-5)
        torch.testing.assert_close(vector.in_sigma().head(4, head), theta * float(np.std(along.numpy())))
        gap = float(part(acts(), head).difference.mean(0) @ theta)
        assert vector.heads([(4, head)]).meta["gap"][4] == pytest.approx(gap, rel=1e-5)
    some = vector.heads([(4, 0), (4, 2)])
    unit = some.unit().at(4)
    assert some.meta["gap"][4] == pytest.approx(float(acts().difference.mean(0) @ unit), rel=1e-5)


def test_other_sites_know_their_deviation_too() -> None:
    vector = extract(ActivationStore.from_layers({4: acts()}))
    rows = torch.cat([acts().positive, acts().negative])
    assert vector.meta["sigma"][4] == pytest.approx(float(np.std((rows @ vector.unit().at(4)).numpy())), rel=1e-5)
    assert not {"heads", "head_gap", "by_head"} & set(vector.meta)


class Kept(ActivationStore):
    """A store whose statistics were summed while recording."""

    keep = "covariance"

    def statistics(self, layer: int) -> Moments | None:
        return Moments.of(super().paired(layer), keep=self.keep)  # type: ignore[arg-type]


@pytest.mark.parametrize("site", ["z", "resid_post"])
def test_statistics_give_the_same(site: Any) -> None:
    about: dict[str, Any] = {"site": site, "manifest": {"heads": HEADS}}
    kept, rows = Kept.from_layers({4: acts()}, **about), ActivationStore.from_layers({4: acts()}, **about)
    for method in ("mean_difference", "pca", "lda"):
        a, b = extract(kept, method), extract(rows, method)
        torch.testing.assert_close(a.values, b.values, rtol=1e-4, atol=1e-5)
        for key in ("gap", "sigma", "residual_norm"):
            assert np.allclose(a.meta[key][4], b.meta[key][4], rtol=1e-4)


def test_means_alone_do_not_know_the_deviation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Kept, "keep", "mean")
    vector = extract(Kept.from_layers({4: acts()}, site="z", manifest={"heads": HEADS}))
    assert vector.num_heads == HEADS
    with pytest.raises(VectorError, match=r"lacks meta\['sigma'\]"):
        vector.in_sigma()


def test_statistics_of_a_row_are_too_little_for_its_heads() -> None:
    model, pairs = tiny(), choices()
    alone = record(model, pairs, site="z", statistics="covariance", keep="statistics", progress=False)
    rows = record(model, pairs, site="z", progress=False)
    torch.testing.assert_close(extract(alone).values, extract(rows).values)
    assert extract(alone).num_heads == 4
    with pytest.raises(StoreError, match="keep='rows': statistics are of all heads together"):
        extract(alone, "lda")
    torch.testing.assert_close(
        extract(alone, "lda", by_head=False).values, extract(rows, "lda", by_head=False).values, rtol=1e-3, atol=1e-4
    )


def test_a_head_without_a_difference_is_zero() -> None:
    given = acts()
    negative = given.negative.clone()
    negative[:, :SIZE] = given.positive[:, :SIZE]
    vector = extract(store(Paired(given.positive, negative)), "logistic")
    assert vector.head_norms[0, 0] == 0
    assert vector.head_norms[0, 1] > 0
    with pytest.raises(VectorError, match="head 0 of layer 4 is zero"):
        vector.heads([(4, 0)])


def _wrong(_: Paired) -> Tensor:
    return torch.ones(2, 2)


@pytest.mark.usefixtures("as_user")
def test_what_a_method_of_ones_own_must_give() -> None:
    with pytest.raises(VectorError, match=r"at layer 4: head 0: _wrong returned \[2, 2\]"):
        extract(store(), _wrong)
    with pytest.raises(VectorError, match=r"shape \[6\]"):
        extract(store(), lambda _: torch.ones(2))
    with pytest.raises(VectorError, match="head 1: no"):
        extract(store(), Moody())


class Moody:
    calls = 0

    def __call__(self, given: Paired) -> Tensor:
        self.calls += 1
        if self.calls == 2:
            raise VectorError("no")
        return given.difference[0]
