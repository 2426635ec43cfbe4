"""Files that are replaced in one step: a reader sees the old content or the new, never half of it."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A file beside `path`, of the same ending, to write into: afterwards it takes the place of `path` in one step.

    If writing fails, `path` stays as it was and the file beside it is deleted. The content is on the disk before it
    takes its place, so that a power cut cannot leave an empty file either.
    """
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}-{threading.get_ident()}{path.suffix}")
    try:
        yield unfinished
        _flush_to_disk(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> Path:
    """Writes a text (as UTF-8) or bytes into a file, which is replaced in one step; returns its path."""
    with written_whole(path) as unfinished:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@contextmanager
def folder_written_whole(folder: Path) -> Iterator[Path]:
    """A folder inside `folder` to write into: afterwards its files take their places in `folder`, each in one step.

    If writing fails, `folder` keeps the files that it had, and is deleted if it had none. Files that are not written
    again stay.
    """
    was_there = folder.exists()
    unfinished = folder / ".unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)  # of a writer that was killed
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        for file in sorted(path for path in unfinished.rglob("*") if path.is_file()):
            _flush_to_disk(file)
            place = folder / file.relative_to(unfinished)
            place.parent.mkdir(parents=True, exist_ok=True)
            file.replace(place)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        if not was_there and not any(folder.iterdir()):
            folder.rmdir()


def _flush_to_disk(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
