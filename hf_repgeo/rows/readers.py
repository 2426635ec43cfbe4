"""Finds the part of a model that reads an input: the whole, or one tower of several."""

from __future__ import annotations

import inspect

from torch import nn

from ..errors import BadInput
from .passes import run


def reader_of(model: nn.Module, inputs: dict) -> nn.Module:
    """The model itself if it runs on these inputs alone, else its largest part that does.

    CLIP reads images and texts together; its text tower reads texts alone.

    Args:
        model: in any mode.
        inputs: small ones, of the kind that will be read.

    Raises:
        BadInput: nothing in it runs on these inputs.
    """
    problem, fails = None, False
    for part in model.modules():
        if not _may_read(part, inputs) or not _takes(part, inputs):
            continue
        try:
            run(part, **{name: value for name, value in inputs.items() if _known(part, name)})
            return part
        except Exception as error:  # whatever a forward pass raises: the next part is tried
            problem, fails = problem or error, fails or not _lacks(part, inputs)
    why = f" ({type(problem).__name__}: {(str(problem).strip().splitlines() or [''])[0]})" if problem else ""
    given = " and ".join(name for name in inputs if name in ("input_ids", *MEDIA))
    if fails:
        came = f"{type(model).__name__}, whose forward pass on {given} fails{why}"
        raise BadInput("model", came=came, wanted="a model whose forward pass runs") from problem
    came = f"{type(model).__name__}, no part of which runs on {given} alone{why}"
    raise BadInput("model", came=came, wanted=f"a model that takes {given}") from problem


MEDIA = ("pixel_values", "input_values", "input_features")


def _may_read(part: nn.Module, inputs: dict) -> bool:
    """Whether a part is a model, or a tower of one: CLIP's are plain modules with blocks in transformers 5.0."""
    from transformers import PreTrainedModel

    if isinstance(part, PreTrainedModel):
        return True
    named = {*inspect.signature(part.forward).parameters} >= {n for n in inputs if n in ("input_ids", *MEDIA)}
    return named and hasattr(part, "config") and any(isinstance(inner, nn.ModuleList) for inner in part.modules())


def _takes(part: nn.Module, inputs: dict) -> bool:
    """Whether the part's forward accepts every main input."""
    return all(_known(part, name) for name in inputs if name in ("input_ids", *MEDIA))


def _lacks(part: nn.Module, inputs: dict) -> bool:
    """Whether the part's forward names a main input that is not there, which may be why it fails."""
    accepted = inspect.signature(part.forward).parameters
    return any(name in accepted and name not in inputs for name in ("input_ids", "decoder_input_ids", *MEDIA))


def _known(part: nn.Module, name: str) -> bool:
    accepted = inspect.signature(part.forward).parameters
    return name in accepted or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in accepted.values())
