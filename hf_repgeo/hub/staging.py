"""Where the files of a push lie until the Hub has them."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .commits import HubError

KEPT_SECONDS = 14 * 86_400  # for which the files of a push that failed wait for another attempt
IN_USE = ".in-use"


@contextmanager
def staging_folder() -> Iterator[Path]:
    """A folder for the files of one push, deleted after it; those of a push that the Hub refused wait for another.

    A push that is killed cannot delete its folder: the next push does. A running push is known by its lock, which the
    operating system releases however the process ends.
    """
    from filelock import FileLock

    folder = _new_folder()
    refused = False
    try:
        with FileLock(folder / IN_USE):
            yield folder
    except HubError:  # of any other error the report, or what is asked for, must change before another attempt
        refused = True
        raise
    finally:
        if refused:
            (folder / IN_USE).unlink(missing_ok=True)
        else:
            shutil.rmtree(folder)


def _new_folder() -> Path:
    from ..rows.models import cache_folder

    place = cache_folder() / "pushes"
    try:
        place.mkdir(parents=True, exist_ok=True)
        _clear(place)
        return Path(tempfile.mkdtemp(prefix=time.strftime("%Y%m%d-%H%M%S-"), dir=place))
    except OSError:  # a home that cannot be written
        return Path(tempfile.mkdtemp(prefix="hf_repgeo-push-"))


def _clear(place: Path) -> None:
    """Deletes what killed pushes left, and what failed ones left that were not tried again for long."""
    for folder in place.iterdir():
        with suppress(OSError):
            if _was_killed(folder) or time.time() - folder.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(folder)


def _was_killed(folder: Path) -> bool:
    """Whether a push began in this folder, did not end, and is not running."""
    from filelock import FileLock, Timeout

    if not (folder / IN_USE).exists():
        return False
    try:
        with FileLock(folder / IN_USE, timeout=0):
            return True
    except Timeout:
        return False
