"""What may be kept of every shard beside its rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from steerkit.store.statistics import Moments
from steerkit.store.storage import Folder
from steerkit.store.workers import Span, Worker


@runtime_checkable
class Follower(Protocol):
    """What else is kept of every shard, such as running statistics. It is called shard by shard, by one thread."""

    @property
    def moments(self) -> Mapping[int, Moments]:
        """What it comes to, by layer."""
        ...

    def begin(self, folder: Folder | None, manifest: Mapping[str, Any], worker: Worker) -> None:
        """The store lies there (`None`: in memory): take up what was kept of it before."""
        ...

    def has(self, span: Span) -> bool:
        """Whether a shard is safely among what is kept."""
        ...

    def put(self, span: Span, rows: Mapping[int, Tensor], offsets: Tensor | None) -> None:
        """Take in one shard; its rows are in the stored dtype, and lie on the disk unless none are kept."""
        ...

    def refresh(self) -> None:
        """Look what other workers have taken in since."""
        ...

    def finish(self) -> None:
        """The last shard is in."""
        ...
