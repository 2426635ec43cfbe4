"""Several processes that train one model: shares values, and decides which of them run a forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist

from ..rows.forward import encoder_of, undisturbed

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def several() -> bool:
    """Whether this process is one of several that train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def is_first() -> bool:
    return not several() or dist.get_rank() == 0


def agreed(value: Any) -> Any:
    """The first process's value, in every process; all of them have to call it."""
    if not several():
        return value
    holder = [value]
    dist.broadcast_object_list(holder, src=0)
    return holder[0]


def first_of(value: Any) -> Any:
    """The first value that is not `None`, by rank, in every process; all of them have to call it."""
    if not several():
        return value
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return next((each for each in values if each is not None), None)


def is_sharded(model: torch.nn.Module) -> bool:
    """Whether no process holds all weights (FSDP, ZeRO-3), so that all have to run the forward pass together."""
    return _root_of_fsdp(model) is not None or any(hasattr(p, "ds_id") for p in model.parameters())


def part_to_run(model: torch.nn.Module) -> PreTrainedModel:
    """The body that has the hidden states; under FSDP the whole model, whose root gathers what the body needs."""
    return cast("PreTrainedModel", _root_of_fsdp(model) or encoder_of(model))


@contextmanager
def left_as_found(model: torch.nn.Module) -> Iterator[PreTrainedModel]:
    """`undisturbed`, and yields the part to run.

    FSDP2 leaves its root gathered after a forward pass without backward; an optimizer that is created then would hold
    tensors that FSDP discards. So everything is sharded again.
    """
    with undisturbed(model):
        try:
            yield part_to_run(model)
        finally:
            for part in model.modules() if _root_of_fsdp(model) is not None else ():
                reshard = getattr(part, "reshard", None)
                if callable(reshard):
                    reshard()


def _root_of_fsdp(model: torch.nn.Module) -> torch.nn.Module | None:
    """The outermost module that FSDP, either version of it, has sharded."""
    if not dist.is_available() or not dist.is_initialized():
        return None
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    return next((part for part in model.modules() if isinstance(part, (FSDPModule, FullyShardedDataParallel))), None)
