"""GeometryLoss: a measure as a term of a model's own loss, for transformers' Trainer and for any other loop.

Trainer(model, arguments, callbacks=[GeometryLoss("iso_score", weight=-0.1)], ...)
"""

from __future__ import annotations

from contextlib import ExitStack
from math import isfinite
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from ..errors import BadInput, UnknownName
from ..losses import TERMS
from ..rows.capture import RESIDUAL, hook_places
from ..rows.forward import places_of
from ..rows.passes import encoder_of
from ..rows.windows import Windows

MEMORY_ROWS = 4096
PADDING = ("attention_mask", "decoder_attention_mask", "labels")  # the arguments that tell where padding is
NO_LABEL = -100  # the label of padding, which the losses of transformers leave out


class GeometryLoss(TrainerCallback):
    """Adds `weight * measure(rows)` to the loss that a model computes while it trains.

    Hooks take the rows of the layers asked for from the model's own forward pass, padding left out, and add the term to
    the loss that the model returns. In an encoder-decoder both stacks are read; the decoder's rows are those that its
    mask keeps or, without one, that have a label. Evaluation is unchanged. A Trainer with `compute_loss_func` or label
    smoothing computes its loss outside of the model, where the term cannot be added: such a training is refused.

    Args:
        measure: one of `hf_repgeo.losses.TERMS`, such as `"iso_score"`, `"uniformity"`, `"patchiness"` (soft cells).
        weight: of the term; training lowers the loss, so a negative weight raises the measure.
        layers: whose rows are measured, 0 what enters block 1, -1 the last; the term is the mean over them.
        memory: number of rows of earlier batches, without gradient, that are measured together with those of the batch.
            The geometry of a small batch alone is biased: with fewer rows than columns, some eigenvalues are zero. At
            most 4,096.

    Attributes:
        values: the measure at every training step so far, as floats.

    Raises:
        UnknownName: a measure that has no differentiable term; when the training begins, a layer that does not exist.
        BadInput: `weight` or `memory` out of range; when the training begins, a loss outside of the model.

    Cost: the measure on the batch's rows at each step, and its gradient.

    Example:
        >>> from hf_repgeo.training.geometry_loss import GeometryLoss
        >>> loss = GeometryLoss("uniformity", weight=0.05, layers=[-1])
        >>> trainer = Trainer(model, arguments, train_dataset=data, callbacks=[loss])  # doctest: +SKIP
        >>> hooks = loss.attach(model)  # in a loop of your own  # doctest: +SKIP
        >>> model(**batch).loss.backward()  # the term is in it  # doctest: +SKIP
    """

    def __init__(self, measure: str, weight: float, *, layers: list[int] | tuple[int, ...] = (-1,), memory: int = 0):
        if measure not in TERMS:
            raise UnknownName("differentiable measure", measure, TERMS)
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or weight == 0 or not isfinite(weight):
            raise BadInput("weight", came=repr(weight), wanted="a finite number other than 0")
        if not 0 <= memory <= MEMORY_ROWS:
            raise BadInput("memory", came=repr(memory), wanted=f"0 to {MEMORY_ROWS} rows")
        self.measure, self.weight, self.layers, self.memory = measure, weight, list(layers), memory
        self.values: list[float] = []
        self._kept: dict[Any, torch.Tensor] = {}
        self._inputs: dict[str, torch.Tensor] = {}
        self._hooks: ExitStack | None = None
        self._logged = 0

    # --- hooks ------------------------------------------------------------------------------------------------------

    def attach(self, model: nn.Module) -> ExitStack:
        """Hooks the term into a model.

        Args:
            model: one that returns its loss if it gets labels, as models of transformers do.

        Returns:
            ExitStack: `close()` removes the hooks.

        Raises:
            BadInput: there is no transformers model inside.
            UnknownName: a layer that does not exist.
        """
        body = encoder_of(model)
        ids = list(range(8))
        taps = [tap for tap in places_of(body, Windows([ids], [[0] * 8]), self.layers) if tap.place.point == RESIDUAL]
        hooks = ExitStack()
        hooks.callback(model.register_forward_pre_hook(self._begin, with_kwargs=True).remove)
        hooks.callback(body.register_forward_pre_hook(self._see, with_kwargs=True).remove)
        behind = body.config.is_encoder_decoder
        found, reading = hook_places(
            body, taps, lambda place, rows: self._rows(rows, behind and place.stack == "decoder")
        )
        hooks.push(reading)
        end = model.register_forward_hook(lambda module, args, output: self._add(module, found, output))
        hooks.callback(end.remove)
        return hooks

    def _begin(self, module, args, kwargs) -> None:
        self._inputs = {}
        self._see(module, args, kwargs)

    def _see(self, module, args, kwargs) -> None:
        self._inputs |= {name: kwargs[name] for name in PADDING if kwargs.get(name) is not None}

    def _rows(self, rows: torch.Tensor, behind_encoder: bool) -> torch.Tensor | None:
        """The rows of tokens that are not padding, `(n, d)`; `None` outside of training."""
        if not torch.is_grad_enabled():
            return None
        mask = _labelled(self._inputs) if behind_encoder else _attended(self._inputs)
        if mask is None or mask.shape != rows.shape[:2]:
            return rows.flatten(0, 1)
        return rows[mask.to(rows.device)]

    def _add(self, model: nn.Module, found: dict, output):
        """The model's output, with the term in its loss."""
        loss = output.get("loss") if hasattr(output, "get") else None
        if not model.training or not torch.is_grad_enabled() or loss is None:
            return None
        term = torch.stack([self._term(place, rows) for place, rows in found.items()]).mean()
        self.values.append(float(term.detach()))
        output["loss"] = loss + self.weight * term.to(loss.dtype)
        return output

    def _term(self, place, rows: torch.Tensor | None) -> torch.Tensor:
        if rows is None or not rows.requires_grad:
            cure = "Pass gradient_checkpointing_kwargs={'use_reentrant': False}."
            raise BadInput("model", came="rows without a gradient", wanted="a training step with one", cure=cure)
        together = torch.cat([rows, self._kept[place].to(rows.dtype)]) if place in self._kept else rows
        if self.memory:
            self._kept[place] = together.detach()[: self.memory]
        return TERMS[self.measure](together)

    # --- in a Trainer -----------------------------------------------------------------------------------------------

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        smoothed = getattr(args, "label_smoothing_factor", 0)
        if smoothed:
            cure = "Set it to 0, or add the term yourself: hf_repgeo.losses."
            raise BadInput(
                "label_smoothing_factor", came=repr(smoothed), wanted="a loss that the model computes", cure=cure
            )
        self._detach()  # hooks that an interrupted training left
        self._kept, self._logged = {}, len(self.values)
        self._hooks = self.attach(model)

    def on_log(self, args, state, control, logs=None, **kwargs):
        fresh = self.values[self._logged :]
        if fresh and state.log_history and "loss" in (logs or {}):
            value = sum(fresh) / len(fresh)
            state.log_history[-1][f"geometry_loss/{self.measure}"] = logs[f"geometry_loss/{self.measure}"] = value
            self._logged = len(self.values)

    def on_train_end(self, args, state, control, **kwargs):
        self._detach()

    def _detach(self) -> None:
        if self._hooks is not None:
            self._hooks.close()
            self._hooks = None


