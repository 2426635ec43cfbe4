"""The one place that runs an encoder: windows of tokens -> hidden states of every layer, padding left out."""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import BadInput, UnknownName
from .windows import Windows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Place = tuple[str, int]  # (stack, layer); layer 0 is the embedding layer


def forward_windows(
    model, windows, layers, final_norm, batch_size, progress
) -> Iterator[tuple[torch.Tensor, dict[Place, torch.Tensor]]]:
    """Per batch: flat positions of its tokens in the windows, and each measured layer's states of them, no padding."""
    starts = torch.tensor([0] + [len(window) for window in windows.ids]).cumsum(0)
    batches = range(0, len(windows), batch_size)
    for begin in progress(iter(batches), len(batches)) if progress else batches:
        ids = windows.ids[begin : begin + batch_size]
        mask = torch.tensor([[1] * len(window) + [0] * (max(map(len, ids)) - len(window)) for window in ids])
        padded = torch.zeros_like(mask)
        padded[mask.bool()] = torch.tensor([i for window in ids for i in window])
        states = _hidden_states(model, padded, mask, layers, final_norm)
        positions = torch.arange(int(starts[begin]), int(starts[begin + len(ids)]))
        present = mask.bool().to(model.device)
        yield positions, {place: state[present.to(state.device)] for place, state in states.items()}


def _hidden_states(model, ids, mask, layers, final_norm) -> dict[Place, torch.Tensor]:
    """Measured layers of one batch, `(stack, layer)` -> `(batch, length, d)`. Windows are padded on the right."""
    ids, mask = ids.to(model.device), mask.to(model.device)
    arguments = {"input_ids": ids, "attention_mask": mask, "output_hidden_states": True, "return_dict": True}
    if model.config.is_encoder_decoder:
        arguments |= {"decoder_input_ids": ids, "decoder_attention_mask": mask}
    if "use_cache" in inspect.signature(model.forward).parameters:
        arguments["use_cache"] = False
    with _final_norm(model, final_norm):
        output = run(model, **arguments)
    stacks = {"encoder": "encoder_hidden_states", "decoder": "decoder_hidden_states"}
    if not model.config.is_encoder_decoder:
        stacks = {stack_of(model): "hidden_states"}
    states: dict[Place, torch.Tensor] = {}
    for stack, name in stacks.items():
        hidden = getattr(output, name, None)
        if not hidden:
            raise BadInput(
                "model", came=f"{type(model).__name__}, which returns no {name}", wanted="a model with hidden states"
            )
        states |= {(stack, layer): hidden[layer] for layer in resolve_layers(layers, len(hidden))}
    return states


def resolve_layers(asked: list[int] | None, count: int) -> list[int]:
    if asked is None:
        return list(range(count))
    for layer in asked:
        if not -count <= layer < count:
            raise UnknownName("layer", layer, [f"0 (embeddings) to {count - 1}", f"-1 to -{count}"])
    return sorted({layer % count for layer in asked})


class _final_norm:
    """While open, the last hidden state is after the model's final norm (`"applied"`) or before it (`"raw"`)."""

    def __init__(self, model: PreTrainedModel, choice: str):
        if choice not in ("applied", "raw"):
            raise UnknownName("final_norm", choice, ("applied", "raw"))
        self.config, self.raw = model.config, choice == "raw"

    def __enter__(self) -> None:
        self.before = self.config.__dict__.get("tie_last_hidden_states", _final_norm)
        if self.raw:
            self.config.tie_last_hidden_states = False

    def __exit__(self, *error) -> None:
        if self.raw and self.before is _final_norm:
            del self.config.tie_last_hidden_states
        elif self.raw:
            self.config.tie_last_hidden_states = self.before


def stack_of(model: PreTrainedModel) -> str:
    """`"decoder"` for a model whose tokens see only what came before them, else `"encoder"`."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    kind = model.config.model_type
    causal = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return "decoder" if causal or getattr(model.config, "is_decoder", False) else "encoder"


def final_norm_of(model: PreTrainedModel, windows: Windows, choice: str) -> str:
    """What the last hidden state is: `"applied"` or `"raw"` as chosen, or `"none"` where the two do not differ."""
    ids = torch.tensor([windows.ids[0][:8]])
    last = [_hidden_states(model, ids, torch.ones_like(ids), [-1], norm) for norm in ("applied", "raw")]
    same = all(torch.equal(a, b) for a, b in zip(last[0].values(), last[1].values()))
    return "none" if same else choice


# --- leaving the model as it was -------------------------------------------------------------------------------------


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
        >>> from hf_repgeo.rows.forward import run
        >>> model = torch.nn.Dropout(0.5).train()
        >>> run(model, input=torch.ones(3)), model.training
        (tensor([1., 1., 1.]), True)
    """
    with undisturbed(model):
        return model(**inputs)


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
