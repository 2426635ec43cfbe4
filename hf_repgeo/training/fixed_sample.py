"""A fixed sample of tokens that runs through a model in training again and again, and what is measured on it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import BadInput
from ..measures import MEASURES, Estimate, PointCloud, evaluate_all, missing
from ..measures.batch_means import columns_of
from ..rows.forward import Place, forward_windows, resolve_layers
from ..rows.windows import Windows, resolve_window, window_limit

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

COSTLY = ("neighbors", "cells")  # what a measure needs when it is taken in a few layers only
SAMPLE_FORMS = "texts, a datasets.Dataset, or dicts of input_ids and attention_mask"


# --- what is run ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FixedSample:
    """Token sequences without padding, the longest first, so that a batch holds little of it.

    Attributes:
        windows: the sequences.
        rows: their tokens: the rows of every layer's cloud.
    """

    windows: Windows
    rows: int

    @classmethod
    def of(cls, given: Any, tokenizer: PreTrainedTokenizerBase | None, encoder: PreTrainedModel) -> FixedSample:
        """Reads a probe in any of its forms.

        Args:
            given: strings; a `datasets.Dataset` (or any iterable of its rows) with a column `text` or `input_ids`; one
                dict of `input_ids` and `attention_mask`, 1-D for one example or 2-D for a batch; or several dicts.
            tokenizer: needed for texts only; it adds its special tokens and cuts at 512 tokens or the model's limit.
            encoder: the model whose limits count.

        Raises:
            BadInput: another form; no tokenizer for texts; a batch without `attention_mask`; a sequence longer than the
                model takes; nothing in it but special tokens.
        """
        items = [given] if isinstance(given, Mapping) else list(_iterable(given))
        texts = [item if isinstance(item, str) else item["text"] for item in items if _is_text(item)]
        sequences = [ids for item in items if not _is_text(item) for ids in _unpadded(item)]
        _check_lengths(sequences, encoder, tokenizer)
        sequences += _tokenized(texts, tokenizer, encoder) if texts else []
        sequences = [ids for ids in sequences if _says_something(ids, tokenizer)]
        if not sequences:
            came = f"{len(items)} example(s) that tokenize to nothing"
            raise BadInput("probe", came=came, wanted="at least one token that is not a special one")
        sequences.sort(key=len, reverse=True)
        windows = Windows(sequences, [[number] * len(ids) for number, ids in enumerate(sequences)])
        return cls(windows, sum(map(len, sequences)))

    def provenance(self) -> dict:
        """Its size, and a digest by which another run can tell whether it used the same tokens."""
        digest = hashlib.sha256(repr(self.windows.ids).encode()).hexdigest()
        return {"rows": self.rows, "sequences": len(self.windows), "sha256": digest}


def _iterable(given: Any) -> Iterable:
    if isinstance(given, str):
        cure = "Read a file with hf_repgeo.read_text(path).documents; pass one text in a list."
        raise BadInput("probe", came=f"the string {given[:60]!r}", wanted=SAMPLE_FORMS, cure=cure)
    if not isinstance(given, Iterable) or isinstance(given, (bytes, torch.Tensor, np.ndarray)):
        raise BadInput("probe", came=f"a {type(given).__name__}", wanted=SAMPLE_FORMS)
    return given


def _is_text(item: Any) -> bool:
    if isinstance(item, str) or (isinstance(item, Mapping) and "input_ids" not in item and "text" in item):
        return True
    if isinstance(item, Mapping) and "input_ids" in item:
        return False
    came = f"columns {', '.join(map(str, item))}" if isinstance(item, Mapping) else f"a {type(item).__name__} in it"
    raise BadInput("probe", came=came, wanted=f"{SAMPLE_FORMS}; a data set with a column text or input_ids")


def _unpadded(item: Mapping) -> list[list[int]]:
    """The sequences of one example (1-D) or of a batch (2-D), positions with mask 0 left out."""
    ids, mask = _plain(item["input_ids"]), _plain(item.get("attention_mask"))
    if not ids or not isinstance(ids[0], list):
        ids, mask = [ids], None if mask is None else [mask]
    elif mask is None:
        wanted = "attention_mask beside a batch (2-D) of input_ids"
        raise BadInput("probe", came="no attention_mask", wanted=wanted, cure="Padding must not count as rows.")
    if mask is None:
        return ids
    if [len(row) for row in mask] != [len(row) for row in ids]:
        raise BadInput("probe", came="attention_mask and input_ids of different shapes", wanted="one shape")
    return [[i for i, present in zip(row, keep) if present] for row, keep in zip(ids, mask)]


def _plain(values: Any) -> list | None:
    """Nested lists, from lists, tuples, or arrays of any library."""
    if hasattr(values, "tolist"):
        return values.tolist()
    return None if values is None else [_plain(v) if isinstance(v, (list, tuple)) else v for v in values]


def _check_lengths(sequences: list[list[int]], encoder, tokenizer) -> None:
    limit = window_limit(encoder, tokenizer) if tokenizer is not None else None
    longest = max(map(len, sequences), default=0)
    if limit and longest > limit:
        raise BadInput("probe", came=f"a sequence of {longest} tokens", wanted=f"at most {limit}, the model's limit")


def _tokenized(texts: list[str], tokenizer, encoder) -> list[list[int]]:
    if tokenizer is None:
        cure = "Give the Trainer its processing_class=, or tokenize the probe."
        raise BadInput("probe", came="texts, and a Trainer without a tokenizer", wanted="a tokenizer", cure=cure)
    length = min(resolve_window(None, window_limit(encoder, tokenizer)), tokenizer.model_max_length)
    return tokenizer(texts, truncation=True, max_length=length, verbose=False)["input_ids"]


def _says_something(ids: list[int], tokenizer) -> bool:
    special = set() if tokenizer is None else set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    return any(i not in special for i in ids)


# --- how it is run --------------------------------------------------------------------------------------------------


def check_encoder(encoder: PreTrainedModel, probe: FixedSample, layers: list[int]) -> None:
    """Runs a few tokens through the encoder, to fail before the training and not in the middle of it.

    Raises:
        BadInput: it takes no `input_ids`, or returns no hidden states.
        UnknownName: a layer that does not exist.
    """
    few = Windows([probe.windows.ids[-1][:8]], [probe.windows.documents[-1][:8]])
    try:
        for _ in forward_windows(encoder, few, layers, "raw", 1, None):
            pass
    except TypeError as error:
        came = f"{type(encoder).__name__} ({error})"
        raise BadInput("model", came=came, wanted="a model that takes input_ids and attention_mask") from None


def sample_representations(
    encoder: PreTrainedModel, probe: FixedSample, batch_size: int, autocast: AbstractContextManager | None = None
) -> dict[Place, torch.Tensor]:
    """The probe's rows in every layer, place -> `(rows, hidden_size)`; padding left out.

    Cost: one forward pass of the encoder; memory for `rows` rows of every layer.
    """
    parts: dict[Place, list[torch.Tensor]] = {}
    with autocast or nullcontext():
        for _, states in forward_windows(encoder, probe.windows, None, "raw", batch_size, None):
            for place, rows in states.items():
                parts.setdefault(place, []).append(rows)
    return {place: torch.cat(rows) for place, rows in parts.items()}


@dataclass(frozen=True)
class LayerMeasures:
    """What is measured where.

    Attributes:
        pairs: `(measure, convention)`, from `measures.resolve`.
        layers: where measures that need neighbours or cells are taken; all others are taken in every layer.
        options: of the measures.
        seed: of the quantizers.
    """

    pairs: list[tuple[str, str]]
    layers: list[int]
    options: dict
    seed: int

    def check(self) -> None:
        """Tries the options on a few random rows, so that a wrong one fails here and not in the middle of a training.

        Raises:
            RepgeoError: an option's value that its measure refuses, or a package it needs.
        """
        if self.options:
            rows = torch.randn(512, 16, generator=torch.Generator().manual_seed(0))
            evaluate_all(PointCloud(rows, jackknife=False), self.pairs, **self.options)

    def measure(self, states: dict[Place, torch.Tensor]) -> list[dict]:
        """Rows of a report for all layers; each layer's rows are let go once it is measured."""
        known = {stack: [place.layer for place in states if place.stack == stack] for stack, *_ in states}
        rows = []
        for place in list(states):
            costly = place.layer in resolve_layers(self.layers, known[place.stack])
            pairs = [pair for pair in self.pairs if costly or MEASURES[pair[0]].needs not in COSTLY]
            cloud = states.pop(place)
            common = place._asdict() | {"tokens": "all", "n": len(cloud), "n_per_batch": len(cloud)}
            for estimate in self._evaluate(cloud, pairs):
                rows.append(common | columns_of(estimate) | {"n_distinct": estimate.n_distinct})
        return rows

    def _evaluate(self, rows: torch.Tensor, pairs: list[tuple[str, str]]) -> list[Estimate]:
        """Estimates, all missing where the rows cannot be measured: a training must survive its thermometer."""
        try:
            cloud = PointCloud(rows, jackknife=False, seed=self.seed, argument="rows")
            return evaluate_all(cloud, pairs, **self.options)
        except (BadInput, RuntimeError) as error:  # RuntimeError: out of memory, a decomposition that did not converge
            code = error.code if isinstance(error, BadInput) else "failed"
            return [missing(name, convention, f"{code}: {error}") for name, convention in pairs]
