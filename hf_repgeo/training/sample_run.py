"""One measurement of a model in training: runs in the right processes, and never ends the training."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch

from ..rows.forward import Place
from ..rows.passes import is_out_of_memory
from .fixed_media import FixedMedia
from .fixed_sample import FixedSample, LayerMeasures, check_encoder, sample_representations
from .processes import first_of, is_first, is_sharded, left_as_found

logger = logging.getLogger(__name__)


@dataclass
class SampleRun:
    """The fixed sample, run through the model and measured.

    Attributes:
        sample: halved when memory runs out.
        layer_measures: the measures, and their layers.
        policies: token policies.
        places: of the model, known once it is checked.
        told: failures that were logged; each is logged once per training.
    """

    sample: FixedSample | FixedMedia
    layer_measures: LayerMeasures
    policies: list[str]
    places: list[Place] = field(default_factory=list)
    told: set[tuple] = field(default_factory=set)

    def check(self, model: torch.nn.Module) -> None:
        """Tries the model on a few tokens, and forgets the failures of an earlier training.

        Raises:
            BadInput, UnknownName: see `check_encoder`.
        """
        self.told = set()
        with left_as_found(model) as part:
            self.places = check_encoder(part, self.sample, self.layer_measures.layers)

    def rows(self, model: torch.nn.Module, batch_size: int, autocast: AbstractContextManager | None) -> list[dict]:
        """The report's rows, in the first process; values are missing where a process failed."""
        rows: list[dict] = []
        failure = None
        if is_first() or is_sharded(model):
            try:
                rows = self._measured(model, batch_size, autocast)
            except Exception as error:  # whatever it is, it must not end the training
                failure = (is_out_of_memory(error), f"{type(error).__name__}: {error}".strip())
        failure = first_of(failure)
        if failure is None:
            return rows
        return self.layer_measures.missing(self.places, self.policies, self._failed(*failure))

    def _measured(self, model: torch.nn.Module, batch_size: int, autocast: AbstractContextManager | None) -> list[dict]:
        _finish_pending_work(model)
        seed = self.layer_measures.seed
        with left_as_found(model) as part:
            found = sample_representations(part, self.sample, batch_size, autocast, self.policies, seed)
            return self.layer_measures.measure(found) if is_first() else []

    def _failed(self, out_of_memory: bool, why: str) -> str:
        """Logs a failure once; after one for lack of memory, halves the rows. Returns the warning."""
        code, cure = ("out_of_memory" if out_of_memory else "failed"), "the training continues"
        if out_of_memory:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.sample = self.sample.halved()
            cure += f", and the next measurement has {self.sample.rows} rows"
        why = why.splitlines()[0][:300]
        if (code, why) not in self.told and is_first():
            logger.warning("%s: the geometry could not be measured (%s); %s", code, why, cure)
        self.told.add((code, why))
        return f"{code}: {why}"


def _finish_pending_work(model: torch.nn.Module) -> None:
    """Waits for the training step, which a GPU runs asynchronously, so that it does not count as measuring time."""
    if any(p.device.type == "cuda" for p in model.parameters()):
        torch.cuda.synchronize()
