"""What a model itself returns as `hidden_states`, and whether an entry is a state that passed between blocks."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import torch
from torch import nn


def asked_for(model: nn.Module) -> dict:
    """The argument that makes the model return `hidden_states`, if its forward takes one."""
    accepted = inspect.signature(model.forward).parameters
    rest = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in accepted.values())
    return {name: True for name in ("output_hidden_states", "return_dict") if rest or name in accepted}


def hidden_states(output) -> Iterator[list[torch.Tensor]]:
    """The tensors of each field of an output that is called hidden states, looking into outputs inside it."""
    for name, value in output.items() if hasattr(output, "items") else ():
        if name.startswith(("reshaped", "fpn")):  # the same states again, as maps; what a head made of them
            continue
        if name.endswith("hidden_states") and isinstance(value, (tuple, list)):
            yield [state for state in value if torch.is_tensor(state)]
        elif hasattr(value, "items"):
            yield from hidden_states(value)


def same(state: torch.Tensor, entry: torch.Tensor) -> bool:
    """Whether an entry of `hidden_states` holds what passes between blocks, in whatever order of axes.

    A model may fill sequences up inside itself (Longformer), put a prompt before them (CPMAnt) or append further
    streams to them (ProphetNet): then its own entry holds the front or the end of the state.
    """
    if state.numel() == entry.numel() and _equal(state.flatten(), entry.flatten()):
        return True
    if state.ndim == 3 and entry.ndim == 4:  # a map of places, channels first
        entry = entry.flatten(2).transpose(1, 2)
    if not state.ndim == entry.ndim == 3:
        return False
    return any(place_in(state.permute(*axes), entry) is not None for axes in ((0, 1, 2), (1, 0, 2), (0, 2, 1)))


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and bool(torch.equal(a.nan_to_num(), b.nan_to_num().to(a)))


def place_in(rows: torch.Tensor, entry: torch.Tensor) -> int | None:
    """How many of the rows precede those of the entry: none, or all that the entry lacks."""
    more = rows.shape[1] - entry.shape[1]
    fits = more >= 0 and rows.ndim == entry.ndim and rows.shape[2:] == entry.shape[2:]
    places = dict.fromkeys((0, more)) if fits else ()
    return next((at for at in places if _equal(rows[:, at : at + entry.shape[1]], entry)), None)
