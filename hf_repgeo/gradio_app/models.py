"""Measures a visitor's model, once per weights and text; its cost is limited before it is loaded."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

from ..errors import BadInput
from ..profiling import profile
from ..report import GeometryReport
from ..report_text import short_name
from ..rows.representations import DEFAULT_POLICIES
from .finding import NAMES
from .inputs import MAX_TEXT, PACKAGED_MODEL, check_model_id, check_model_size
from .jobs import Show

MODEL_ROWS = 4096
MAX_PARAMETERS = 600_000_000  # two minutes for a forward pass over 4,096 tokens on two cores
MAX_TENSORS = 20_000  # a few seconds to lay out without memory; models of that size have hundreds
MEASURES = ["anisotropy", "intrinsic_dimension", "patchiness", "effective_rank", "massive_share"]
MOST_KNOWN = 32

_known: OrderedDict[tuple, GeometryReport] = OrderedDict()
_lock = threading.Lock()


def measure_model(model: str, text: str, show: Show) -> GeometryReport:
    """A model on about 4,096 tokens with and without sinks; cached by weights and text.

    Args:
        model: Hub id, or the packaged model; weights are read as safetensors, and no code is run.
        text: what the model reads; empty: the packaged sample of Wikipedia.
        show: called with the progress.

    Raises:
        BadInput: no such model, too large a one, or too long a text.
    """
    model, commit = check_request(model, text)
    key = (model, commit, hashlib.sha256(text.strip().encode()).hexdigest())
    with _lock:
        if key in _known:
            _known.move_to_end(key)
            return _known[key]
    check_parameters(model, commit)
    report = profile_model(model, text, show, revision=commit)
    with _lock:
        _known[key] = report
        while len(_known) > MOST_KNOWN:
            _known.popitem(last=False)
    return report


def check_request(model: str, text: str) -> tuple[str, str | None]:
    """The model's id and commit, when it and the text are what an app takes; before anything is loaded.

    Raises:
        BadInput: no such model, too large a one, or too long a text.
    """
    model = check_model_id(model)
    if len(text) > MAX_TEXT:
        raise BadInput("text", came=f"{len(text)} characters", wanted=f"at most {MAX_TEXT}")
    return model, check_model_size(model)


def admit(model: str, text: str) -> tuple[str, str | None]:
    """`check_request`, and then `check_parameters` of the same commit: what every app asks before it loads a model."""
    model, commit = check_request(model, text)
    check_parameters(model, commit)
    return model, commit


def check_parameters(model: str, revision: str | None = None) -> int:
    """The number of a model's parameters, from its configuration, without its weights.

    Raises:
        BadInput: more than 600 million, or a configuration that cannot be read.
    """
    if model == PACKAGED_MODEL:
        return 22_713_216
    from transformers import AutoConfig, AutoModel

    wanted = f"at most {MAX_PARAMETERS / 1e6:,.0f} million"
    cure = "Measure it on your own machine: hf_repgeo.profile of the same name."
    try:
        config = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=False)
        with torch.device("meta"), _bounded_construction():
            count = AutoModel.from_config(config, trust_remote_code=False).num_parameters()
    except _TooLarge as error:
        raise BadInput("model", came=f"{model!r} with {error}", wanted=wanted, cure=cure) from None
    except Exception as error:  # a configuration may hold anything, and a model's class raise anything
        said = " ".join(str(error).split())[:150] or type(error).__name__
        raise BadInput("model", came=f"{model!r} ({said})", wanted="a model that transformers reads") from None
    if count > MAX_PARAMETERS:
        came = f"{model!r} with {count / 1e6:,.0f} million parameters"
        raise BadInput("model", came=came, wanted=wanted, cure=cure)
    return count


class _TooLarge(Exception):
    pass


@contextmanager
def _bounded_construction() -> Iterator[None]:
    """Ends the construction of a model in this thread once it is far beyond the limit.

    Even without memory for the weights, a configuration of a million layers takes hours to lay out. Four times the
    limit leaves room for parameters that are registered again when they are tied.
    """
    mine, seen = threading.get_ident(), [0, 0]

    def count(module, name, parameter):
        if parameter is None or threading.get_ident() != mine:
            return
        seen[0] += 1
        seen[1] += parameter.numel()
        if seen[1] > 4 * MAX_PARAMETERS:
            raise _TooLarge(f"more than {4 * MAX_PARAMETERS / 1e6:,.0f} million parameters")
        if seen[0] > MAX_TENSORS:
            raise _TooLarge(f"parameters in more than {MAX_TENSORS:,} tensors")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def profile_model(model, text: str, show: Show, revision: str | None = None) -> GeometryReport:
    """`measure_model` after its checks: the measures that the pages draw, with and without sinks."""
    texts = [text] if text.strip() else None
    settings: dict[str, Any] = {
        "rows": MODEL_ROWS,
        "measures": MEASURES,
        "tokens": list(DEFAULT_POLICIES),
        "null": "isotropic",
    }
    return profile(model, texts, revision=revision, progress=show, **settings)


def name_of(report: GeometryReport) -> str:
    """The name to show of a measured model: short, and with its text where that is a visitor's own."""
    model = str(report.provenance.get("model", "rows"))
    name = NAMES.get(model, short_name(model))
    own = (report.provenance.get("text") or {}).get("name") == "texts in memory"
    return f"{name} on {'your text' if own else 'Wikipedia'} (now)"