def _attended(inputs: dict[str, torch.Tensor]) -> torch.Tensor | None:
    return inputs["attention_mask"].bool() if "attention_mask" in inputs else None


def _labelled(inputs: dict[str, torch.Tensor]) -> torch.Tensor | None:
    """The tokens of a decoder behind an encoder that are not padding: by its mask, else those that have a label."""
    if "decoder_attention_mask" in inputs:
        return inputs["decoder_attention_mask"].bool()
    return inputs["labels"] != NO_LABEL if "labels" in inputs else None


class SentenceGeometryLoss(nn.Module):
    """A loss of sentence-transformers with a geometry term on the embeddings of each batch.

    Args:
        model: the SentenceTransformer.
        loss: its loss, such as `MultipleNegativesRankingLoss(model)`.
        measure: one of `hf_repgeo.losses.TERMS`.
        weight: of the term; a negative one raises the measure.

    Its trainer logs the task's loss and the weighted term apart: `task` and `geometry_loss/MEASURE`.

    Raises:
        BadInput: in training, a loss that embeds without gradients, as the losses named Cached do.

    Example:
        >>> loss = SentenceGeometryLoss(model, CosineSimilarityLoss(model), "uniformity", 0.1)  # doctest: +SKIP
        >>> SentenceTransformerTrainer(model, train_dataset=data, loss=loss).train()  # doctest: +SKIP
    """

    def __init__(self, model: nn.Module, loss: nn.Module, measure: str, weight: float):
        super().__init__()
        settings = GeometryLoss(measure, weight)
        self.model, self.loss, self.measure, self.weight = model, loss, measure, settings.weight

    def forward(self, sentence_features, labels=None) -> torch.Tensor | dict[str, torch.Tensor]:
        """The parts of the batch's loss, the term being on all embeddings, `(columns * batch, hidden_size)`.

        Outside of training it returns the inner loss alone.
        """
        seen: list[torch.Tensor] = []
        hook = self.model.register_forward_hook(lambda m, args, output: seen.append(output["sentence_embedding"]))
        try:
            value = self.loss(sentence_features, labels)
        finally:
            hook.remove()
        if not self.training or not seen:
            return value
        parts = value if isinstance(value, dict) else {"task": value}
        term = self.weight * TERMS[self.measure](self._embeddings(seen))
        return {**parts, f"geometry_loss/{self.measure}": term.to(next(iter(parts.values())).dtype)}

    def _embeddings(self, seen: list[torch.Tensor]) -> torch.Tensor:
        rows = torch.cat(seen)
        if torch.is_grad_enabled() and not rows.requires_grad:
            came = f"{type(self.loss).__name__}, which embeds without gradients"
            cure = "Use the loss without Cached in its name, or train with smaller batches."
            raise BadInput("loss", came=came, wanted="a loss whose embeddings have gradients", cure=cure)
        return rows
