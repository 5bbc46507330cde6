"""One tap at each place in use, with the functions it calls in the order of their coming."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor

from steerkit.backends.base import Hook
from steerkit.backends.passes import PassCounter
from steerkit.points import Point

Release = Callable[[], None]
"""Takes away what was put into a model."""


class Tap:
    """The functions at one point of one model."""

    def __init__(self, passes: PassCounter) -> None:
        self.passes = passes
        self.functions: list[Hook] = []
        self.releases: list[Release] = []

    def run(self, hidden: Tensor) -> Tensor:
        """The activations after every function; the same tensor where none changed them."""
        pass_ = self.passes.current()
        rows = hidden
        if hidden.ndim == 2:  # some layers see all tokens of a batch in one row
            rows = hidden.view(pass_.batch, pass_.length, -1)
        given = rows
        for fn in self.functions:
            changed = fn(rows, pass_)
            if changed is not None:
                rows = changed
        return hidden if rows is given else rows.view(hidden.shape)


class MidTap(Tap):
    """The stream between attention and MLP, which no module returns: block input plus attention output.

    Writing goes through the attention output, so that the residual stream itself changes and not only what the next
    norm reads.
    """

    entering: Tensor

    def run(self, hidden: Tensor) -> Tensor:
        """The attention output such that the stream after it is what the functions made of it."""
        entering = self.entering.to(hidden.device)  # the block before may lie on another device
        mid = entering + hidden
        changed = super().run(mid)
        return hidden if changed is mid else hidden.where(changed == mid, changed - entering)


class Taps(ABC):
    """All points in use of one model; without any, the model carries nothing of ours.

    Args:
        passes: Knows, for each pass, what its tokens are.
    """

    def __init__(self, passes: PassCounter) -> None:
        self.passes = passes
        self._taps: dict[Point, Tap] = {}

    @property
    def in_use(self) -> bool:
        """Someone reads or writes at this moment."""
        return bool(self._taps)

    @contextmanager
    def open(self, point: Point, fn: Hook) -> Iterator[None]:
        """Have `fn` called at a point while the context is open."""
        tap = self._taps.get(point) or self._install(point)
        tap.functions.append(fn)
        try:
            yield
        finally:
            tap.functions.remove(fn)
            if not tap.functions:
                self._remove(point)

    @abstractmethod
    def register(self, point: Point, tap: Tap, /) -> Iterable[Release]:
        """Have `tap.run` called with the activations at a point, and what it returns put in their place.

        A `MidTap` is run on the attention output after any tap there, and is told the stream that entered the block.
        """

    def watch(self) -> Release:
        """Have the passes announced while any point is in use."""
        return self.passes.attach()

    def _install(self, point: Point) -> Tap:
        tap = MidTap(self.passes) if point.site == "resid_mid" else Tap(self.passes)
        tap.releases = list(self.register(point, tap))
        if not self._taps:
            self._release = self.watch()
        self._taps[point] = tap
        return tap

    def _remove(self, point: Point) -> None:
        for release in self._taps.pop(point).releases:
            release()
        if not self._taps:
            self._release()
