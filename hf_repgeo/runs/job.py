"""The job that `profile` was given; the same for texts, images and sounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..measures.batch_means import BatchMeans
from ..rows.capture import Place
from ..rows.identity import model_fingerprint
from ..rows.models import Loaded, cache_folder, load_model
from ..rows.processes import current_team
from ..rows.representations import Representations


@dataclass(frozen=True)
class Job:
    """A model, what is read and measured in it, and where the report goes.

    Attributes:
        model: as the user gave it.
        source: keywords of `load_model`.
        batch_means: what is measured, on how many rows at a time.
        layers, final_norm, out, progress: as in `hf_repgeo.profile`.
    """

    model: Any
    source: dict[str, Any]
    batch_means: BatchMeans
    layers: list[int] | None
    final_norm: str
    out: str | Path | None
    progress: bool | Callable[[str, int, int], None]

    def load(self, tokenizer: Any, look: Callable[..., list[torch.Tensor]]) -> Loaded:
        """The model; `look` runs it on a small input, to see which weights feed the layers that are measured."""
        return load_model(self.model, tokenizer=tokenizer, look=partial(look, layers=self.layers), **self.source)

    def identity(self, loaded: Loaded, around: Any = None) -> dict:
        """The model's fingerprint; `around`: modules after the encoder that count too."""
        hashes = cache_folder() / "file-hashes.json"
        return loaded.source | {"fingerprint": model_fingerprint(loaded.model, loaded.place, hashes, around)}

    def bar(self, title: str) -> Callable[[Iterator, int | None], Iterator]:
        """Shows the progress of an iteration, if wanted; of several processes, only the first shows it."""
        from tqdm.auto import tqdm

        if callable(self.progress):
            return partial(_told, self.progress, title)
        hidden = not (self.progress and current_team().first)
        return lambda items, total: tqdm(items, total=total, desc=title, disable=hidden)

    def measured(self, place: Place, found: Representations, provenance: dict) -> list[dict]:
        """The rows of the report for one place."""
        with torch.no_grad():
            rows = self.batch_means.measure(found.states[place], found.documents, found.policies_of(place))
        warnings = warnings_of(place, found, provenance)
        return [row | {"warnings": [*row["warnings"], *warnings]} for row in rows]


def _told(show: Callable[[str, int, int], None], title: str, items: Iterator, total: int | None) -> Iterator:
    """Reports each finished item; if the total is unknown, the number of items so far takes its place."""
    done = 0
    for item in items:
        show(title, done, total or done + 1)
        yield item
        done += 1
    show(title, total or done, total or done)


def warnings_of(place: Place, found: Representations, provenance: dict) -> list[str]:
    """Warnings that all numbers of a place carry."""
    warnings = []
    if found.facts.get("padding_leaks"):
        said = "in this model padding changes the rows of a text; windows of different lengths ran apart"
        warnings.append(f"padding_leaks: {said}")
    if "random_weights" in provenance:
        count = provenance["random_weights"]["count"]
        warnings.append(f"random_weights: {count} weights were not in the checkpoint and are random")
    if "cls" in found.policies and place.stack.endswith("decoder"):
        said = "a first token that sees no later one tells nothing about its text; pooling='last' has seen all of it"
        warnings.append(f"cls_of_decoder: {said}")
    return warnings
