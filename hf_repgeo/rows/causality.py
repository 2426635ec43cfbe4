"""Encoder or decoder: found by changing a token of a small pass and comparing the rows before and after it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from .capture import Place, Tap, copied, read_places
from .passes import run

LIKE = 16  # rows before a changed token that move by less than this fraction of those after it count as not seeing it


class Kind(NamedTuple):
    """`"decoder"` for a stack whose tokens see only earlier ones, else `"encoder"`; `seen`: whether a token was seen to
    change the row of another one. In a model just initialized none may."""

    name: str
    seen: bool


def kinds_of(model: nn.Module, inputs: dict, ends: list[Tap], before: list[torch.Tensor]) -> list[Kind]:
    """The kind of each stack, found by running the model.

    A token in the middle of the input is changed. Where rows after it change and none before it does, the stack is
    causal. The decoder's input comes first: a decoder sees all of what its encoder has read.

    Args:
        model: any.
        inputs: a small pass.
        ends: what leaves the last block of each stack.
        before: the rows there on these inputs, `(batch, tokens, features)` each.
    """
    kinds: dict[Place, Kind] = {}
    names = sorted(
        (name for name in inputs if name.endswith("input_ids")), key=lambda name: name != "decoder_input_ids"
    )
    for name in names:
        middle, length = _middle(model, inputs[name]), inputs[name].shape[1]
        after = _rows(model, _changed(model, inputs, name, middle), ends)
        for end, a, b in zip(ends, before, after):
            gaps = _gaps(a[:, :length], b[:, :length])  # further rows are padding that the model itself adds
            rounding = 8 * torch.finfo(a.dtype).eps
            if end.place not in kinds and len(gaps) == length and bool(gaps[middle] > rounding):
                kinds[end.place] = _kind(gaps, middle, rounding)
    return [kinds.get(end.place, Kind("encoder", False)) for end in ends]


def _kind(gaps: torch.Tensor, middle: int, rounding: float) -> Kind:
    """The kind of a stack, from how far changing the middle token moved each row; if only its own, none sees another.

    In half precision rounding hides small effects, so rows before are also compared with rows after: a causal stack
    leaves those before unchanged, any other stack moves both alike.
    """
    before, behind = (float(part.max()) if len(part) else 0.0 for part in (gaps[:middle], gaps[middle + 1 :]))
    last = middle + 1 == len(gaps)
    causal = before <= rounding and (last or before < behind / LIKE)
    return Kind("decoder" if causal else "encoder", max(before, behind) > rounding)


def _middle(model: nn.Module, ids: torch.Tensor) -> int:
    """The middle one of the positions that hold a word, not a part of an image, in every sequence."""
    places = torch.nonzero(~torch.isin(ids, _media_tokens(model).to(ids)).any(0))[:, 0].tolist()
    return places[len(places) // 2] if places else ids.shape[1] // 2


def _changed(model: nn.Module, inputs: dict, name: str, place: int) -> dict:
    """One token of each sequence exchanged for another that occurs; never for one that represents part of an image."""
    ids = inputs[name].clone()
    tokens = ids.unique()
    tokens = tokens[~torch.isin(tokens, _media_tokens(model).to(ids))]
    following = tokens[(torch.searchsorted(tokens, ids[:, place].contiguous()) + 1) % len(tokens)]
    ids[:, place] = following if len(tokens) > 1 else (ids[:, place] == 0).to(ids)
    return inputs | {name: ids}


def _media_tokens(model: nn.Module) -> torch.Tensor:
    """Tokens that a configuration sets apart for images, videos and sounds: a model counts them."""
    facts = vars(getattr(model, "config", None) or object).items()
    named = [(name, token) for name, token in facts if name.endswith(("_token_id", "_token_index"))]
    kinds = ("image", "video", "audio", "vision")
    return torch.tensor([token for name, token in named if isinstance(token, int) and name.startswith(kinds)])


def _gaps(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`(tokens,)` difference of rows relative to their norm, the largest over the sequences."""
    norms = torch.linalg.vector_norm(a.float(), dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
    return (torch.linalg.vector_norm((a - b).float(), dim=-1) / norms).amax(0)


def _rows(model: nn.Module, inputs: dict, ends: list[Tap]) -> list[torch.Tensor]:
    """What leaves the last block of each stack, `(batch, tokens, features)`."""
    with read_places(model, ends, copied) as found:
        run(model, **inputs)
    return list(found.values())
