"""A model on images, sounds, or images with texts: the same report as on texts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch

from ..errors import BadInput
from ..report import GeometryReport
from ..rows.capture import Tap, copied, read_places
from ..rows.forward import select_taps, taps_at
from ..rows.identity import files_fingerprint
from ..rows.media import files_alone, load_processor
from ..rows.media_items import image_items, image_text_items, sound_items, speech_items
from ..rows.media_rows import Item, media_representations
from ..rows.passes import run
from ..rows.readers import reader_of
from ..rows.representations import Representations
from ..rows.stacks import find_stacks
from .job import Job
from .provenance import machine, versions
from .request import answered, request_of
from .run_file import Run, open_run


@dataclass(frozen=True)
class MediaInput:
    """What a model looks at or listens to, as the user gave it."""

    images: Any = None
    audio: Any = None
    texts: Any = None
    processor: Any = None

    READ: ClassVar = ("images", "audio", "texts")

    @property
    def kind(self) -> str:
        """`"images"`, `"audio"`, or `"both"`: images with texts; `"speech"`: sounds with what is said in them."""
        if self.audio is not None:
            return "audio" if self.texts is None else "speech"
        return "images" if self.texts is None else "both"

    def check(self) -> None:
        """Raises `BadInput` if two inputs do not go together, or the processor is not one."""
        usable = callable(self.processor) or hasattr(self.processor, "feature_extractor")
        if self.processor is not None and (not usable or isinstance(self.processor, type)):
            raise BadInput("processor", came=f"a {type(self.processor).__name__}", wanted="a processor of transformers")
        if self.audio is not None and self.images is not None:
            raise BadInput("audio", came="audio beside images", wanted="one of them")

    def facts(self) -> dict | None:
        """What identifies these inputs, without the processor; `None` if some are not files."""
        kind = "images" if self.audio is None else "audio"
        files = files_alone(getattr(self, kind), kind)
        texts = self.texts is None or (isinstance(self.texts, list) and all(isinstance(t, str) for t in self.texts))
        if files is None or not texts:
            return None
        return {"kind": self.kind, "files": files_fingerprint(files), "texts": self.texts}

    def items(self, model, processor) -> Iterator[Item]:
        if self.kind == "audio":
            return sound_items(model, processor, self.audio)
        if self.kind == "images":
            return image_items(model, processor, self.images)
        if self.kind == "speech":
            return speech_items(model, processor, self.audio, self.texts)
        return image_text_items(model, processor, self.images, self.texts)

    def with_processor(self, other: Any, model) -> MediaInput:
        """The inputs with the processor that was given, else `other`, else the one saved with the model."""
        place = getattr(model.config, "_name_or_path", "") or type(model).__name__
        return replace(self, processor=self.processor or other or load_processor(place, self.kind))


def profile_media(
    job: Job, given: MediaInput, policies: list[str] | None, points: list[str] | None = None
) -> GeometryReport:
    """See `hf_repgeo.profile`: what it does with `images` and `audio`."""
    given.check()
    facts = given.facts()
    asked = facts and {**facts, "policies": policies, "points": points}
    request = request_of(job, asked, given.processor)
    if (report := answered(job, request)) is not None:
        return report
    loaded = job.load(_no_tokenizer, partial(_states, given=given))
    given = given.with_processor(None, loaded.model)
    items = list(given.items(loaded.model, given.processor))
    reader = reader_of(loaded.model, items[0].inputs)
    stacks = find_stacks(reader, items[0].inputs)
    taps = taps_at(reader, stacks, items[0].inputs, job.layers, job.final_norm, points)
    provenance = {
        **job.identity(loaded),
        "text": {"name": given.kind, "items": len(items), "sha256": digest_of(items)},
        "layers": job.layers,
        "tokens": policies,
        "final_norm": job.final_norm,
        **({} if points is None else {"points": points}),
        "stacks": {stack.name: stack.facts() for stack in stacks},
        **job.batch_means.provenance(),
        **versions(),
    }
    with open_run(job.out, provenance, request) as run:
        if not run.finished:
            choice: dict[str, Any] = {"rows": job.batch_means.rows, "policies": policies, "seed": job.batch_means.seed}
            groups = media_representations(reader, taps, items, len(items), **choice, progress=job.bar("forward"))
            _measure_places(job, run, groups, taps)
    return run.report


def _states(model, given: MediaInput, layers: list[int] | None) -> list[torch.Tensor]:
    """The states of these layers on the first of the inputs."""
    given = given.with_processor(None, model)
    inputs = next(given.items(model, given.processor)).inputs
    reader = reader_of(model, inputs)
    with read_places(reader, select_taps(find_stacks(reader, inputs), layers, "applied"), copied) as found:
        run(reader, **inputs)
    return [state for state in found.values() if state is not None]


def _no_tokenizer(*_, **__):
    """Takes the tokenizer's place in a model of images or sounds without one, and raises when called."""
    raise TypeError("this model was loaded without a tokenizer")


def digest_of(items: list[Item]) -> str:
    """Of everything that is run."""
    digest = hashlib.sha256()
    for item in items:
        for name, value in sorted(item.inputs.items()):
            digest.update(name.encode() + str(tuple(value.shape)).encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _measure_places(job: Job, run: Run, groups: list[Representations], taps: list[Tap]) -> None:
    """Place by place, in the order of the stacks; layers with equally many rows are one group."""
    run.report.provenance |= {"pool": groups[0].facts} | machine()
    measured = [(tap.place, group) for tap in taps for group in groups if tap.place in group.states]
    for place, group in job.bar("geometry")(iter(measured), len(measured)):
        if not run.has(place):
            run.add(place, job.measured(place, group, run.report.provenance))
    run.finish()
