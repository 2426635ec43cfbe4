"""A model on images, sounds, or images with texts: the same report as on texts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ..errors import BadInput
from ..measures.batch_means import BatchMeans
from ..report import GeometryReport
from ..rows.capture import read_places
from ..rows.forward import select_taps
from ..rows.identity import model_fingerprint
from ..rows.media import load_processor
from ..rows.media_items import image_items, image_text_items, sound_items
from ..rows.media_rows import Item, media_representations
from ..rows.models import Loaded, cache_folder, load_model
from ..rows.passes import run
from ..rows.readers import reader_of
from ..rows.stacks import find_stacks
from .run_file import open_run


@dataclass(frozen=True)
class MediaInput:
    """What a model looks at or listens to, as the user gave it."""

    images: Any
    audio: Any
    texts: Any
    processor: Any

    @property
    def kind(self) -> str:
        if self.audio is not None:
            return "audio"
        return "images" if self.texts is None else "both"

    def check(self) -> None:
        """Raises `BadInput` where two inputs do not go together."""
        if self.audio is not None and (self.images is not None or self.texts is not None):
            raise BadInput("audio", came="audio beside images or texts", wanted="one of them")

    def items(self, model, processor) -> Iterator[Item]:
        if self.kind == "audio":
            return sound_items(model, processor, self.audio)
        if self.kind == "images":
            return image_items(model, processor, self.images)
        return image_text_items(model, processor, self.images, self.texts)


def profile_media(
    model,
    given: MediaInput,
    batch_means: BatchMeans,
    source: dict,
    layers: list[int] | None,
    final_norm: str,
    policies: list[str] | None,
    rows: int,
    seed: int,
    out,
    provenance: dict,
    bar: Callable,
) -> GeometryReport:
    """See `hf_repgeo.profile`: what it does with `images` and `audio`."""
    given.check()
    loaded, processor = _load(model, given, source, layers)
    items = list(given.items(loaded.model, processor))
    reader = reader_of(loaded.model, items[0].inputs)
    stacks = find_stacks(reader, items[0].inputs)
    taps = select_taps(stacks, layers, final_norm)
    provenance = {
        **loaded.source,
        "fingerprint": model_fingerprint(loaded.model, loaded.place, cache_folder() / "file-hashes.json"),
        "text": {"name": given.kind, "items": len(items), "sha256": _digest(items)},
        "layers": layers,
        "tokens": policies,
        "final_norm": final_norm,
        "stacks": {stack.name: stack.facts() for stack in stacks},
        **batch_means.provenance(),
        **provenance,
    }
    with open_run(out, provenance) as run:
        if not run.finished:
            choice = {"rows": rows, "policies": policies, "seed": seed, "progress": bar("forward")}
            groups = media_representations(reader, taps, iter(items), len(items), **choice)
            run.report.provenance["pool"] = groups[0].facts
            _measure(run, batch_means, groups, taps)
    return run.report


def _load(model, given: MediaInput, source: dict, layers: list[int] | None) -> tuple[Loaded, Any]:
    """The model, and the processor given or saved with it; no tokenizer is needed."""
    look = partial(_states, given=given, layers=layers)
    loaded = load_model(model, tokenizer=given.processor or _no_tokenizer, look=look, **source)
    return loaded, _processor(loaded.model, given)


def _processor(model, given: MediaInput):
    place = getattr(model.config, "_name_or_path", "") or type(model).__name__
    return given.processor or load_processor(place, given.kind)


def _states(model, given: MediaInput, layers: list[int] | None) -> list[torch.Tensor]:
    """The states of these layers on the first of the inputs."""
    inputs = next(given.items(model, _processor(model, given))).inputs
    reader = reader_of(model, inputs)
    with read_places(reader, select_taps(find_stacks(reader, inputs), layers, "applied"), torch.clone) as found:
        run(reader, **inputs)
    return [state for state in found.values() if state is not None]


def _no_tokenizer(*_, **__):
    """Stands where a model of images or sounds has no tokenizer."""
    raise TypeError("this model was loaded without a tokenizer")


def _digest(items: list[Item]) -> str:
    """Of everything that is run."""
    digest = hashlib.sha256()
    for item in items:
        for name, value in sorted(item.inputs.items()):
            digest.update(name.encode() + str(tuple(value.shape)).encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _measure(run, batch_means: BatchMeans, groups, taps) -> None:
    """Place by place, in the order of the stacks."""
    for place in (tap.place for tap in taps):
        for group in groups:
            if place in group.states and not run.has(place):
                with torch.no_grad():
                    rows = batch_means.measure(group.states[place], group.documents, group.policies)
                run.add(place, rows)
    run.finish()
