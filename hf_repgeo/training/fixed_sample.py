"""A fixed sample of tokens that runs through a model in training at every measurement, and its measures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import BadInput
from ..measures import MEASURES, Estimate, PointCloud, evaluate_all, missing
from ..measures.averages import columns_of
from ..rows.forward import Place, forward_windows, resolve_layers
from ..rows.passes import is_out_of_memory
from ..rows.representations import Representations, token_representations
from ..rows.windows import Windows, resolve_window, window_limit
from .fixed_media import FixedMedia

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CHUNK = 64  # examples that are tokenized together
COSTLY = ("neighbors", "cells")  # what a measure needs when it is taken in a few layers only
SAMPLE_FORMS = "texts, a datasets.Dataset, or dicts of input_ids and attention_mask"


# --- the sample -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FixedSample:
    """Token sequences without padding, the longest first, so that a batch holds little of it.

    Attributes:
        windows: the sequences; each counts as one document.
        rows: their tokens: the rows of every layer's cloud.
        special: ids of the tokenizer's special tokens.
    """

    windows: Windows
    rows: int
    special: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        given: Any,
        tokenizer: PreTrainedTokenizerBase | None,
        encoder: PreTrainedModel,
        rows: int | None = None,
        seed: int = 0,
    ) -> FixedSample:
        """Reads texts in any of their forms.

        Args:
            given: strings; a `datasets.Dataset` (or any iterable of its rows) with a column `text` or `input_ids`; one
                dict of `input_ids` and `attention_mask`, 1-D for one example or 2-D for a batch; or several dicts.
            tokenizer: needed for strings only; it adds its special tokens and cuts at 512 tokens or the model's limit.
            encoder: the model whose limits count.
            rows: tokens to keep. From what can be indexed they are drawn at random; what can only be iterated is read
                from its start, no further than needed. The last sequence is cut. `None`: all of them.
            seed: of the draw.

        Raises:
            BadInput: texts in another form; strings without a tokenizer; a batch without `attention_mask`; a sequence
                longer than the model takes; only special tokens.
        """
        special = () if tokenizer is None else tuple(sorted(set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}))
        kept, held, seen = [], 0, 0
        for items in _chunks(given, seed if rows else None):
            seen += len(items)
            for ids in _sequences(items, tokenizer, encoder):
                if held < (rows or held + 1) and not set(ids) <= set(special):
                    kept.append(ids[: rows - held] if rows else ids)
                    held += len(kept[-1])
            if rows and held >= rows:
                break
        if not kept:
            came = f"{seen} example(s) that tokenize to nothing"
            raise BadInput("texts", came=came, wanted="at least one token that is not a special one")
        return cls._sorted(kept, special)

    @classmethod
    def _sorted(cls, sequences: list[list[int]], special: tuple[int, ...]) -> FixedSample:
        sequences = sorted(sequences, key=len, reverse=True)
        windows = Windows(sequences, [[number] * len(ids) for number, ids in enumerate(sequences)])
        return cls(windows, sum(map(len, sequences)), special)

    def halved(self) -> FixedSample:
        """Every other sequence; if there is only one, its first half."""
        sequences = self.windows.ids[::2] if len(self.windows) > 1 else [self.windows.ids[0][: -(-self.rows // 2)]]
        return self._sorted(sequences, self.special)

    def provenance(self) -> dict:
        """Its size, and a digest by which another run can tell whether it used the same tokens."""
        digest = hashlib.sha256(repr(self.windows.ids).encode()).hexdigest()
        return {"rows": self.rows, "sequences": len(self.windows), "sha256": digest}


def _chunks(given: Any, seed: int | None) -> Iterator[list]:
    """The examples a few at a time; in a random order where that is possible and a seed is given."""
    if isinstance(given, Mapping):
        yield [given]
    elif seed is not None and _can_be_indexed(given):
        order = np.random.default_rng(seed).permutation(len(given))
        for start in range(0, len(order), CHUNK):
            yield [given[int(place)] for place in order[start : start + CHUNK]]
    else:
        items = iter(_iterable(given))
        while chunk := list(islice(items, CHUNK)):
            yield chunk


def _can_be_indexed(given: Any) -> bool:
    is_table = hasattr(given, "features") and hasattr(given, "__getitem__") and hasattr(given, "__len__")
    return is_table or (isinstance(given, Sequence) and not isinstance(given, (bytes, str)))


def _sequences(items: list, tokenizer, encoder) -> Iterator[list[int]]:
    """Token ids of a few examples, texts tokenized together, in their order."""
    texts = [item if isinstance(item, str) else item["text"] for item in items if _is_text(item)]
    tokenized = iter(_tokenized(texts, tokenizer, encoder) if texts else ())
    for item in items:
        sequences = [next(tokenized)] if _is_text(item) else _unpadded(item)
        _check_lengths(sequences, encoder, tokenizer)
        yield from sequences


def _iterable(given: Any) -> Iterable:
    if isinstance(given, str):
        cure = "Read a file with hf_repgeo.read_text(path).documents; pass one text in a list."
        raise BadInput("texts", came=f"the string {given[:60]!r}", wanted=SAMPLE_FORMS, cure=cure)
    if not isinstance(given, Iterable) or isinstance(given, (bytes, torch.Tensor, np.ndarray)):
        raise BadInput("texts", came=f"a {type(given).__name__}", wanted=SAMPLE_FORMS)
    return given


def _is_text(item: Any) -> bool:
    if isinstance(item, str) or (isinstance(item, Mapping) and "input_ids" not in item and "text" in item):
        return True
    if isinstance(item, Mapping) and "input_ids" in item:
        return False
    came = f"columns {', '.join(map(str, item))}" if isinstance(item, Mapping) else f"a {type(item).__name__} in it"
    raise BadInput("texts", came=came, wanted=f"{SAMPLE_FORMS}; a data set with a column text or input_ids")


def _unpadded(item: Mapping) -> list[list[int]]:
    """The sequences of one example (1-D) or of a batch (2-D), positions with mask 0 left out."""
    ids, mask = _plain(item["input_ids"]), _plain(item.get("attention_mask"))
    if not ids or not isinstance(ids[0], list):
        ids, mask = [ids], None if mask is None else [mask]
    elif mask is None:
        wanted = "attention_mask beside a batch (2-D) of input_ids"
        raise BadInput("texts", came="no attention_mask", wanted=wanted, cure="Padding must not count as rows.")
    if mask is None:
        return ids
    if [len(row) for row in mask] != [len(row) for row in ids]:
        raise BadInput("texts", came="attention_mask and input_ids of different shapes", wanted="one shape")
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
        raise BadInput("texts", came=f"a sequence of {longest} tokens", wanted=f"at most {limit}, the model's limit")


def _tokenized(texts: list[str], tokenizer, encoder) -> list[list[int]]:
    if tokenizer is None:
        cure = "Give the Trainer its processing_class=, or tokenize the texts."
        raise BadInput("texts", came="texts, and a Trainer without a tokenizer", wanted="a tokenizer", cure=cure)
    length = min(resolve_window(None, window_limit(encoder, tokenizer)), tokenizer.model_max_length)
    return tokenizer(texts, truncation=True, max_length=length, verbose=False)["input_ids"]


# --- running it -----------------------------------------------------------------------------------------------------


def check_encoder(encoder: PreTrainedModel, sample: FixedSample | FixedMedia, layers: list[int]) -> list[Place]:
    """Runs a few tokens through the encoder, to fail before the training and not in the middle of it.

    Returns:
        list: the places that are measured: the residual stream at every layer.

    Raises:
        BadInput: it takes no `input_ids`, or returns no hidden states.
        UnknownName: a layer that does not exist.
    """
    if isinstance(sample, FixedMedia):
        return sample.check(encoder, layers)
    few = Windows([sample.windows.ids[-1][:8]], [sample.windows.documents[-1][:8]])
    try:
        [(_, states)] = forward_windows(encoder, few, None, "raw", 1, None)
    except TypeError as error:
        came = f"{type(encoder).__name__} ({error})"
        raise BadInput("model", came=came, wanted="a model that takes input_ids and attention_mask") from None
    for stack in {place.stack for place in states}:
        resolve_layers(layers, _layers_of(stack, states))
    return list(states)


def _layers_of(stack: str, places: Iterable[Place]) -> list[int]:
    return [place.layer for place in places if place.stack == stack]


def sample_representations(
    encoder: PreTrainedModel,
    sample: FixedSample | FixedMedia,
    batch_size: int,
    autocast: AbstractContextManager | None = None,
    policies: Sequence[str] = ("all",),
    seed: int = 0,
) -> list[Representations]:
    """The sample's rows in every layer, and which of them belong to each token policy; padding left out.

    Layers of equally many rows form one group; for texts these are all layers.

    Cost: one forward pass of the encoder; memory for `rows` rows of every layer.
    """
    if isinstance(sample, FixedMedia):
        return sample.representations(encoder, autocast, policies, seed)
    specials: Any = SimpleNamespace(all_special_ids=list(sample.special), unk_token_id=None)
    choice: dict[str, Any] = {"policies": list(policies), "rows": sample.rows, "seed": seed, "batch_size": batch_size}
    choice |= {"final_norm": "raw"}
    with autocast or nullcontext():
        return [token_representations(encoder, specials, sample.windows, **choice)]


@dataclass(frozen=True)
class LayerMeasures:
    """The measures, and the layers in which they are taken.

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

    def at(self, place: Place, places: Iterable[Place]) -> list[tuple[str, str]]:
        """The measures of one layer; `layers` are all layers of the model."""
        costly = place.layer in resolve_layers(self.layers, _layers_of(place.stack, places))
        return [pair for pair in self.pairs if costly or MEASURES[pair[0]].needs not in COSTLY]

    def measure(self, found: list[Representations]) -> list[dict]:
        """Rows of a report for all layers and token policies; each layer's rows are freed once it is measured."""
        places = [place for group in found for place in group.states]
        rows = []
        for group in found:
            for place in list(group.states):
                rows += self._measure_place(group, place, self.at(place, places))
        return rows

    def _measure_place(self, group: Representations, place: Place, pairs: list[tuple[str, str]]) -> list[dict]:
        states = group.states.pop(place)
        rows = []
        for policy, positions in group.policies_of(place).items():
            cloud = states if len(positions) == len(states) else states[positions.to(states.device)]
            n = len(cloud)
            common = place._asdict() | {"tokens": policy, "n": n, "n_per_batch": n}
            for estimate in self._evaluate(cloud, pairs):
                rows.append(common | columns_of(estimate) | {"n_distinct": estimate.n_distinct})
        return rows

    def missing(self, places: list[Place], policies: Sequence[str], reason: str) -> list[dict]:
        """Rows of a report without values, for a measurement that failed as a whole."""
        return [
            place._asdict() | {"tokens": policy} | columns_of(missing(*pair, reason))
            for place in places
            for policy in policies
            for pair in self.at(place, places)
        ]

    def _evaluate(self, rows: torch.Tensor, pairs: list[tuple[str, str]]) -> list[Estimate]:
        """The estimates of one cloud. A failed measurement becomes a missing value; training continues."""
        try:
            cloud = PointCloud(rows, jackknife=False, seed=self.seed, argument="rows")
            return evaluate_all(cloud, pairs, **self.options)
        except Exception as error:  # a decomposition that did not converge, or a bug of ours
            if is_out_of_memory(error):
                raise
            code = error.code if isinstance(error, BadInput) else "failed"
            return [missing(name, convention, f"{code}: {error}") for name, convention in pairs]
