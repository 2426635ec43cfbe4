"""A fixed sample of images or sounds that runs through a model in training again and again."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice

import torch
from torch import nn

from ..rows.capture import Place, Tap
from ..rows.forward import resolve_layers, select_taps
from ..rows.media_rows import Item, media_representations
from ..rows.readers import reader_of
from ..rows.representations import Representations
from ..rows.stacks import find_stacks
from ..runs.media import MediaInput, digest_of


@dataclass(frozen=True)
class FixedMedia:
    """The inputs: one image, one sound, or one image with its text per pass, ready for the model, on the CPU.

    Attributes:
        items: the passes.
        rows: about how many rows they give: those of the first one times their number.
        taps: where the model is read, found once.
    """

    items: list[Item]
    rows: int
    taps: dict[str, list[Tap]] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, given: MediaInput, processor, encoder: nn.Module, rows: int | None = None, seed: int = 0) -> FixedMedia:
        """Reads images or sounds in any of the forms that `hf_repgeo.profile` takes.

        Args:
            given: what the user passed.
            processor: of the trainer, if the user passed none.
            encoder: the model.
            rows: rows to keep: a random draw from a list, else those at the start. `None`: all.
            seed: of the draw.

        Raises:
            BadInput: no image or sound, no processor, or no part of the model takes it.
        """
        given = given.with_processor(processor, encoder)
        passes = _drawn(given, seed).items(encoder, given.processor) if rows else given.items(encoder, given.processor)
        first = next(passes)
        sample = cls([_moved(first, torch.device("cpu"), None)], 0)
        each = sample._rows_of_first(encoder)
        rest = islice(passes, max(0, -(-rows // each) - 1)) if rows else passes
        items = [*sample.items, *(_moved(item, torch.device("cpu"), None) for item in rest)]
        return replace(sample, items=items, rows=each * len(items))

    def _rows_of_first(self, encoder: nn.Module) -> int:
        found = media_representations(*self._passes(encoder), 1, rows=2**31, policies=["all"])
        return max(len(group.policies["all"]) for group in found)

    def halved(self) -> FixedMedia:
        """Every other item."""
        return replace(self, items=self.items[::2], rows=self.rows // 2)

    def provenance(self) -> dict:
        """Its size, and a digest by which another run can tell whether it used the same input."""
        return {"rows": self.rows, "items": len(self.items), "sha256": digest_of(self.items)}

    def check(self, encoder: nn.Module, layers: list[int]) -> list[Place]:
        """Runs one of them, to fail before the training; the places of the residual stream.

        Raises:
            BadInput: the model does not take them, or has no stack of blocks.
            UnknownName: a layer that does not exist.
        """
        _, taps, _ = self._passes(encoder)
        places = [tap.place for tap in taps]
        for stack in {place.stack for place in places}:
            resolve_layers(layers, [place.layer for place in places if place.stack == stack])
        return places

    def representations(
        self, encoder: nn.Module, autocast: AbstractContextManager | None, policies: Sequence[str], seed: int
    ) -> list[Representations]:
        """Rows of every layer, in groups of layers with equally many rows per item."""
        reader, taps, items = self._passes(encoder)
        with autocast or nullcontext():
            count, asked = len(self.items), list(policies)
            return media_representations(reader, taps, items, count, rows=self.rows, policies=asked, seed=seed)

    def _passes(self, encoder: nn.Module) -> tuple[nn.Module, list[Tap], list[Item]]:
        """The part of the model that reads the items, the places, and the items on its device in its dtype."""
        parameter = next(encoder.parameters())
        items = [_moved(item, parameter.device, parameter.dtype) for item in self.items]
        names = {module: name for name, module in encoder.named_modules()}
        if not self.taps:
            reader = reader_of(encoder, items[0].inputs)
            self.taps[names[reader]] = select_taps(find_stacks(reader, items[0].inputs), None, "raw")
        [(name, taps)] = self.taps.items()
        return encoder.get_submodule(name), taps, items


def _drawn(given: MediaInput, seed: int) -> MediaInput:
    """Entries of lists in a random order, the same in each of them."""
    lists = {name: each for name in MediaInput.READ if isinstance(each := getattr(given, name), (list, tuple))}
    order = list(range(len(next(iter(lists.values()), ()))))
    random.Random(seed).shuffle(order)
    return replace(given, **{name: [each[i] for i in order if i < len(each)] for name, each in lists.items()})


def _moved(item: Item, device: torch.device, dtype: torch.dtype | None) -> Item:
    to: Callable = lambda value: value.to(device, dtype if value.is_floating_point() else None)  # noqa: E731
    return replace(item, inputs={name: to(value) for name, value in item.inputs.items()})
