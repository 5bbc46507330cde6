from __future__ import annotations

from array import array
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recording_cases import choices
from tiny import tiny

from steerkit.errors import InputError
from steerkit.recording.batches import bucket, padded_tokens, resolve_budget
from steerkit.recording.planner import Planner
from steerkit.recording.reader import feed_packed, feed_plain
from steerkit.recording.reads import PlannedPair, PlannedSide


@st.composite
def planned_pairs(draw: st.DrawFn) -> list[PlannedPair]:
    found = []
    for number in range(draw(st.integers(1, 30))):
        shared = draw(st.integers(0, 60))
        lengths = [shared + draw(st.integers(1, 20)) for _ in range(2)]
        sides = [PlannedSide(array("i", [1] * length), length - 1, 1) for length in lengths]
        found.append(PlannedPair(str(number), (sides[0], sides[1]), shared))
    return found


@given(planned_pairs(), st.integers(1, 400), st.none() | st.integers(1, 5), st.booleans())
@settings(deadline=None, max_examples=150)
def test_the_budget_is_kept_and_every_pair_is_in_one_batch(
    pairs: list[PlannedPair], tokens: int, most: int | None, packed: bool
) -> None:
    batches = bucket(pairs, tokens=tokens, most=most, packed=packed)
    assert sorted(i for batch in batches for i in batch) == list(range(len(pairs)))
    for batch in batches:
        some = [pairs[i] for i in batch]
        fed = (feed_packed if packed else feed_plain)(some, pad_id=0).batch.input_ids.numel()
        assert fed == padded_tokens(some, packed=packed)  # what is counted is what the model gets
        assert fed <= tokens or len(batch) == 1
        assert most is None or len(batch) <= most


@given(planned_pairs(), st.integers(1, 400), st.booleans())
@settings(deadline=None, max_examples=50)
def test_batches_are_not_smaller_than_they_must_be(pairs: list[PlannedPair], tokens: int, packed: bool) -> None:
    batches = bucket(pairs, tokens=tokens, most=None, packed=packed)
    for one, following in pairwise(batches):
        assert padded_tokens([pairs[i] for i in [*one, following[0]]], packed=packed) > tokens


def test_the_longest_come_first() -> None:
    pairs = Planner(choices(20), tiny("llama").tokenizer, "letter", None).between(0, 20)
    lengths = [pairs[batch[0]].length for batch in bucket(pairs, tokens=200, most=None, packed=True)]
    assert len(lengths) > 3
    assert lengths == sorted(lengths, reverse=True)


def test_the_budget_depends_on_the_device() -> None:
    assert resolve_budget(None, None, device="cpu") < resolve_budget(None, None, device="cuda:0")
    assert resolve_budget(77, None, device="cpu") == 77


@pytest.mark.parametrize("value", [0, -4, 2.5, True])
def test_a_budget_that_is_no_count_is_refused(value: object, as_user: None) -> None:
    with pytest.raises(InputError, match=f"batch_tokens={value!r} is not valid; give an integer of at least 1"):
        resolve_budget(value, None, device="cpu")  # type: ignore[arg-type]
