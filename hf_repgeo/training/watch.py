"""The base of the callbacks and the monitor: when a model in training is measured, on what, and its history."""

from __future__ import annotations

import logging
import re
import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import torch

from ..errors import BadInput, RepgeoError, UnknownName
from ..measures import check_options
from ..profiling import MINIMUM_BATCH
from ..report import GeometryReport
from ..rows.forward import encoder_of
from ..rows.media_rows import MEDIA_POLICIES
from ..rows.representations import POLICIES, check_policies
from ..runs.media import MediaInput
from ..runs.provenance import versions
from .fixed_media import FixedMedia
from .fixed_sample import FixedSample, LayerMeasures
from .history import earlier_history, save_history
from .log_values import Flag, check_bands, default_pairs
from .measurement import Measurement
from .processes import agreed, is_first
from .sample_run import SampleRun
from .schedule import DEFAULT_EVERY, SCHEDULES, Thinning, planned_steps

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

WATCH = ("massive_share", "norm_over_5_medians")  # always measured: without it a sink looks like a collapse
FORWARD_BATCH = 8  # sequences per forward pass, where the training does not say


class TrainingWatch:
    """Measures a model in training when its schedule says so, and changes nothing about the training.

    Each subclass calls `read` and `begin` before the training, asks `due` after a step, and calls `measure`. Arguments:
    see `GeometryCallback`.
    """

    def __init__(
        self,
        texts: Any = None,
        *,
        measures: str | list[str] | None = None,
        tokens: str | list[str] = "all",
        layers: list[int] | None = None,
        rows: int | None = MINIMUM_BATCH,
        every: int | None = None,
        schedule: str | None = None,
        budget: float | None = 0.02,
        collapse: float | dict = 0.9,
        sink: float = 0.001,
        stop: bool = False,
        batch_size: int | None = None,
        log: str = "summary",
        verbose: bool = False,
        seed: int = 0,
        name: str = "geometry",
        images: Any = None,
        audio: Any = None,
        processor: Any = None,
        probe: Any = None,
        **options,
    ):
        if probe is not None:
            warnings.warn("the argument `probe` is now called `texts`", DeprecationWarning, stacklevel=2)
        self.given = probe if texts is None else texts
        if images is not None or audio is not None:
            self.given = MediaInput(images, audio, self.given, processor)
            self.given.check()
        if self.given is None or (isinstance(self.given, (list, tuple)) and not self.given):
            wanted = "what is measured: texts, a data set, tokenized examples, images or audio"
            raise BadInput("texts", came="none", wanted=wanted)
        self.schedule = "steps" if schedule is None and every is not None else schedule
        self.every = DEFAULT_EVERY.get(self.schedule or "", 1) if every is None else every
        _check_numbers(self.every, budget, rows)
        for kind, chosen, known in (
            ("schedule", self.schedule, (None, *SCHEDULES)),
            ("log", log, ("summary", "layers")),
        ):
            if chosen not in known:
                raise UnknownName(kind, chosen, filter(None, known))
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
            raise BadInput("name", came=repr(name), wanted="letters, digits, '_', '-' and '.', such as 'geometry_code'")
        self.name = name
        self.policies = check_policies(tokens, MEDIA_POLICIES if isinstance(self.given, MediaInput) else POLICIES)
        self.budget, self.collapse, self.sink, self.stop = budget, check_bands(collapse), sink, stop
        self.asked = default_pairs(measures)
        watched = [WATCH, *(default_pairs(list(self.collapse)) if isinstance(collapse, dict) else ())]
        pairs = list(dict.fromkeys([*self.asked, *watched]))
        check_options(options, pairs)
        self.layer_measures = LayerMeasures(pairs, [-1] if layers is None else layers, options, seed)
        self.layer_measures.check()
        self.rows, self.batch_size, self.log, self.verbose = rows, batch_size, log, verbose
        self.history = GeometryReport()
        self._run: SampleRun | None = None
        self._forget()

    def _forget(self) -> None:
        """Resets the state that belongs to one training."""
        self._latest: tuple[tuple, Measurement] | None = None
        self._thinning: Thinning | None = None
        self.new_collapses: list[Flag] = []
        self.should_stop = False

    @property
    def sample(self) -> FixedSample | FixedMedia | None:
        """The tokens that are measured; `None` before the texts are read."""
        return self._run.sample if self._run else None

    # --- before training ---------------------------------------------------------------------------------------------

    def read(self, tokenizer: PreTrainedTokenizerBase | None, model: torch.nn.Module) -> None:
        """Reads the texts with the tokenizer and begins an empty history.

        Raises:
            BadInput: the texts cannot be read or hold no token; the model holds no transformers model.
        """
        if self._run is None:
            sample = self._sample_of(tokenizer, encoder_of(model))
            self._run = SampleRun(sample, self.layer_measures, self.policies)
            if sample.rows < MINIMUM_BATCH and is_first():
                logger.warning(
                    "few_rows: the input has %d rows; numbers of fewer than %d rows are not those of the whole "
                    "distribution, above all effective rank, dimension and patchiness",
                    sample.rows,
                    MINIMUM_BATCH,
                )
        self.history = GeometryReport(provenance=self._provenance(model, self._run.sample))

    def _sample_of(self, processing: Any, encoder: PreTrainedModel) -> FixedSample | FixedMedia:
        """The input, prepared by the trainer's tokenizer or processor."""
        if isinstance(self.given, MediaInput):
            return FixedMedia.of(self.given, processing, encoder, self.rows, self.layer_measures.seed)
        tokenizer = getattr(processing, "tokenizer", processing)
        return FixedSample.of(self.given, tokenizer, encoder, self.rows, self.layer_measures.seed)

    def begin(self, model: torch.nn.Module, steps: int, at: int, files: list[Path]) -> None:
        """Checks the model, plans the steps, and continues the history of a training that is resumed.

        Args:
            model: in training.
            steps: of the whole training.
            at: steps already passed.
            files: where an earlier history may be, the best place first.
        """
        self._forget()
        run = self._begun()
        run.check(model)
        self._thinning = Thinning(planned_steps(self.schedule, self.every, steps), self.budget, (at, monotonic()))
        if at or any(self.steps):  # a training resumes; the history of an evaluation at step 0 is kept
            self.history = GeometryReport(provenance=self._provenance(model, run.sample))
        if at:
            earlier, why = agreed(earlier_history(files, self.history) if is_first() else None)
            self.history = earlier or self.history
            if earlier is None and is_first():
                logger.warning("the geometry history begins again at step %d: %s", at, why)

    def _begun(self) -> SampleRun:
        if self._run is None:
            raise RepgeoError("the monitor has not begun: call start(model, tokenizer, steps=...) first")
        return self._run

    def _provenance(self, model: torch.nn.Module, sample: FixedSample | FixedMedia) -> dict:
        encoder = encoder_of(model)
        return {
            "model": encoder.config._name_or_path or type(encoder).__name__,
            "measures": [f"{name}:{convention}" for name, convention in self.layer_measures.pairs],
            "tokens": self.policies,
            "layers": self.layer_measures.layers,
            "options": self.layer_measures.options,
            "seed": self.layer_measures.seed,
            "texts": sample.provenance(),
            "schedule": f"{self.schedule or 'log-spaced and the last step'}, every {self.every}",
            "budget": self.budget,
            "counts": {},
            "skipped": [],
            **versions(),
        }

    # --- the schedule ------------------------------------------------------------------------------------------------

    def due(self, step: int) -> bool:
        """Whether the schedule names this step and the budget leaves it; all processes have to ask."""
        if self._thinning is None:
            raise RepgeoError("the monitor has not begun: call start(model, tokenizer, steps=...) first")
        if not self._thinning.plans(step):
            return False
        stride = agreed(self._thinning.stride(step, monotonic()))
        if self._thinning.keeps(step, stride):
            return True
        skipped = self.history.provenance["skipped"]
        if not skipped and is_first():
            logger.warning(
                "budget: no geometry at step %d, since a measurement takes %.2g s and the budget is %.2g of the "
                "training time; every %dth planned step is measured for now, see provenance['skipped']",
                step,
                self._thinning.cost,
                self.budget,
                stride,
            )
        skipped.append(step)
        return False

    def counts(self, event: str) -> bool:
        """Counts an epoch, evaluation or save; whether it is an `every`-th one. The count survives a resumption."""
        counts = self.history.provenance["counts"]
        counts[event] = counts.get(event, 0) + 1
        return counts[event] % self.every == 0

    # --- measuring ---------------------------------------------------------------------------------------------------

    def at(self, step: int) -> GeometryReport:
        """The part of the history that was measured at a step.

        Raises:
            UnknownName: nothing was measured there.
        """
        rows = [row for row in self.history if row["details"]["step"] == step]
        if not rows:
            raise UnknownName("step", step, map(str, self.steps))
        return GeometryReport(rows, self.history.provenance)

    @property
    def steps(self) -> list[int]:
        """The steps in the history, ascending."""
        return list(dict.fromkeys(row["details"]["step"] for row in self.history))

    @property
    def file(self) -> str:
        """The name of the file with the history."""
        return f"{self.name}.json"

    def keyed(self, values: dict[str, float], evaluating: bool = False) -> dict[str, float]:
        """The values with the callback's name before their keys, and `eval_` before it at an evaluation."""
        prefix = f"eval_{self.name}/" if evaluating else f"{self.name}/"
        return {prefix + key: value for key, value in values.items()}

    def logged(self, measurement: Measurement) -> dict[str, float]:
        """The keys and numbers that go to a tracker."""
        return measurement.summary if self.log == "summary" else measurement.layers

    def measure(
        self,
        model: torch.nn.Module,
        step: int,
        epoch: float | None = None,
        *,
        batch_size: int | None = None,
        autocast: AbstractContextManager | None = None,
    ) -> Measurement:
        """Measures now, unless the last measurement is of the same weights, as at an evaluation right after a step.

        All processes have to call it. A failure is logged once and becomes rows without values; training continues.
        """
        weights = (step, id(model), sum(p._version for p in model.parameters()))
        if self._latest is None or self._latest[0] != weights:
            began = monotonic()
            rows = self._begun().rows(model, self.batch_size or batch_size or FORWARD_BATCH, autocast)
            rows, seconds = agreed((rows, monotonic() - began))
            self._latest = weights, self._enter(rows, seconds, step, epoch)
        return self._latest[1]

    def _enter(self, rows: list[dict], seconds: float, step: int, epoch: float | None) -> Measurement:
        """Puts a measurement into the history, and warns about its flagged layers."""
        for row in rows:
            details = (row.get("details") or {}) | {"step": step, "epoch": epoch}
            self.history.add(**row | {"details": details})
        if self._thinning is not None and self._thinning.plans(step):
            self._thinning.took(seconds)
        skipped = len(self.history.provenance["skipped"])
        measurement = Measurement.of(rows, self.asked, step, seconds, skipped, self.collapse, self.sink)
        self._warn(step, measurement.flagged)
        if self.verbose and is_first():
            print(measurement)
        return measurement

    def _warn(self, step: int, flagged: list[Flag]) -> None:
        """Warns about each kind of flag once per layer; a failure of the whole measurement was logged before."""
        told = self._begun().told
        new = [flag for flag in flagged if flag[:3] not in told and not _is_told(flag, told)]
        told |= {flag[:3] for flag in new}
        self.new_collapses = [flag for flag in new if flag[0] == "collapse"]
        self.should_stop |= self.stop and bool(self.new_collapses)
        for kind in dict.fromkeys(flag[0] for flag in new) if is_first() else ():
            layers = "; ".join(f"{stack} layer {layer}: {why}" for k, stack, layer, why in new if k == kind)
            logger.warning("%s at step %d: %s", kind, step, layers)

    # --- after a measurement -----------------------------------------------------------------------------------------

    def save(self, *folders: str | Path) -> None:
        """Writes the history into folders that exist, from the first process; a failure is logged once."""
        if is_first() and len(self.history):
            for folder in map(Path, folders):
                self.guarded("history", save_history, self.history, folder / self.file)

    def guarded(self, what: str, call, *arguments, **options) -> None:
        """Calls a function whose failure must not end the training; logs the failure once."""
        try:
            call(*arguments, **options)
        except Exception as error:
            told = self._begun().told
            if (what, type(error)) not in told:
                logger.warning("%s: %s: %s; the training continues", what, type(error).__name__, error)
            told.add((what, type(error)))


def _check_numbers(every: Any, budget: Any, rows: Any) -> None:
    if not isinstance(every, int) or every < 1:
        raise BadInput("every", came=repr(every), wanted="an integer of at least 1")
    if budget is not None and not budget > 0:
        raise BadInput("budget", came=repr(budget), wanted="a share of the training time above 0, or None")
    if rows is not None and (not isinstance(rows, int) or rows < 2):
        raise BadInput("rows", came=repr(rows), wanted="an integer of at least 2, or None for all")


def _is_told(flag: Flag, told: set[tuple]) -> bool:
    return tuple(flag[3].split(": ", 1)) in told
