"""Reads places of a model while it runs: hooks copy the rows that are wanted and keep nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from .passes import one_at_a_time
from .trace import called_as_modules, tensors_of

RESIDUAL, FINAL_NORM = "residual", "final_norm"


class Place(NamedTuple):
    """Where a row is taken: a stack, a layer, and a point there."""

    stack: str
    layer: int
    point: str = RESIDUAL


Take = Callable[[Place, torch.Tensor], Any]


def copied(place: Place, rows: torch.Tensor) -> torch.Tensor:
    """Takes all rows of a place: a copy, since what follows in the model may change its state in place."""
    return rows.clone()


class Layout(NamedTuple):
    """Which axes of a state count sequences and tokens; all others are features.

    `batch` is `None` where the rows of all sequences are concatenated; `start` rows of a sequence stand before
    those of its tokens.
    """

    batch: int | None
    tokens: tuple[int, ...]
    start: int = 0

    def rows(self, state: torch.Tensor) -> torch.Tensor:
        """`(batch, tokens, features)`."""
        features = [axis for axis in range(state.ndim) if axis != self.batch and axis not in self.tokens]
        if self.batch is None:
            return state.permute(*self.tokens, *features).flatten(len(self.tokens)).flatten(0, -2)[None]
        moved = state.permute(self.batch, *self.tokens, *features)
        count, kept = len(self.tokens), moved.shape
        return moved.reshape(kept[0], kept[1 : 1 + count].numel(), kept[1 + count :].numel())[:, self.start :]


@dataclass(frozen=True)
class Tap:
    """How to read one place: tensor `item` of what enters or leaves the `ordinal`-th call of a module.

    `part` is the number of a head and how many there are, where one head's columns are read.
    """

    place: Place
    path: str
    ordinal: int
    side: str
    item: int
    layout: Layout
    part: tuple[int, int] | None = None


@contextmanager
@one_at_a_time
def read_places(model: nn.Module, taps: list[Tap], take: Take) -> Iterator[dict[Place, Any]]:
    """While open, every pass of the model clears the dict and fills it again: place -> what `take` makes of its rows.

    Args:
        model: the model that the taps were found in.
        taps: what to read.
        take: is given the place and its `(batch, tokens, features)`, a view of the model's own state: what it keeps
            should be a copy, since blocks may change their input in place.

    Cost: one Python call per place; memory for what `take` keeps.
    """
    found, hooks = hook_places(model, taps, take)
    with hooks:
        yield found


def hook_places(model: nn.Module, taps: list[Tap], take: Take) -> tuple[dict[Place, Any], ExitStack]:
    """`read_places` for hooks that stay while a model trains: other threads may read other models meanwhile.

    Returns:
        The dict that every pass fills, and what removes the hooks when it is closed.
    """
    found: dict[Place, Any] = {tap.place: None for tap in taps}
    readers = {path: _Reader([tap for tap in taps if tap.path == path], take, found) for path in {t.path for t in taps}}

    def restart(*_) -> None:
        for reader in readers.values():
            reader.restart()

    hooks = ExitStack()
    hooks.callback(model.register_forward_pre_hook(restart).remove)
    for path, reader in readers.items():
        module = model.get_submodule(path)
        hooks.callback(module.register_forward_pre_hook(reader.before, with_kwargs=True).remove)
        hooks.callback(module.register_forward_hook(reader.after).remove)
    hooks.enter_context(called_as_modules(model, readers))
    return found, hooks


class _Reader:
    """Reads the taps of one module, which a looped model calls several times in one pass."""

    def __init__(self, taps: list[Tap], take: Take, found: dict[Place, Any]):
        self.taps, self.take, self.found, self.ordinal = taps, take, found, -1

    def restart(self) -> None:
        self.ordinal = -1

    def before(self, module, args, kwargs) -> None:
        self.ordinal += 1
        self._read("input", [*args, *kwargs.values()])

    def after(self, module, args, output) -> None:
        self._read("output", output)

    def _read(self, side: str, values) -> None:
        for tap in self.taps:
            if tap.side == side and tap.ordinal == self.ordinal:
                self.found[tap.place] = self.take(tap.place, self._rows(tap, values))

    def _rows(self, tap: Tap, values) -> torch.Tensor:
        rows = tap.layout.rows(tensors_of(values)[tap.item])
        if tap.part is None:
            return rows
        number, count = tap.part
        return rows.unflatten(-1, (count, -1))[..., number, :]
