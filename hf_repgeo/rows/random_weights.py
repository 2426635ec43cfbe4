"""Weights that a checkpoint lacks: transformers draws them at random. Do the hidden states depend on them?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from ..errors import BadInput
from .forward import forward_windows
from .windows import Windows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS = 8  # of the pass that looks
SHOWN = 20  # names in a report


def check_weights(model: PreTrainedModel, info: dict, allowed: bool) -> dict:
    """Refuses a model with random weights that feed its hidden states, unless they are allowed.

    Args:
        model: as transformers loaded it.
        info: its loading info: `missing_keys`, `mismatched_keys`.
        allowed: whether the caller asked for them.

    Returns:
        dict: for the report: `random_weights`, their number and names; empty where there are none.

    Raises:
        BadInput: there are some.
    """
    absent = set(info.get("missing_keys") or ())
    absent |= {key[0] if isinstance(key, tuple) else key for key in info.get("mismatched_keys") or ()}
    names = sorted(feeding(model, absent)) if absent else []
    if not names:
        return {}
    if not allowed:
        count = len(list(model.parameters()))
        came = f"a checkpoint without {len(names)} of the model's {count} weights, such as {names[0]!r}"
        cure = "They would be random. To measure the model so, pass allow_random_weights=True."
        raise BadInput("model", came=came, wanted="all weights that feed the hidden states", cure=cure)
    return {"random_weights": {"count": len(names), "names": names[:SHOWN]}}


def feeding(model: PreTrainedModel, absent: Iterable[str]) -> list[str]:
    """Those weights on which the hidden states depend.

    Weights are set to NaN, all of one part of the model at a time, and a few tokens are run: a state that is NaN has
    seen one. Weights of modules that did not run, such as an expert that no token chose, count where something around
    them ran. What cannot be set to NaN (quantized, or on disk) counts, but for a pooler's.
    """
    weights = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    parts: dict[str, list[str]] = {}
    found = []
    for name in absent:
        weight = weights.get(name)
        if weight is None:
            continue
        if weight.is_meta or not weight.is_floating_point():
            found += [] if "pooler" in name.split(".") else [name]
        else:
            parts.setdefault(name.split(".")[0], []).append(name)
    ran = _modules_that_ran(model) if parts else set()
    for names in parts.values():
        with _nan(weights[name] for name in names):
            fed = _states_are_nan(model)
        found += [name for name in names if (fed and _owner(name) in ran) or _idle_inside(name, ran)]
    return found


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


def _idle_inside(name: str, ran: set[str]) -> bool:
    """Whether the weight's module did not run, but one that holds it did, other than the whole model."""
    owner, around = _owner(name), _owner(_owner(name))
    while around and around not in ran:
        around = _owner(around)
    return owner not in ran and bool(around)


def _pass(model: PreTrainedModel) -> list[torch.Tensor]:
    embeddings = model.get_input_embeddings()
    count = getattr(embeddings, "num_embeddings", TOKENS)
    ids = [number % count for number in range(TOKENS)]
    windows = Windows([ids], [[0] * TOKENS])
    batches = forward_windows(model, windows, None, "applied", 1, None)
    return [state for _, states in batches for state in states.values()]


def _states_are_nan(model: PreTrainedModel) -> bool:
    return any(bool(state.isnan().any()) for state in _pass(model))


def _modules_that_ran(model: PreTrainedModel) -> set[str]:
    ran: set[str] = set()
    modules = [(name, module) for name, module in model.named_modules() if name]
    hooks = [module.register_forward_hook(lambda *_, name=name: ran.add(name)) for name, module in modules]
    try:
        _pass(model)
    finally:
        for hook in hooks:
            hook.remove()
    return ran


@contextmanager
def _nan(weights: Iterator[torch.Tensor]) -> Iterator[None]:
    """While open, these weights are NaN."""
    kept = []
    with torch.no_grad():
        try:
            for weight in weights:
                kept.append((weight, weight.clone()))
                weight.fill_(torch.nan)
            yield
        finally:
            for weight, before in kept:
                weight.copy_(before)
