"""What the models of one sweep have in common: found for the first of them, taken by the others."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")

_memory: ContextVar[dict[str, tuple[Hashable, Any]] | None] = ContextVar("memory", default=None)


@contextmanager
def shared_findings() -> Iterator[None]:
    """While open, `found_once` remembers the last finding of every kind."""
    token = _memory.set({})
    try:
        yield
    finally:
        _memory.reset(token)


def found_once(
    kind: str, key: Callable[[], Hashable], find: Callable[[], T], certain: Callable[[T], bool] = lambda _: True
) -> T:
    """What `find` returns; or what it last returned for the same kind and key, while `shared_findings` is open.

    Args:
        kind: of finding, such as `"windows"`: one of each is kept.
        key: returns everything that decides the finding.
        find: makes it.
        certain: whether a finding may be kept for others.
    """
    memory = _memory.get()
    if memory is None:
        return find()
    known, own = memory.get(kind), key()
    if known is not None and known[0] == own:
        return known[1]
    found = find()
    if certain(found):
        memory[kind] = own, found
    return found
