"""What counts: CAA's convention and ours, the groups of letters, and which given numbers can be scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerkit.errors import DataError

Convention = Literal["own", "caa"]
GROUPS = ("A", "B", "other")


def letter_mask(letters: Sequence[str], name: str) -> Bool[Tensor, " item"]:
    """Which items belong to a group of letters."""
    if name not in GROUPS:
        raise DataError(f"group={name!r} is not known; choose one of {', '.join(map(repr, GROUPS))}")
    return torch.tensor([(letter if letter in ("A", "B") else "other") == name for letter in letters])


def finite(value: Any) -> Any:
    """The same with `None` for every NaN, which JSON cannot hold."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and value != value else value  # noqa: PLR0124


def signed(coef: float) -> str:
    """A coefficient with its sign.

    Example:
        >>> signed(0.5), signed(0)
        ('+0.5', '0')
    """
    return f"{coef:+g}" if coef else "0"


def check_convention(convention: str) -> None:
    """Refuse a convention of another name."""
    if convention not in get_args(Convention):
        raise DataError(f"convention={convention!r} is not known; choose 'own' or 'caa'")


def check_given(a: Float[Tensor, " item"], b: Float[Tensor, " other"], letters: Sequence[str], convention: str) -> None:
    """Refuse probabilities and letters that cannot be scored."""
    check_convention(convention)
    if not len(a) == len(b) == len(letters) or not letters:
        raise DataError(f"{len(a)} and {len(b)} probabilities for {len(letters)} letters; give one of each an item")
    wrong = [i for i in range(len(a)) if not (0 <= a[i] <= 1 and 0 <= b[i] <= 1 and 0 < a[i] + b[i] <= 1 + 1e-6)]
    if wrong:
        i = wrong[0]
        raise DataError(f"item {i}: probabilities {float(a[i])} and {float(b[i])}; both lie in [0, 1], "
                        "not both are 0 and their sum is at most 1")  # fmt: skip
    strange = [letter for letter in letters if len(letter) != 1 or not "A" <= letter <= "Z"]
    if strange:
        raise DataError(f"{strange[0]!r} is not a multiple-choice letter; give 'A', '(B)' or the like")
    beyond = [letter for letter in letters if letter not in "AB"]
    if beyond and convention == "own":
        raise DataError(f"{len(beyond)} items match a letter beyond A and B (such as {beyond[0]!r}), whose "
                        "probability is not given; convention='caa' counts them as 0")  # fmt: skip
