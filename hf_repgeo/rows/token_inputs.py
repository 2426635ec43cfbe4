"""Turns token ids into the arguments of a forward pass, and finds out whether padding changes a model's rows."""

from __future__ import annotations

import inspect

import torch

from .capture import RESIDUAL, Tap, read_places
from .devices import input_device
from .passes import run

PROBE_BATCH, PROBE_LENGTH = 3, 11  # unlike each other, so that the axes of a state can be told apart
LEAK = 1e-3  # relative difference of a row, a hundred times that of rounding in float32


def padded(ids: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids with zeros after the shorter windows, and the mask that is 1 at tokens; `(batch, length)` each."""
    length = max(map(len, ids))
    mask = torch.tensor([[1] * len(window) + [0] * (length - len(window)) for window in ids])
    padded = torch.zeros_like(mask)
    padded[mask.bool()] = torch.tensor([i for window in ids for i in window])
    return padded, mask


def text_inputs(model, ids: torch.Tensor, mask: torch.Tensor) -> dict:
    """The arguments of a forward pass over token ids. The decoder of an encoder-decoder reads the same text, one token
    later: its start token first, so that row j has read the tokens before j, as in training."""
    device = input_device(model)
    ids, mask = ids.to(device), mask.to(device)
    arguments = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    if model.config.is_encoder_decoder:
        shifted = torch.cat([torch.full_like(ids[:, :1], start_token(model)), ids[:, :-1]], 1)
        arguments |= {"decoder_input_ids": shifted, "decoder_attention_mask": mask}
    accepted = inspect.signature(model.forward).parameters
    kinds = {parameter.kind for parameter in accepted.values()}
    optional = {"use_cache"} if inspect.Parameter.VAR_KEYWORD in kinds else {"use_cache", "attention_mask"}
    return {name: value for name, value in arguments.items() if name in accepted or name not in optional}


def start_token(model) -> int:
    """What the decoder of an encoder-decoder reads first."""
    configs = (model.config, model.config.get_text_config(decoder=True))  # the second holds BART's default, not its own
    known = (getattr(c, f"{name}_token_id", None) for name in ("decoder_start", "bos", "pad") for c in configs)
    return next((token for token in known if isinstance(token, int)), 0)


def probe_ids(windows: list[list[int]]) -> torch.Tensor:
    """A few tokens of the longest window, to try a model with, `(3, at most 11)`."""
    ids = max(windows, key=len)
    length = min(PROBE_LENGTH, max(2, len(ids)))
    return torch.tensor([[ids[(row + i) % len(ids)] for i in range(length)] for row in range(PROBE_BATCH)])


def padding_leaks(model, taps: list[Tap], ids: torch.Tensor) -> bool:
    """Whether a text's rows change when padding follows it: tried on half of the probe, in the last layers.

    Args:
        model: in any mode.
        taps: of the model's stacks.
        ids: `(batch, length)` tokens.
    """
    last = {tap.place.stack: tap for tap in taps if tap.place.point == RESIDUAL}
    short = ids[:, : max(1, ids.shape[1] // 2)]
    alone, beside = (torch.ones_like(short), torch.zeros_like(ids))
    beside[:, : short.shape[1]] = 1
    found = []
    for tokens, mask in ((short, alone), (ids * beside, beside)):
        with read_places(model, list(last.values()), lambda _, rows: rows[:, : short.shape[1]].float()) as states:
            run(model, **text_inputs(model, tokens, mask))
        found.append(states)
    floats = (weight.dtype for weight in model.parameters() if weight.is_floating_point())  # a part may have no dtype
    bound = max(LEAK, 8 * torch.finfo(next(floats, torch.float32)).eps)
    return any(bool(_relative_gap(found[0][place], found[1][place]) > bound) for place in found[0])


def _relative_gap(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if a.shape != b.shape:
        return torch.tensor(torch.inf)
    norms = torch.linalg.vector_norm(a, dim=-1).clamp_min(torch.finfo(a.dtype).tiny)
    return (torch.linalg.vector_norm(a - b, dim=-1) / norms).max()
