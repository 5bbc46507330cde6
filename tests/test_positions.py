from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steerkit.errors import PositionError
from steerkit.positions import Pass, check_positions, select

LEFT = Pass(2, 5, prompt_length=torch.tensor([4, 2]), attention=torch.tensor([[0, 1, 1, 1, 1], [0, 0, 0, 1, 1]]))
RIGHT = Pass(2, 5, prompt_length=torch.tensor([4, 2]), attention=torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]]))


def chosen(positions: Any, pass_: Pass) -> list[list[int]]:
    """The absolute positions selected in each row."""
    mask = select(positions, check(pass_))
    if mask is None:
        mask = pass_.position >= -1
    return [row[keep].tolist() for row, keep in zip(pass_.position, mask, strict=True)]


def check(pass_: Pass) -> Pass:
    assert pass_.position.shape == (pass_.batch, pass_.length)
    return pass_


@pytest.mark.parametrize("pass_", [LEFT, RIGHT])
@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ("all", [[0, 1, 2, 3], [0, 1]]),
        ("prompt", [[0, 1, 2, 3], [0, 1]]),
        ("generation", [[3], [1]]),
        (0, [[0], [0]]),
        (-1, [[3], [1]]),
        (-3, [[1], []]),
        ([0, -1], [[0, 3], [0, 1]]),
        (slice(1, None), [[1, 2, 3], [1]]),
        (slice(-2, None), [[2, 3], [0, 1]]),
        (slice(None, -1), [[0, 1, 2], [0]]),
        (slice(0, None, 2), [[0, 2], [0]]),
        (slice(-2, None, 2), [[2], [0]]),
        (9, [[], []]),
    ],
)
def test_positions_count_real_tokens_on_either_padding_side(positions: Any, pass_: Pass, expected: Any) -> None:
    assert chosen(positions, pass_) == expected


def test_positions_go_on_counting_behind_the_cache() -> None:
    attention = torch.tensor([[0, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1]])
    step = Pass(2, 1, prompt_length=torch.tensor([4, 2]), past=5, attention=attention, answer=True)
    assert step.position.tolist() == [[4], [2]]
    assert chosen(4, step) == [[4], []]
    assert chosen(slice(3, None), step) == [[4], []]
    assert select("generation", step) is None
    assert chosen("prompt", step) == [[], []]


def test_a_prefill_belongs_to_generation() -> None:
    pass_ = Pass(1, 6, prompt_length=torch.tensor([4]))
    assert chosen("generation", pass_) == [[3, 4, 5]]
    assert chosen("prompt", pass_) == [[0, 1, 2, 3]]


@given(st.integers(1, 9), st.integers(0, 4), st.integers(0, 3), st.booleans())
def test_prompt_and_generation_make_all_and_share_the_last_prompt_token(
    prompt: int, answer: int, padding: int, left: bool
) -> None:
    real = [1] * (prompt + answer)
    row = [0] * padding + real if left else real + [0] * padding
    pass_ = Pass(1, len(row), prompt_length=torch.tensor([prompt]), attention=torch.tensor([row]))
    masks = [select(scope, pass_) for scope in ("all", "prompt", "generation")]
    everything, first, second = (mask for mask in masks if mask is not None)
    assert torch.equal(everything, first | second)
    assert int((first & second).sum()) == 1
    assert int(everything.sum()) == prompt + answer


@given(st.integers(-9, 9), st.lists(st.integers(-9, 9), min_size=1, max_size=4), st.integers(1, 8))
def test_a_list_is_the_union_of_its_positions(first: int, rest: list[int], length: int) -> None:
    pass_ = Pass(1, length + 2, prompt_length=torch.tensor([length]))
    union = torch.zeros(1, length + 2, dtype=torch.bool)
    for one in [first, *rest]:
        mask = select(one, pass_)
        assert mask is not None
        union |= mask
    together = select([first, *rest], pass_)
    assert together is not None
    assert torch.equal(together, union)


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("positions", "says"),
    [
        ("answer", "'answer' is not a scope"),
        (1.0, "give a scope"),
        (True, "not an integer"),
        ([], "give a scope"),
        ([1, "2"], "'2' is not an integer"),
        (slice(0, 4, 0), "at least 1"),
        (slice(0.5, None), "integers"),
        (None, "give a scope"),
    ],
)
def test_bad_positions_are_refused(positions: Any, says: str) -> None:
    with pytest.raises(PositionError, match=says):
        check_positions.__wrapped__(positions) if hasattr(check_positions, "__wrapped__") else check_positions(
            positions
        )
