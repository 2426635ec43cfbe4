"""Long work that a button starts: it reports its progress, and stops when asked to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from ..errors import RepgeoError

T = TypeVar("T")
Show = Callable[[str, int, int], None]

PATIENCE = 15 * 60  # seconds
HEARTBEAT = 0.5  # seconds between two looks at the clock


class Stopped(RepgeoError):
    """The visitor asked to stop, or left, or the time was up."""


class Job(Generic[T]):
    """Work in its own thread.

    Args:
        work: called with a function `show(what, done, total)`, which raises `Stopped` once the job is stopped.

    Example:
        >>> job = Job(lambda show: [show("counting", i, 2) for i in range(2)] and "done")
        >>> list(job), job.result
        (['counting, 1 of 2', 'counting, 2 of 2'], 'done')
    """

    def __init__(self, work: Callable[[Show], T]):
        self._work = work
        self._news: SimpleQueue[str | None] = SimpleQueue()
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._result: list[T] = []

    def stop(self) -> None:
        """Ends the work at its next step."""
        self._stop.set()

    @property
    def result(self) -> T:
        """What the work returned; raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._result[0]

    def __iter__(self) -> Iterator[str]:
        """Starts the work, and yields its progress until it ends; closing the iterator stops the work."""
        threading.Thread(target=self._run, daemon=True).start()
        deadline = time.monotonic() + PATIENCE
        try:
            while (news := self._next(deadline)) is not None:
                if news:
                    yield news
        finally:
            self.stop()

    def _next(self, deadline: float) -> str | None:
        """The next progress message; empty while there is none."""
        if time.monotonic() > deadline:
            self.stop()
        try:
            return self._news.get(timeout=HEARTBEAT)
        except Empty:
            return ""

    def _show(self, what: str, done: int, total: int) -> None:
        if self._stop.is_set():
            raise Stopped("stopped")
        self._news.put(f"{what}, {min(done + 1, total)} of {total}")

    def _run(self) -> None:
        try:
            self._result.append(self._work(self._show))
        except BaseException as error:  # `result` raises it again
            self._error = error
        finally:
            self._news.put(None)
