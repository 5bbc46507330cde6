"""Sequences and their scope in a batch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.errors import DataError
from steerkit.training.distilling.samples import Sample, Samples

SCOPES = st.lists(st.lists(st.booleans(), min_size=1, max_size=7), min_size=1, max_size=5)


@given(SCOPES, st.booleans())
def test_a_batch_holds_each_scope_in_its_place_and_padding_is_in_none(scopes: list[list[bool]], left: bool) -> None:
    samples = Samples([Sample(tuple(range(5, 5 + len(scope))), 1, tuple(scope)) for scope in scopes])
    batch = samples.batch(range(len(samples)), pad_id=0, left=left)
    for i, sample in enumerate(samples):
        real = batch.batch.real[i]
        assert batch.batch.input_ids[i, real].tolist() == list(sample.ids)
        assert batch.scope[i, real].tolist() == list(sample.scope)
        assert not batch.scope[i, ~real].any()
    assert not (batch.outside & batch.scope).any()
    assert int(batch.scope.sum()) == samples.inside()
    assert int(batch.outside.sum()) == samples.outside()


def test_the_fingerprint_knows_tokens_and_scopes() -> None:
    one = Samples([Sample((1, 2), 1, (False, True))])
    assert one.fingerprint == Samples([Sample((1, 2), 1, (False, True))]).fingerprint
    assert one.fingerprint != Samples([Sample((1, 3), 1, (False, True))]).fingerprint
    assert one.fingerprint != Samples([Sample((1, 2), 1, (True, True))]).fingerprint


@pytest.mark.usefixtures("as_user")
def test_a_scope_of_another_length_and_no_samples_are_refused() -> None:
    with pytest.raises(DataError, match="2 tokens with a scope of 1"):
        Sample((1, 2), 1, (True,))
    with pytest.raises(DataError, match="no samples"):
        Samples([])
