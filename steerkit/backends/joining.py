"""Columns that join a pass of a transformers model at a later block, by hooks on its blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from steerkit.backends.base import Joining
from steerkit.backends.passes import PassCounter

COLUMNS = {"attention_mask": (-2, -1), "position_ids": (-1,), "position_embeddings": (-2,), "cache_position": (0,)}
"""What a block is told of its columns beside their states, with the dimensions that count them."""


@contextmanager
def let_join(blocks: Sequence[nn.Module], joining: Joining, passes: PassCounter) -> Iterator[None]:
    """While the context is open, every block is given the columns that it computes and no others.

    A column joins behind a block before any tap there, so an edit of that block's output finds it in its place.

    Args:
        blocks: The decoder's blocks.
        joining: Which columns join where.
        passes: Told which columns are at hand.

    Raises:
        NotImplementedError: In the pass, where a block is told something of its columns that is not known here.
    """
    full, width = len(joining.block), [joining.width(block) for block in range(len(blocks) + 1)]
    handles = []
    for i, block in enumerate(blocks):
        narrow = partial(_narrow, list(signature(block.forward).parameters), full, width[i])
        handles.append(block.register_forward_pre_hook(narrow, prepend=True, with_kwargs=True))
        if width[i + 1] > width[i]:
            grow = partial(_grow, joining.twin[width[i] : width[i + 1]], passes)
            handles.append(block.register_forward_hook(grow, prepend=True))
    first = blocks[0].register_forward_pre_hook(lambda *_: passes.narrow(width[0]), prepend=True)
    try:
        yield
    finally:
        for handle in (first, *handles):
            handle.remove()


def _narrow(
    names: Sequence[str], full: int, width: int, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a block is given, of its own columns alone; its states come first."""

    def cut(name: str, value: Any) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(cut(name, one) for one in value)
        if not isinstance(value, Tensor):
            return value
        if name == names[0]:
            return value[:, :width]
        if full not in value.shape:
            return value
        if name not in COLUMNS:
            raise NotImplementedError(f"{type(block).__name__} is given {name!r} of all columns")
        for dim in COLUMNS[name]:
            value = value.narrow(dim, 0, width)
        return value

    given = [cut(name, value) for name, value in zip(names, args, strict=False)]
    return (*given, *args[len(given) :]), {name: cut(name, value) for name, value in kwargs.items()}


def _grow(twins: Tensor, passes: PassCounter, _block: nn.Module, _args: Any, output: Any) -> Any:
    """What a block returns, and behind it what joins here."""
    states: Tensor = output[0] if isinstance(output, tuple) else output
    grown = torch.cat([states, states[:, twins.to(states.device)]], dim=1)
    passes.narrow(grown.shape[1])
    return (grown, *output[1:]) if isinstance(output, tuple) else grown
