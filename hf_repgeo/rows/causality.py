"""Encoder or decoder: tried on the model itself, by changing a token and looking at the rows before and behind it."""

from __future__ import annotations

import torch
from torch import nn

from .capture import Place, Tap, read_places
from .passes import run


def kinds_of(model: nn.Module, inputs: dict, ends: list[Tap]) -> list[str]:
    """`"decoder"` for a stack whose tokens see only what came before them, else `"encoder"`: tried on the model.

    A token in the middle of the input is changed. Where rows behind it change and none before it does, the stack is
    causal. The decoder's input comes first: a decoder sees all of what its encoder has read.

    Args:
        model: any.
        inputs: a small pass.
        ends: what leaves the last block of each stack.
    """
    kinds: dict[Place, str] = {}
    names = sorted(
        (name for name in inputs if name.endswith("input_ids")), key=lambda name: name != "decoder_input_ids"
    )
    for name in names:
        middle, length = _middle(model, inputs[name]), inputs[name].shape[1]
        before, after = (_rows(model, some, ends) for some in (inputs, _changed(model, inputs, name, middle)))
        for end, a, b in zip(ends, before, after):
            changed = _changed_rows(a[:, :length], b[:, :length]).any(0)  # more rows: filled up inside the model
            if end.place not in kinds and len(changed) == length and bool(changed[middle]):
                kinds[end.place] = _kind(changed, middle)
    return [kinds.get(end.place, "encoder") for end in ends]


def _kind(changed: torch.Tensor, middle: int) -> str:
    """From which rows a changed token in the middle changed; where none but its own, tokens see nothing of others."""
    sees_later, sees_earlier = bool(changed[:middle].any()), bool(changed[middle + 1 :].any())
    behind = len(changed) - middle - 1
    return "decoder" if not sees_later and (sees_earlier or not behind) else "encoder"


def _middle(model: nn.Module, ids: torch.Tensor) -> int:
    """The place in the middle of those that hold a word in every sequence, no part of an image."""
    places = torch.nonzero(~torch.isin(ids, _media_tokens(model).to(ids)).any(0))[:, 0].tolist()
    return places[len(places) // 2] if places else ids.shape[1] // 2


def _changed(model: nn.Module, inputs: dict, name: str, place: int) -> dict:
    """One token of each sequence exchanged for another that occurs; none that stands for a part of an image."""
    ids = inputs[name].clone()
    tokens = ids.unique()
    tokens = tokens[~torch.isin(tokens, _media_tokens(model).to(ids))]
    following = tokens[(torch.searchsorted(tokens, ids[:, place].contiguous()) + 1) % len(tokens)]
    ids[:, place] = following if len(tokens) > 1 else (ids[:, place] + 1).clamp_max(1)
    return inputs | {name: ids}


def _media_tokens(model: nn.Module) -> torch.Tensor:
    """Tokens that a configuration sets apart for images, videos and sounds: a model counts them."""
    facts = vars(getattr(model, "config", None) or object).items()
    named = [(name, token) for name, token in facts if name.endswith(("_token_id", "_token_index"))]
    kinds = ("image", "video", "audio", "vision")
    return torch.tensor([token for name, token in named if isinstance(token, int) and name.startswith(kinds)])


def _changed_rows(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`(batch, tokens)` whether a row differs by more than rounding."""
    gap = torch.linalg.vector_norm((a - b).float(), dim=-1)
    return gap > 8 * torch.finfo(a.dtype).eps * torch.linalg.vector_norm(a.float(), dim=-1)


def _rows(model: nn.Module, inputs: dict, ends: list[Tap]) -> list[torch.Tensor]:
    """What leaves the last block of each stack, `(batch, tokens, features)`."""
    with read_places(model, ends, lambda rows: rows) as found:
        run(model, **inputs)
    return list(found.values())
