"""One pass of a model that its owner does not notice; everything in this package that runs a model goes through it."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import BadInput

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def encoder_of(model: torch.nn.Module) -> PreTrainedModel:
    """The part of a model in training that has hidden states: the body without its head.

    Wrappers are looked into: adapters, sentence-transformers, a loss around a model.

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
    """One forward pass that the caller's model does not notice: see `undisturbed`.

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


def _uncompiled() -> AbstractContextManager:
    """While open, compiled parts of a model run as they were written: compiled code may pass over the hooks that read.

    Nothing is compiled before `torch._dynamo` is imported, which takes seconds.
    """
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


@contextmanager
def undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients; afterwards every module's own mode and every generator are as before.

    Modes are kept module by module, because `model.train()` would wake parts that the user has frozen in eval mode.
    """
    modes = [(module, module.training) for module in model.modules()]
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        try:
            for module, _ in modes:
                module.training = False
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            random.setstate(python_state)
            np.random.set_state(numpy_state)
