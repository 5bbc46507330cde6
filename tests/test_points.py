from __future__ import annotations

from typing import Any

import pytest

from steerkit.errors import LayerError
from steerkit.points import SITES, Point, resolve_layers


@pytest.mark.parametrize(
    ("given", "expected"), [("all", [0, 1, 2]), (None, [0, 1, 2]), (2, [2]), ([2, 0], [0, 2]), (range(2), [0, 1])]
)
def test_layers_are_sorted_and_complete(given: Any, expected: list[int]) -> None:
    assert resolve_layers(given, num_layers=3) == expected


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("given", "says"),
    [
        (3, "the model has 3 blocks, 0 to 2"),
        ([-1], "counted from 0"),
        ([], "empty"),
        ([1, 1], "twice"),
        ("some", "'all'"),
        ([True], "counted from 0"),
    ],
)
def test_bad_layers_name_what_is_valid(given: Any, says: str) -> None:
    with pytest.raises(LayerError, match=says):
        resolve_layers(given, num_layers=3)


@pytest.mark.usefixtures("as_user")
def test_an_unknown_site_names_the_known_ones() -> None:
    with pytest.raises(LayerError, match=", ".join(SITES)):
        Point(0, "resid")  # type: ignore[arg-type]
