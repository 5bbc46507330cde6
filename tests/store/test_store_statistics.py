from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerkit.errors import InputError
from steerkit.store import Paired
from steerkit.store.statistics import Moments, merge_all

OFFSET = 1e6
"""Large beside a spread of 1: sums of squares that are subtracted would lose all but four digits."""


def rows(pairs: int, *, seed: int = 0, hidden: int = 3, offset: float = OFFSET) -> Paired:
    rng = torch.Generator().manual_seed(seed)
    sides = torch.randn(2, pairs, hidden, generator=rng, dtype=torch.float64)
    drift = torch.arange(pairs, dtype=torch.float64)[:, None] / 3
    return Paired(sides[0] + drift + offset, sides[1] * 2 + offset)


def check(found: Moments, acts: Paired, *, rtol: float = 1e-9) -> None:
    """Against sums over all rows at once, each written as in a textbook."""
    assert found.pairs == len(acts)
    both = torch.stack([acts.positive, acts.negative]).double()
    centered = both - both.mean(1, keepdim=True)
    lengths = centered.norm(dim=-1)
    d = (acts.positive - acts.negative).double()
    assert found.scatter is not None
    wanted = {
        "means": both.mean(1),
        "norm": both.norm(dim=-1).mean(),
        "apart": d.square().sum(),
        "within": torch.stack([sum(r.outer(r) for r in side) for side in centered]),  # type: ignore[misc]
        "third": (lengths[..., None] ** 2 * centered).sum(1),
        "fourth": (lengths**4).sum(1),
        "differences": sum(r.outer(r) for r in d),
    }
    for name, value in wanted.items():
        got = torch.as_tensor(getattr(found if hasattr(found, name) else found.scatter, name), dtype=torch.float64)
        scale = float((lengths**3).sum()) if name == "third" else float(value.abs().max())
        torch.testing.assert_close(got, value, rtol=0, atol=rtol * max(scale, 1.0), msg=lambda text, n=name: n + text)


@given(st.data(), st.integers(0, 10**6))
@settings(deadline=None, max_examples=80)
def test_any_split_and_any_order_of_merging(data: st.DataObject, seed: int) -> None:
    acts = rows(data.draw(st.integers(1, 40)), seed=seed)
    order = torch.randperm(len(acts), generator=torch.Generator().manual_seed(seed))
    cuts = sorted(data.draw(st.sets(st.integers(1, max(len(acts) - 1, 1)), max_size=6)) - {len(acts)})
    chunks = [part for part in torch.tensor_split(order, cuts) if len(part)]
    parts = [Moments.of(Paired(acts.positive[i], acts.negative[i]), keep="covariance") for i in chunks]
    while len(parts) > 1:  # a tree of any shape, not only a chain
        i = data.draw(st.integers(0, len(parts) - 2))
        parts[i : i + 2] = [parts[i].merge(parts[i + 1])]
    check(parts[0], acts)


def test_one_pass_over_all() -> None:
    check(Moments.of(rows(17), keep="covariance"), rows(17))


def test_only_means_are_kept_where_only_means_are_asked_for() -> None:
    one, two = (Moments.of(rows(5, seed=seed)) for seed in (1, 2))
    both = merge_all([one, two])
    assert both.scatter is None
    assert repr(both) == "Moments(10 pairs x 3)"
    torch.testing.assert_close(both.difference, (one.difference + two.difference) / 2)
    assert set(both.tensors()) == {"count", "means", "lengths"}


def test_its_tensors_make_it_again_bit_by_bit() -> None:
    one = Moments.of(rows(7), keep="covariance")
    again = Moments.from_tensors(one.tensors())
    assert all(torch.equal(a, again.tensors()[name]) for name, a in one.tensors().items())
    assert (again.pairs, again.norm, again.apart) == (one.pairs, one.norm, one.apart)


@pytest.mark.usefixtures("as_user")
def test_what_does_not_belong_together_is_refused() -> None:
    with pytest.raises(InputError, match=r"Moments\(2 pairs x 3\) and Moments\(2 pairs x 3, with covariances\)"):
        Moments.of(rows(2)).merge(Moments.of(rows(2), keep="covariance"))
    with pytest.raises(InputError, match="different things"):
        Moments.of(rows(2)).merge(Moments.of(rows(2, hidden=4)))
    with pytest.raises(InputError, match="no pairs"):
        Moments.of(Paired(torch.zeros(0, 3), torch.zeros(0, 3)))
