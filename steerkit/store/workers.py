"""Which part of the shards one process writes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from steerkit.errors import InputError

Span = tuple[int, int]
"""The first row of a shard, and the one after its last."""
PATIENCE = 1800.0


@dataclass(frozen=True)
class Worker:
    """One of several processes that fill one store together; each takes every `world`-th shard.

    The shards are the same for any number of workers, so a store begun by three can be ended by one.

    Args:
        rank: Which one this is, counted from 0.
        world: How many there are.
        patience: Seconds, above 0, that this one waits for another that shows no sign of life.

    Raises:
        InputError: The rank is not below the number of workers, or the patience is not above 0.

    Example:
        >>> Worker(1, 2).share([(0, 4), (4, 8), (8, 12), (12, 14)])
        [(4, 8), (12, 14)]
    """

    rank: int = 0
    world: int = 1
    patience: float = PATIENCE

    def __post_init__(self) -> None:
        whole = all(isinstance(n, int) and not isinstance(n, bool) for n in (self.rank, self.world))
        if not whole or not 0 <= self.rank < self.world:
            raise InputError(f"rank={self.rank!r} of world={self.world!r} is not valid; ranks go from 0 to world - 1")
        if not isinstance(self.patience, int | float) or not self.patience > 0:
            raise InputError(f"patience={self.patience!r} is not valid; give seconds, above 0")

    def __str__(self) -> str:
        return f"{self.rank}-of-{self.world}"

    @classmethod
    def here(cls, *, patience: float = PATIENCE) -> Worker:
        """The worker that this process is: by `torch.distributed` where it is initialized, else by `RANK` and
        `WORLD_SIZE` of the environment, which torchrun sets; else the only one.

        Args:
            patience: Seconds that it waits for another that shows no sign of life.

        Raises:
            InputError: `RANK` and `WORLD_SIZE` are not numbers, or the rank is not below the number of workers.

        Example:
            >>> Worker.here()
            Worker(rank=0, world=1, patience=1800.0)
        """  # noqa: D205 - one sentence
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return cls(torch.distributed.get_rank(), torch.distributed.get_world_size(), patience)
        rank, world = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
        if world in ("", "1"):
            return cls(patience=patience)
        if not (rank.isdecimal() and world.isdecimal()):
            raise InputError(f"RANK={rank!r} and WORLD_SIZE={world!r} of the environment are not valid; set both to "
                             "numbers, as torchrun does, or give worker=Worker(rank, world)")  # fmt: skip
        return cls(int(rank), int(world), patience)

    def others(self) -> list[Worker]:
        """The rest of the workers."""
        return [Worker(rank, self.world) for rank in range(self.world) if rank != self.rank]

    def share(self, spans: Sequence[Span]) -> list[Span]:
        """Those of all shards that this worker writes."""
        return list(spans[self.rank :: self.world])
