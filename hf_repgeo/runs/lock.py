"""One run at a time in a folder."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)
_making = threading.Lock()  # two threads that ask at once get one and the same lock


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes and threads out of a folder's report while open; waits until they are done.

    The operating system releases the lock when its process ends, however it ends. One thread may open it twice.

    Args:
        folder: must exist; gets a hidden file `.lock`.
    """
    from filelock import FileLock, Timeout

    with _making:
        lock = FileLock(folder / ".lock", is_singleton=True, thread_local=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.warning("another run writes into %s: waiting until it is done", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
