"""Running out of memory: how it is told from other errors, and what is said when nothing smaller is left to try."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from steerkit.errors import ModelError
from steerkit.recording.reads import PlannedPair

WORDS = ("out of memory", "not enough memory", "can't allocate memory")
"""What allocators say that have no error of their own, such as the CPU's."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out.

    Example:
        >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"))
        True
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in WORDS)


def empty_cache(device: str) -> None:
    """Give back what the allocator of a device keeps for later."""
    backend: Any = getattr(torch, device.partition(":")[0], None)
    if hasattr(backend, "empty_cache"):
        backend.empty_cache()


@contextmanager
def refuse_if_too_large(pair: PlannedPair) -> Iterator[None]:
    """Around a pass with one pair alone.

    Raises:
        ModelError: It does not fit in memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(f"pair {pair.id!r} with its {pair.length} tokens does not fit in memory, also alone "
                         f"({error}). What is stored already is kept; load the model in a smaller dtype, record "
                         "fewer layers, or leave long pairs out") from error  # fmt: skip
