"""Watches one short run of a model: which of its modules are called, with what, and what they return.

Blocks are the entries of a `ModuleList` (or `Sequential`). Watching a run tells more than names do: which entries are
called, how often, in which order, and which tensor goes from one to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from .passes import one_at_a_time, run


class Entry(NamedTuple):
    """A module that is a block, or a part of one: entry `position` of the list at `path`."""

    path: str
    position: int


@dataclass(frozen=True)
class Call:
    """One call of a module in the watched run: of a norm outside all lists, unless it is a `BlockCall`.

    Attributes:
        path: of the module.
        ordinal: 0 for the module's first call in the run, 1 for its second ...
        inputs, outputs: the floating-point tensors of at least two axes among its arguments and results, copied.
    """

    path: str
    ordinal: int
    inputs: list[torch.Tensor]
    outputs: list[torch.Tensor]


@dataclass(frozen=True)
class BlockCall(Call):
    """One call of a block, or of a part of one; `entry`: which entry of which list it is."""

    entry: Entry


def tensors_of(values) -> list[torch.Tensor]:
    """Floating-point tensors of two or more axes in arguments or results, in order; if none, those inside tuples."""
    if torch.is_tensor(values):
        values = [values]
    elif hasattr(values, "values"):
        values = list(values.values())
    elif not isinstance(values, (tuple, list)):
        return []
    found = [value for value in values if torch.is_tensor(value) and value.is_floating_point() and value.ndim > 1]
    return found or [tensor for value in values if type(value) is tuple for tensor in tensors_of(value)]


@one_at_a_time
def watch(model: nn.Module, inputs: dict) -> tuple[list[Call], object]:
    """Runs the model once and returns the calls of blocks and norms in the order in which they ended, and its output.

    Args:
        model: in any mode; it is left as it was.
        inputs: a few tokens, one image or the like: copies of all that blocks exchange are kept.
    """
    calls: list[Call] = []
    counts: dict[str, int] = {}
    entries = _entries(model)
    watched: dict[str, Entry | None] = {**entries, **dict.fromkeys(_norms(model, entries))}
    handles = [handle for path, entry in watched.items() for handle in _watch(model, path, entry, calls, counts)]
    try:
        with called_as_modules(model, watched):
            output = run(model, **inputs)
    finally:
        for handle in handles:
            handle.remove()
    return calls, output


@contextmanager
def called_as_modules(model: nn.Module, paths: Iterable[str]) -> Iterator[None]:
    """While open, hooks also see modules whose `forward` the model calls directly, as SqueezeBERT calls its blocks'."""
    modules = [model.get_submodule(path) for path in paths]
    handles = [_through_call(module) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle()


def _through_call(module: nn.Module) -> Callable[[], None]:
    """Turns `module.forward(...)` into `module(...)`; returns what undoes it."""
    own, of_instance = module.forward, "forward" in vars(module)
    called: list[bool] = []  # one entry while `module(...)` is on its way to `forward`

    def forward(*args, **kwargs):
        if called:
            called.pop()
            return own(*args, **kwargs)
        return module(*args, **kwargs)

    def undo() -> None:
        handle.remove()
        if of_instance:
            module.forward = own
        else:
            vars(module).pop("forward", None)

    handle = module.register_forward_pre_hook(lambda *_: called.append(True))
    module.forward = forward
    return undo


def _watch(model: nn.Module, path: str, entry: Entry | None, calls: list[Call], counts: dict[str, int]):
    came: list[list[torch.Tensor]] = []  # copied before the call, which may change its arguments in place

    def before(module, args, kwargs):
        came.append(_copies([*args, *kwargs.values()]))

    def after(module, args, output):
        seen = path, counts.get(path, 0), came.pop(), _copies(output)
        calls.append(Call(*seen) if entry is None else BlockCall(*seen, entry))
        counts[path] = counts.get(path, 0) + 1

    module = model.get_submodule(path)
    return module.register_forward_pre_hook(before, with_kwargs=True), module.register_forward_hook(after)


def _copies(values) -> list[torch.Tensor]:
    return [tensor.detach().clone() for tensor in tensors_of(values)]


def _entries(model: nn.Module) -> dict[str, Entry]:
    """Module path -> the entry that it is, for the outermost lists; entries that are lists stand for their own entries.

    Linear maps, activations and the like have no parts and are not blocks, unless a list runs in step with others.
    """
    found: dict[str, Entry] = {}
    lists: tuple[str, ...] = ()
    for path, module in model.named_modules():
        if path.startswith(lists) or not isinstance(module, (nn.ModuleList, nn.Sequential)):
            continue
        if isinstance(module, nn.Sequential) and not _alike(module):
            continue
        lists += (f"{path}.",)
        for index, (name, block) in enumerate(module.named_children()):
            within = f"{path}.{name}" if path else name
            if isinstance(block, nn.ModuleList):
                found |= {f"{within}.{part}": Entry(path, index) for part, _ in block.named_children()}
            else:
                found[within] = Entry(path, index)
    return found


def _alike(blocks: nn.Sequential) -> bool:
    """Whether a `Sequential` is a stack of blocks of one class, not a chain such as linear, activation, linear."""
    kinds = {type(block) for block in blocks}
    return len(kinds) == 1 and any(True for block in blocks for _ in block.children())


def _norms(model: nn.Module, entries: dict[str, Entry]) -> list[str]:
    """Norms outside all blocks."""
    lists = tuple(f"{entry.path}." for entry in entries.values())
    named = [(path, f"{type(module).__name__} {path.rpartition('.')[2]}") for path, module in model.named_modules()]
    return [
        path
        for path, words in named
        if path and not path.startswith(lists) and any(word in words.lower() for word in ("norm", "ln_f", "ln_out"))
    ]
