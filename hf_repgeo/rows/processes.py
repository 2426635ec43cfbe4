"""One job in several processes, on torch.distributed: each does its share, and the results are put together.

torchrun --nproc_per_node 2 -m hf_repgeo profile MODEL
with working_together(): report = hf_repgeo.profile(MODEL)       in a script that a launcher starts
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ..errors import RepgeoError

Item = TypeVar("Item")
PATIENCE = timedelta(days=1)  # an ended process is noticed at once; one that measures a wide layer may take hours


@dataclass(frozen=True)
class Team:
    """The processes that share a job; alone, there is one.

    Attributes:
        rank: number of this process, from 0.
        size: how many there are.
        group: torch.distributed's process group, through which they communicate.
    """

    rank: int = 0
    size: int = 1
    group: Any = None

    @property
    def first(self) -> bool:
        """Whether this process writes the report."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Every `size`-th of the items: those of this process."""
        return items[self.rank :: self.size]

    def from_first(self, value: Any) -> Any:
        """What the first process holds, in every process."""
        return self.all_gather(value)[0] if self.size > 1 else value

    def all_gather(self, value: Any) -> list[Any]:
        """What each process holds, in every process; all of them have to call it."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        with _told_of_the_lost():
            dist.all_gather_object(found, value, group=self.group)
        return found

    def gather(self, value: Any, to: int) -> list[Any] | None:
        """What each process holds, in the process `to`; `None` in all others. All of them have to call it."""
        if self.size == 1:
            return [value]
        found: list[Any] | None = [None] * self.size if self.rank == to else None
        with _told_of_the_lost():
            dist.gather_object(value, found, group=self.group, group_dst=to)
        return found


_team: ContextVar[Team | None] = ContextVar("team", default=None)


def current_team() -> Team:
    """The processes that share the work now: those of `working_together`, else this one alone."""
    return _team.get() or Team()


@contextmanager
def working_together() -> Iterator[Team]:
    """While open, `measure` and `profile` share their work with the other processes of the launcher.

    Every process calls the same functions in the same order and gets the whole report; only the first writes files.
    torchrun, `accelerate launch`, or anything else that sets `WORLD_SIZE`, `RANK`, `MASTER_ADDR` and `MASTER_PORT`
    will do. Without them there is one process and nothing to share.

    Raises:
        RepgeoError: another process ended before the work was done.

    Example:
        >>> from hf_repgeo.rows.processes import working_together
        >>> with working_together() as team:
        ...     (team.rank, team.size)
        (0, 1)
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield Team()
        return
    started = not dist.is_initialized()
    if started:
        with _told_of_the_lost():
            dist.init_process_group("gloo", timeout=PATIENCE)
    group = dist.group.WORLD if dist.get_backend() == "gloo" else dist.new_group(backend="gloo", timeout=PATIENCE)
    team = Team(dist.get_rank(), dist.get_world_size(), group)
    token = _team.set(team)
    try:
        yield team
    finally:
        _team.reset(token)
        if started:  # closes the connections, so that processes that wait for this one get an error
            dist.destroy_process_group()


def own_device() -> str | None:
    """The GPU of this process, if there are several GPUs and several processes; `None`: the default."""
    if current_team().size == 1 or not torch.cuda.is_available():
        return None
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


def interleaved(shares: Sequence[Sequence[Item]]) -> list[Item]:
    """Puts the shares that `Team.share` gave the processes back into the order of the items."""
    total = sum(map(len, shares))
    return [shares[number % len(shares)][number // len(shares)] for number in range(total)]


@contextmanager
def _told_of_the_lost() -> Iterator[None]:
    """Turns the error that torch.distributed raises when another process is gone into a `RepgeoError`."""
    try:
        yield
    except RuntimeError as error:
        said = str(error).strip().splitlines()[0][:200]
        raise RepgeoError(
            f"another process of this run ended before its work was done ({said}); its own message says why. Layers "
            "that were finished are on disk, and the same command resumes from there."
        ) from error
