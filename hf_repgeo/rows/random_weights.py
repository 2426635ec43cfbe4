"""Weights that a checkpoint lacks: transformers draws them at random. Do the measured states depend on them?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from ..errors import BadInput
from .forward import forward_windows
from .windows import Windows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS = 8  # of the pass that finds which weights matter
SHOWN = 20  # names in a report


Look = Callable[["PreTrainedModel"], list[torch.Tensor]]


def check_weights(model: PreTrainedModel, info: dict, allowed: bool, look: Look | None = None) -> dict:
    """Refuses a model with random weights that feed its hidden states, unless they are allowed.

    Args:
        model: as transformers loaded it.
        info: its loading info: `missing_keys`, `mismatched_keys`.
        allowed: whether the caller asked for them.
        look: runs the model on a small input and returns the states that will be measured; default:
        `states_on_tokens`.

    Returns:
        dict: for the report: `random_weights`, their number and names; empty where there are none.

    Raises:
        BadInput: there are random weights, and they are not allowed.
    """
    absent = set(info.get("missing_keys") or ())
    absent |= {key[0] if isinstance(key, tuple) else key for key in info.get("mismatched_keys") or ()}
    names = sorted(feeding(model, absent, look or states_on_tokens)) if absent else []
    if not names:
        return {}
    if not allowed:
        count = len(list(model.parameters()))
        came = f"a checkpoint without {len(names)} of the model's {count} weights, such as {names[0]!r}"
        cure = "They would be random. To measure the model so, pass allow_random_weights=True."
        raise BadInput("model", came=came, wanted="all weights that feed the hidden states", cure=cure)
    return {"random_weights": {"count": len(names), "names": names[:SHOWN]}}


def feeding(model: PreTrainedModel, absent: Iterable[str], look: Look) -> list[str]:
    """Those weights on which the measured states depend.

    Weights are set to NaN, all of one block of the model at a time, and it is run shortly: a state that is NaN has seen
    one. Weights of modules that did not run, such as an expert that no token chose, count where something around them
    ran in a block that feeds a state. What cannot be set to NaN (quantized, or on disk) counts, but for a pooler's.
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
            parts.setdefault(_block(name), []).append(name)
    ran = _modules_that_ran(model, look) if parts else set()
    for block, names in parts.items():
        idle = [name for name in names if _idle_inside(name, ran)]
        around = [name for name in weights if idle and name.startswith(f"{block}.")]
        found += idle if _feed(model, weights, around, look) else []
        others = [name for name in names if _owner(name) in ran]
        found += others if _feed(model, weights, others, look) else []
    return found


def _feed(model: PreTrainedModel, weights: dict[str, torch.Tensor], names: list[str], look: Look) -> bool:
    """Whether a state is NaN where these weights are."""
    usable = [weights[name] for name in names if not weights[name].is_meta and weights[name].is_floating_point()]
    if not usable:
        return False
    with _nan(iter(usable)):
        return any(bool(state.isnan().any()) for state in look(model))


def _block(name: str) -> str:
    """The outermost numbered module that holds a weight, such as `encoder.layer.5`; else the model's part.

    Example:
        >>> _block("encoder.layer.5.output.dense.bias"), _block("embeddings.norm.weight")
        ('encoder.layer.5', 'embeddings')
    """
    parts = name.split(".")
    number = next((place for place, part in enumerate(parts) if part.isdigit()), 0)
    return ".".join(parts[: number + 1])


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


def _idle_inside(name: str, ran: set[str]) -> bool:
    """Whether the weight's module did not run, but one that holds it did, other than the whole model."""
    owner, around = _owner(name), _owner(_owner(name))
    while around and around not in ran:
        around = _owner(around)
    return owner not in ran and bool(around)


def states_on_tokens(model: PreTrainedModel, layers: list[int] | None = None) -> list[torch.Tensor]:
    """The states of these layers, and what leaves the final norm after the last, in a pass over a few tokens."""
    embeddings = model.get_input_embeddings()
    count = getattr(embeddings, "num_embeddings", TOKENS)
    ids = [number % count for number in range(TOKENS)]
    windows = Windows([ids], [[0] * TOKENS])
    batches = forward_windows(model, windows, layers, "applied", 1, None)
    return [state for _, states in batches for state in states.values()]


def _modules_that_ran(model: PreTrainedModel, look: Look) -> set[str]:
    ran: set[str] = set()
    modules = [(name, module) for name, module in model.named_modules() if name]
    hooks = [module.register_forward_hook(lambda *_, name=name: ran.add(name)) for name, module in modules]
    try:
        look(model)
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
