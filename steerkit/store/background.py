"""Work behind the caller's back: one thread, and never more than one thing that waits for it."""

from __future__ import annotations

from collections.abc import Callable
from queue import Queue
from threading import Thread
from typing import Generic, TypeVar

T = TypeVar("T")


class Background(Generic[T]):
    """Hands things to one thread, in their order; after an error it does no more of them.

    Args:
        work: What is done with each.

    Example:
        >>> done = []
        >>> background = Background(done.append)
        >>> background.start()
        >>> background.put(1)
        >>> background.stop()
        >>> done
        [1]
    """

    def __init__(self, work: Callable[[T], None]) -> None:
        self._work = work
        self._queue: Queue[tuple[T] | None] = Queue(maxsize=1)
        self._thread = Thread(target=self._run, name="steerkit-store-writer", daemon=True)
        self._error: BaseException | None = None

    def start(self) -> None:
        """Start the thread, before there is anything that Ctrl-C could lose."""
        self._thread.start()

    def put(self, item: T) -> None:
        """Hand over; waits while another one waits already.

        Raises:
            Exception: What went wrong with an earlier one.
        """
        self._raise()
        try:
            self._queue.put((item,))
        except KeyboardInterrupt:
            self._queue.put((item,))  # what is computed is not lost; written twice it is the same
            raise

    def flush(self) -> None:
        """Wait until all is done.

        Raises:
            Exception: What went wrong with one of them.
        """
        self._queue.join()
        self._raise()

    def stop(self) -> None:
        """Wait until all is done, and end the thread.

        Raises:
            Exception: What went wrong with one of them.
        """
        self._queue.put(None)
        self._thread.join()
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._work(item[0])
                except BaseException as error:  # noqa: BLE001 - raised by the next put, flush or stop
                    self._error = error
            self._queue.task_done()
