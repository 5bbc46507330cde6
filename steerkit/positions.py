"""Which tokens: absolute positions that survive padding, the KV cache, beams and batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from steerkit.errors import PositionError

Positions = Literal["all", "prompt", "generation"] | int | slice | Sequence[int]
"""A scope by name, one position, a range, or several positions.

Positions count a row's real tokens from 0, padding left out, over prompt and answer together; a negative one counts
back from the end of the prompt, so -1 is the prompt's last token. `"generation"` begins at that last token, because it
predicts the first token of the answer (as in the code of CAA, Rimsky et al. 2024), and takes in an answer prefill.
"""

SCOPES = ("all", "prompt", "generation")


@dataclass
class Pass:
    """One forward pass: the absolute position of every token in it.

    A pass may hold a whole prompt, one decoded token, or anything between; positions go on counting from what the cache
    already holds.

    Args:
        batch: Rows of the pass.
        length: Columns of the pass.
        prompt_length: Tokens of each row's prompt template, without the answer prefill.
        past: Columns that went through the model before.
        attention: 1 for each real token of past and present columns; `None` where none is padding.
        given: Positions known from elsewhere (a packed batch); they replace the counting.
        answer: Every token of the pass is known to lie behind its prompt, so no mask is needed to tell.
        prompts: How many prompts the rows come from, where beams or several sequences repeat each in place.

    Example:
        >>> p = Pass(1, 4, prompt_length=torch.tensor([3]), attention=torch.tensor([[0, 1, 1, 1]]))
        >>> p.position.tolist()
        [[-1, 0, 1, 2]]
    """

    batch: int
    length: int
    prompt_length: Int[Tensor, " batch"]
    past: int = 0
    attention: Int[Tensor, "batch seen"] | None = None
    given: Int[Tensor, "batch pos"] | None = None
    answer: bool = False
    prompts: int | None = None

    @cached_property
    def position(self) -> Int[Tensor, "batch pos"]:
        """Absolute position of each token; -1 for padding."""
        if self.given is not None:
            return self.given
        device = self.prompt_length.device
        if self.attention is None:
            return (self.past + torch.arange(self.length, device=device)).expand(self.batch, -1)
        real = self.attention.to(device).bool()
        return torch.where(real, real.long().cumsum(-1) - 1, -1)[:, -self.length :]


def check_positions(positions: Positions) -> Positions:
    """The positions as given, once their form is known to be valid.

    Raises:
        PositionError: An unknown scope, an empty list, a float or a boolean, or a range with a step below 1.

    Example:
        >>> check_positions("generation")
        'generation'
    """
    if isinstance(positions, str):
        if positions not in SCOPES:
            raise PositionError(f"positions={positions!r} is not a scope; choose {', '.join(map(repr, SCOPES))}, "
                                "an integer, a slice or a list of integers")  # fmt: skip
        return positions
    if isinstance(positions, slice):
        ends = (positions.start, positions.stop, positions.step)
        if any(end is not None and (isinstance(end, bool) or not isinstance(end, int)) for end in ends):
            raise PositionError(f"positions={positions!r}: the ends and step of a slice are integers")
        if positions.step is not None and positions.step < 1:
            raise PositionError(f"positions={positions!r}: the step of a slice is at least 1")
        return positions
    several = [positions] if isinstance(positions, int) else positions
    if not isinstance(several, Sequence) or len(several) == 0:
        raise PositionError(f"positions={positions!r} is not valid; give a scope, an integer, a slice or a list")
    for one in several:
        if isinstance(one, bool) or not isinstance(one, int):
            raise PositionError(f"position {one!r} is not an integer")
    return positions


def select(positions: Positions, pass_: Pass) -> Bool[Tensor, "batch pos"] | None:
    """Which tokens of a pass are meant; `None` stands for every one of them.

    Args:
        positions: A checked scope, position, range or list.
        pass_: The pass at hand.

    Example:
        >>> p = Pass(1, 4, prompt_length=torch.tensor([3]))
        >>> select("generation", p).tolist()
        [[False, False, True, True]]
    """
    if positions == "all" and pass_.attention is None and pass_.given is None:
        return None
    if pass_.answer and positions in ("all", "generation"):
        return None
    at, end = pass_.position, pass_.prompt_length.unsqueeze(-1)
    real = at >= 0
    if positions == "all":
        return real
    if positions == "prompt":
        return real & (at < end)
    if positions == "generation":
        return real & (at >= end - 1)
    if isinstance(positions, slice):
        return real & _in_slice(positions, at, end)
    wanted = [positions] if isinstance(positions, int) else [int(one) for one in positions]
    mask = torch.zeros_like(real)
    for one in wanted:
        mask |= at == (one if one >= 0 else end + one)
    return real & mask


def _in_slice(span: slice, at: Tensor, end: Tensor) -> Tensor:
    first = 0 if span.start is None else span.start
    start = torch.full_like(end, first) if first >= 0 else (end + first).clamp(min=0)
    mask = at >= start
    if span.stop is not None:
        mask = mask & (at < (span.stop if span.stop >= 0 else end + span.stop))
    if span.step is not None:
        mask = mask & ((at - start) % span.step == 0)
    return mask
