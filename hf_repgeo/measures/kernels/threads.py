"""Work of many small steps on several cores: every part in a thread of its own, which computes by itself.

PyTorch shares each operation among its threads, which gains nothing where operations are small. It lets go of Python's
lock inside them, so that parts which do not depend on each other run side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from itertools import count
from threading import Lock
from typing import TypeVar

import torch

from .switch import fast

Part = TypeVar("Part")
Result = TypeVar("Result")


def side_by_side(rows: torch.Tensor) -> int:
    """How many parts work on these rows may be cut into: PyTorch's threads in this thread; 1 on GPU or reference."""
    return torch.get_num_threads() if rows.device.type == "cpu" and fast() else 1


def in_threads(function: Callable[[Part], Result], parts: Sequence[Part], threads: int) -> list[Result]:
    """`function` of each part, in their order, without gradients; parts share the threads evenly.

    Args:
        function: must not write where another part reads.
        parts: any number.
        threads: from `side_by_side`; with 1, all happens here.

    Example:
        >>> from hf_repgeo.measures.kernels.threads import in_threads
        >>> in_threads(lambda x: x * x, [1, 2, 3], threads=2)
        [1, 4, 9]
    """
    workers = min(threads, len(parts))
    if workers < 2:
        with torch.no_grad():
            return [function(part) for part in parts]
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(workers, initializer=_use_cores, initargs=(max(1, threads // len(parts)),)) as pool:
            started = [pool.submit(copy_context().run, _without_gradients, function, part) for part in parts]
            return [each.result() for each in started]
    finally:
        torch.set_num_threads(before)  # what threads that begin later take over was changed as well


def counted(progress: Callable[[int, int], None], total: int) -> Callable[[], None]:
    """Tells of one more step that is done; threads wait for their turn.

    Example:
        >>> from hf_repgeo.measures.kernels.threads import counted
        >>> told = counted(print, 2)
        >>> told()
        1 2
    """
    steps, turn = count(1), Lock()

    def told() -> None:
        with turn:
            progress(next(steps), total)

    return told


def _use_cores(count: int) -> None:
    torch.get_num_threads()  # first takes over the process's number, which would undo the next line later
    torch.set_num_threads(count)


def _without_gradients(function: Callable[[Part], Result], part: Part) -> Result:
    with torch.no_grad():  # a setting of each thread
        return function(part)
