from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CLASSIC, tiny

from steerkit.backends.base import ModelInfo, pad
from steerkit.errors import DataError
from steerkit.packing import can_pack, pack
from steerkit.points import Point

PREFIXES = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14]]
TAILS = [[[20], [21, 22, 23]], [[24, 25], [26]], [[27, 28], [29, 30]]]


@pytest.mark.parametrize("architecture", CLASSIC)
def test_packed_logits_are_those_of_each_continuation_alone(architecture: str) -> None:
    model = tiny(architecture)
    packed = pack(PREFIXES, TAILS, [1, 1, 1], pad_id=0)
    logits = model.forward(packed.batch)
    for row, (prefix, tails) in enumerate(zip(PREFIXES, TAILS, strict=True)):
        for k, tail in enumerate(tails):
            tokens = [*prefix, *tail]
            alone = model.forward(pad([tokens], [1], pad_id=0))[0]
            columns = [packed.column(row, k, i) for i in range(len(tokens))]
            assert (logits[row, columns] - alone).abs().max() < 1e-5 * alone.abs().max()


def test_packed_activations_are_those_of_each_continuation_alone() -> None:
    model, seen = tiny("gpt2"), []
    packed = pack(PREFIXES, TAILS, [1, 1, 1], pad_id=0)
    with model.hook(Point(2), lambda hidden, _: seen.append(hidden)):
        model.forward(packed.batch)
        model.forward(pad([[*PREFIXES[1], *TAILS[1][0]]], [1], pad_id=0))
    columns = [packed.column(1, 0, i) for i in range(4)]
    assert torch.allclose(seen[0][1, columns], seen[1][0], atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.lists(st.integers(4, 90), min_size=1, max_size=4), min_size=2, max_size=2), min_size=1))
def test_every_token_has_its_column_and_position(tails: list[list[list[int]]]) -> None:
    prefixes = [list(range(4, 4 + i % 3)) for i in range(len(tails))]
    packed = pack(prefixes, tails, [1] * len(tails), pad_id=0)
    for row, prefix in enumerate(prefixes):
        for k, tail in enumerate(tails[row]):
            tokens = [*prefix, *tail]
            columns = [packed.column(row, k, i) for i in range(len(tokens))]
            assert packed.batch.input_ids[row, columns].tolist() == tokens
            assert packed.batch.position[row, columns].tolist() == list(range(len(tokens)))
            assert all(packed.tail_of_column[c] in (-1, k) for c in columns)


def test_a_tail_sees_its_prefix_and_itself_only() -> None:
    mask = pack([[5, 6]], [[[7, 8], [9]]], [2], pad_id=0).batch.mask
    assert mask is not None
    assert mask[0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]


@pytest.mark.parametrize(
    ("prefixes", "tails"), [([], []), ([[1]], [[]]), ([[1]], [[[2], []]]), ([[1], [2]], [[[3]], [[4], [5]]])]
)
def test_bad_layouts_are_refused(prefixes: list[list[int]], tails: list[list[list[int]]]) -> None:
    with pytest.raises(DataError):
        pack(prefixes, tails, [1] * len(prefixes), pad_id=0)


def test_a_window_shorter_than_the_text_cannot_be_packed() -> None:
    info = ModelInfo("x", "mistral", 2, 8, "float32", "cpu", window=16)
    assert can_pack(info, length=16)
    assert not can_pack(info, length=17)
