"""A forward pass that leaves the model as it was; everything in this package that runs a model uses it."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from inspect import isgeneratorfunction
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch

from ..errors import BadInput

if TYPE_CHECKING:
    from transformers import PreTrainedModel


F = TypeVar("F", bound=Callable[..., Any])

_PASSES = threading.RLock()


def one_at_a_time(function: F) -> F:
    """Makes other threads wait while the function runs, or while the context that it makes is open.

    Modes, hooks and random generators belong to the model or the process: two threads that read one model at once
    would put back each other's modes and read each other's rows.
    """

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        with _PASSES:
            return function(*arguments, **options)

    @wraps(function)
    def generate(*arguments: Any, **options: Any) -> Iterator:
        with _PASSES:
            yield from function(*arguments, **options)

    return cast(F, generate if isgeneratorfunction(function) else call)


def encoder_of(model: torch.nn.Module) -> PreTrainedModel:
    """The part of a model in training that has hidden states: the body without its head.

    Wrappers are unwrapped: adapters, sentence-transformers, a loss around a model.

    Raises:
        BadInput: there is no transformers model inside.
    """
    from transformers import PreTrainedModel

    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            body = module.base_model  # the head would cost as much as several layers and has no hidden states
            return body if isinstance(body, PreTrainedModel) else module
    wanted = "a transformers model with hidden states"
    raise BadInput("model", came=f"{type(model).__name__}, with no PreTrainedModel inside", wanted=wanted)


def run(model: torch.nn.Module, **inputs):
    """One forward pass that leaves the caller's model as it was: see `undisturbed`.

    Every representation of this package comes from here.

    Args:
        model: in any mode; the pass runs in eval mode, so dropout is off.
        inputs: the arguments of its `forward`.

    Returns:
        What the model returns, without gradients.

    Example:
        >>> import torch
        >>> from hf_repgeo.rows.passes import run
        >>> model = torch.nn.Dropout(0.5).train()
        >>> run(model, input=torch.ones(3)), model.training
        (tensor([1., 1., 1.]), True)
    """
    with undisturbed(model), _uncompiled():
        return model(**inputs)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    said = str(error).lower()
    told = "out of memory" in said or "can't allocate memory" in said
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (isinstance(error, RuntimeError) and told)


def _uncompiled() -> AbstractContextManager:
    """While open, compiled parts of a model run uncompiled: compiled code may skip the hooks that read states.

    Nothing is compiled before `torch._dynamo` is imported, which takes seconds.
    """
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


@contextmanager
@one_at_a_time
def undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients; afterwards every module's own mode and every generator are as before.

    Modes are kept module by module, because `model.train()` would wake parts that the user has frozen in eval mode.
    """
    modules = [module for module in model.modules() if module.training]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=_cuda_devices(model)), torch.no_grad():
        try:
            for module in modules:
                module.training = False
            yield
        finally:
            for module in modules:
                module.training = True
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def _cuda_devices(model: torch.nn.Module) -> list[int]:
    if not torch.cuda.is_initialized():  # then no weight is there, and looking at each takes milliseconds
        return []
    return sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
