"""Counts bytes of tensors as PyTorch allocates and frees them; unlike process memory, it repeats exactly."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class TensorMemory(TorchDispatchMode):
    """While open, `peak` is the most bytes that tensors held beyond those that were there before."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        before = {tensor.untyped_storage()._cdata for tensor in _tensors((args, kwargs))}
        output = function(*args, **(kwargs or {}))
        for tensor in _tensors(output):
            storage = tensor.untyped_storage()
            if storage._cdata not in self.known | before:  # a view shares its storage
                self._count(storage)
        return output

    def _count(self, storage: torch.UntypedStorage) -> None:
        self.known.add(storage._cdata)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())

    def _free(self, name: int, size: int) -> None:
        self.known.discard(name)
        self.live -= size


def _tensors(values: Any) -> list[torch.Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


def peak_bytes(function: Callable[[], object]) -> int:
    """The most bytes of tensors that a function holds at once, what it returns included."""
    with TensorMemory() as memory:
        kept = function()
    del kept
    return memory.peak
