from __future__ import annotations

from collections import Counter
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from store_cases import make, make_row

from steerkit.errors import InputError
from steerkit.store.index import PairRow
from steerkit.store.splits import hold_out, stratified


def test_split_is_seeded_disjoint_and_balanced() -> None:
    store = make(pairs=60)
    train, test = store.split(test=0.25, seed=0)
    assert len(test) == 15
    assert len(train) == 45
    assert set(train.ids) | set(test.ids) == set(store.ids)
    assert not set(train.ids) & set(test.ids)
    assert Counter(test.letters) == {"A": 5, "B": 10}
    assert store.split(test=0.25, seed=0)[1].ids == test.ids
    assert store.split(test=0.25, seed=1)[1].ids != test.ids
    for name, row in zip(test.ids, test[3].positive, strict=True):
        assert torch.equal(row, store[3].positive[int(name)])


def test_a_split_can_be_split_again_and_takes_counts() -> None:
    train, test = make(pairs=40).split(test=10)
    first, second = train.split(test=5, seed=3)
    assert (len(first), len(second), len(test)) == (25, 5, 10)
    assert not (set(first.ids) | set(second.ids)) & set(test.ids)
    assert torch.equal(second[1].positive[0], make_row(train, second.ids[0]))


def test_views_copy_nothing() -> None:
    train, test = make().split()
    assert train._source is test._source


@given(
    letters=st.lists(st.sampled_from(["A", "B", "C", None]), min_size=2, max_size=40),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 9),
)
def test_every_letter_gives_its_share(letters: list[str | None], share: float, seed: int) -> None:
    count = max(1, min(len(letters) - 1, round(share * len(letters))))
    contents = [str(i) for i in range(len(letters))]
    held = stratified(letters, contents, count, Random(seed))
    assert len(held) == len(set(held)) == count
    for letter, size in Counter(letters).items():
        got = sum(1 for i in held if letters[i] == letter)
        assert abs(got - count * size / len(letters)) < 1


@given(contents=st.lists(st.sampled_from("pqrstu"), min_size=2, max_size=30), seed=st.integers(0, 9))
def test_the_same_text_is_never_on_both_sides(contents: list[str], seed: int) -> None:
    count = len(contents) // 2
    held = set(stratified([None] * len(contents), contents, count, Random(seed)))
    assert len(held) <= count
    inside = {c for i, c in enumerate(contents) if i in held}
    outside = {c for i, c in enumerate(contents) if i not in held}
    assert not inside & outside


@pytest.mark.parametrize("test", [0, 1.0, 0.0, -1, 12, 1.5, True])
def test_a_split_that_leaves_nothing(test: float) -> None:
    with pytest.raises(InputError, match="of 12 pairs is not valid"):
        make().split(test=test)


def test_pairs_that_all_say_the_same_cannot_be_split() -> None:
    row = {"pair": "0", "text": "same"}
    pairs = [PairRow.of(i, row, row) for i in range(4)]
    with pytest.raises(InputError, match="pairs with the same text stay together"):
        hold_out(pairs, test=1, seed=0)
