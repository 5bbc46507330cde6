"""Several processes that train together, one share of each batch a process; alone, all of this does nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from steerkit.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    Args:
        rank: Its number.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls) -> Ranks:
        """Those of `torch.distributed`; where torchrun (or `accelerate launch`) started this process, they are met."""
        if not dist.is_available():
            return cls()
        if not dist.is_initialized():
            if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "RANK" not in os.environ:
                return cls()
            dist.init_process_group("nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo")
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def first(self) -> bool:
        """This process writes and speaks for all."""
        return self.rank == 0

    def share(self, indices: Sequence[int], pieces: int) -> list[list[int]]:
        """This process's part of a batch, in at most `pieces` pieces.

        The whole batch is cut into `pieces` times `size` neighboring pieces, as even as can be; empty ones fall away.

        Example:
            >>> Ranks(1, 2).share([7, 8, 9, 10, 11], 2)
            [[8], [10, 11]]
        """
        count = pieces * self.size
        cuts = [len(indices) * i // count for i in range(count + 1)]
        parts = [list(indices[cuts[i] : cuts[i + 1]]) for i in range(self.rank, count, self.size)]
        return [part for part in parts if part]

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Every process gets the sum of the gradients of all; in one message."""
        if self.size == 1:
            return
        grads = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
        flat = torch.cat([one.reshape(-1) for one in grads])
        dist.all_reduce(flat)
        for parameter, part in zip(parameters, torch.split(flat, [one.numel() for one in grads]), strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype)

    def add_numbers(self, numbers: dict[str, float], device: torch.device) -> dict[str, float]:
        """The sum over all processes of each number; a process that had no share lacks them."""
        if self.size == 1:
            return numbers
        found = self._gathered(sorted(numbers))
        names = sorted({name for some in found for name in some})
        values = torch.tensor([numbers.get(name, 0.0) for name in names], dtype=torch.float64, device=device)
        dist.all_reduce(values)
        return dict(zip(names, values.tolist(), strict=True))

    def agree(self, value: Any, *, on: str) -> None:
        """Refuse to go on where the processes differ in something.

        Raises:
            InputError: They do.
        """
        found = self._gathered(value)
        if any(other != found[0] for other in found):
            raise InputError(
                f"the processes differ in {on}: {found}; give all of them the same, and a folder they share"
            )

    def from_first(self, value: T) -> T:
        """What the first process has."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    @torch.no_grad()
    def copy_first(self, tensors: Sequence[Tensor]) -> None:
        """Every process takes the first one's numbers."""
        if self.size > 1:
            for one in tensors:
                dist.broadcast(one.data, src=0)

    def wait(self) -> None:
        """Until all have come here."""
        if self.size > 1:
            dist.barrier()

    def _gathered(self, value: Any) -> list[Any]:
        if self.size == 1:
            return [value]
        box: list[Any] = [None] * self.size
        dist.all_gather_object(box, value)
        return box
