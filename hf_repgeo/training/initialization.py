"""Geometry-led initialisation: a fresh model's weights, adjusted until its geometry on sample text matches a target.

match_geometry(model, batches, {"effective_rank": {1: 40.0, 2: 35.0}})     before the training, without any label
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from math import isfinite
from typing import Any

import torch
from torch import nn

from ..errors import BadInput, UnknownName
from ..losses import TERMS
from ..measures import MEASURES
from ..rows.capture import RESIDUAL, Place, copied, read_places
from ..rows.forward import places_of
from ..rows.passes import encoder_of
from ..rows.windows import Windows

Targets = Mapping[str, Mapping[int, float]]


def match_geometry(
    model: nn.Module,
    batches: Sequence[Mapping[str, torch.Tensor]],
    targets: Targets,
    *,
    steps: int = 100,
    learning_rate: float = 1e-3,
) -> list[float]:
    """Adjusts a model's weights in place until measures of its representations come near their targets.

    Adam on `mean(((measure - target) / unit)^2)` over measures and layers, where the unit is the width of the measure's
    range, or the target itself if the range is unbounded. No labels are used: the model learns nothing about its task.
    Take the targets from a trained model of the same shape, such as a `profile` of it on the same text.

    Args:
        model: any transformers model that reads `input_ids`; it runs in evaluation mode and gets its modes back.
        batches: inputs of the model, `{"input_ids": (batch, tokens), "attention_mask": ...}`, used in turn. Measures
            are of the rows of one batch: it should hold several times as many tokens as the model has columns.
        targets: measure -> layer -> value, with the measures of `hf_repgeo.losses.TERMS`.
        steps: of Adam.
        learning_rate: of Adam.

    Returns:
        list[float]: the squared distance from the targets at each step, before the step.

    Raises:
        BadInput: no target, no batch, no steps, or a target that is not a finite number.
        UnknownName: a measure without a differentiable term, or a layer that does not exist.

    Cost: one forward and backward pass per step.

    Source: Marbut et al. 2024 propose geometry-informed initialisation as future work. docs/dynamics.md tries it.

    Example:
        >>> from hf_repgeo.training.initialization import match_geometry
        >>> distances = match_geometry(model, batches, {"effective_rank": {6: 90.0}})  # doctest: +SKIP
        >>> distances[-1] < distances[0]  # doctest: +SKIP
        True
    """
    _check(batches, targets, steps)
    body = encoder_of(model)
    modes = [(module, module.training) for module in body.modules()]
    body.eval()
    weights = [weight for weight in body.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=learning_rate)
    distances = []
    try:
        with read_places(body, _taps(body, targets), copied) as found:
            for batch in islice(cycle(batches), steps):
                distance = _distance(body, found, batch, targets)
                optimizer.zero_grad()
                distance.backward()
                optimizer.step()
                distances.append(float(distance.detach()))
    finally:
        optimizer.zero_grad()
        for module, mode in modes:
            module.training = mode
    return distances


def _check(batches: Any, targets: Targets, steps: int) -> None:
    if steps < 1:
        raise BadInput("steps", came=str(steps), wanted="at least 1")
    if not len(batches):
        raise BadInput("batches", came="no batch", wanted="inputs of the model")
    if not any(targets.values()):
        raise BadInput("targets", came="no target", wanted="measure -> layer -> value")
    for measure, by_layer in targets.items():
        if measure not in TERMS:
            raise UnknownName("differentiable measure", measure, TERMS)
        for layer, value in by_layer.items():
            if not isfinite(value):
                raise BadInput("targets", came=f"{value!r} for {measure} of layer {layer}", wanted="a finite number")


def _taps(body: nn.Module, targets: Targets) -> list:
    ids = list(range(8))
    layers = sorted({layer for by_layer in targets.values() for layer in by_layer})
    return [tap for tap in places_of(body, Windows([ids], [[0] * 8]), layers) if tap.place.point == RESIDUAL]


def _distance(body: nn.Module, found: dict[Place, Any], batch: Mapping, targets: Targets) -> torch.Tensor:
    """Mean squared distance from the targets on one batch, padding left out."""
    body(**batch)
    mask = batch.get("attention_mask")
    layers = {place.layer: rows.flatten(0, 1) if mask is None else rows[mask.bool()] for place, rows in found.items()}
    depth = max(layers)
    terms = [
        ((TERMS[measure](layers[layer % (depth + 1)]) - value) / unit_of(measure, value)).square()
        for measure, by_layer in targets.items()
        for layer, value in by_layer.items()
    ]
    return torch.stack(terms).mean()


def unit_of(measure: str, target: float) -> float:
    """The width of a measure's range; the target if the range is unbounded."""
    low, high = MEASURES[measure].range
    return abs(target) or 1.0 if low is None or high is None else high - low
