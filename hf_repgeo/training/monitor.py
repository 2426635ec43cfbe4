"""GeometryMonitor: the shape of a model's representations while it trains, for any training loop."""

from __future__ import annotations

import logging
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import torch

from ..errors import BadInput, RepgeoError, UnknownName
from ..measures import check_options
from ..profiling import MINIMUM_BATCH, versions
from ..report import GeometryReport
from ..report_text import number
from ..rows.forward import Place, encoder_of
from ..rows.representations import check_policies
from .fixed_sample import FixedSample, LayerMeasures, check_encoder, is_out_of_memory, sample_representations
from .history import FILE, earlier_history, save_history
from .log_values import Flag, check_bands, default_pairs, flags, log_values, summary_values
from .processes import agreed, first_of, is_first, is_sharded, left_as_found
from .schedule import DEFAULT_EVERY, SCHEDULES, Thinning, planned_steps

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

WATCH = ("massive_share", "norm_over_5_medians")  # always measured: without it a sink looks like a collapse
FORWARD_BATCH = 8  # sequences a forward pass, where the training does not say


@dataclass
class Reading:
    """One measurement, for every log line that may want it while the weights stay as they are.

    Attributes:
        step: where it was taken.
        layers: keys and numbers of every layer.
        summary: the same in a handful of keys.
        flagged: layers in trouble.
        seconds: that it took.
        logged: the log lines it has gone into.
    """

    step: int
    layers: dict[str, float]
    summary: dict[str, float]
    flagged: list[Flag]
    seconds: float
    logged: set[str] = field(default_factory=set)


class GeometryMonitor:
    """Measures every layer of a model in training, on a fixed sample of text, and changes nothing about the training.

    For training loops of your own, with Accelerate or plain torch. transformers' Trainer takes `GeometryCallback`,
    Lightning `LightningGeometryCallback`: the same with the same arguments.

    Args:
        texts, measures, tokens, layers, rows, every, schedule, budget, collapse, sink, stop, batch_size, log, verbose,
            seed, options: see `GeometryCallback`. `schedule` is `"log-spaced"`, `"steps"` or `None` here.

    Attributes:
        history: a `GeometryReport` with `step` and `epoch` in each row's `details`.
        should_stop: whether a collapse was seen and `stop` is set.

    Raises:
        UnknownName: an unknown measure, option, policy or schedule.
        BadInput: `every`, `budget`, `rows` or `collapse` out of range.

    Example:
        >>> from hf_repgeo import GeometryMonitor
        >>> monitor = GeometryMonitor(["Some text."] * 2)
        >>> monitor.start(model, tokenizer, steps=1000, accelerator=accelerator)  # doctest: +SKIP
        >>> for step, batch in enumerate(batches, 1):  # doctest: +SKIP
        ...     ...
        ...     monitor.step(step)
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
        probe: Any = None,
        **options,
    ):
        if probe is not None:
            warnings.warn("the argument `probe` is now called `texts`", DeprecationWarning, stacklevel=2)
        self.given = probe if texts is None else texts
        if self.given is None:
            raise BadInput("texts", came="none", wanted="what is measured: texts, a data set, or tokenized examples")
        self.schedule = "steps" if schedule is None and every is not None else schedule
        self.every = DEFAULT_EVERY.get(self.schedule, 1) if every is None else every
        _check_numbers(self.every, budget, rows)
        for kind, name, known in (("schedule", self.schedule, (None, *SCHEDULES)), ("log", log, ("summary", "layers"))):
            if name not in known:
                raise UnknownName(kind, name, filter(None, known))
        self.policies = check_policies(tokens)
        self.budget, self.collapse, self.sink, self.stop = budget, check_bands(collapse), sink, stop
        self.asked = default_pairs(measures)
        watched = [WATCH, *(default_pairs(list(self.collapse)) if isinstance(collapse, dict) else ())]
        pairs = list(dict.fromkeys([*self.asked, *watched]))
        check_options(options, pairs)
        self.layer_measures = LayerMeasures(pairs, [-1] if layers is None else layers, options, seed)
        self.layer_measures.check()
        self.rows, self.batch_size, self.log, self.verbose = rows, batch_size, log, verbose
        self.history = GeometryReport()
        self.sample: FixedSample | None = None
        self._forget()

    def _forget(self) -> None:
        """What belongs to one training."""
        self._reading: tuple[tuple, Reading] | None = None
        self._told: set[tuple] = set()
        self._places: list[Place] = []
        self._thinning: Thinning | None = None
        self.new_collapses: list[Flag] = []
        self.should_stop = False

    # --- a loop of your own ------------------------------------------------------------------------------------------

    def start(
        self,
        model: torch.nn.Module,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        steps: int,
        at: int = 0,
        accelerator=None,
        folder: str | Path | None = None,
    ) -> GeometryMonitor:
        """Begins a training, before its first step.

        Args:
            model: as `accelerator.prepare` returned it, or a plain one.
            tokenizer: reads the texts.
            steps: of the whole training.
            at: the step at which it goes on, for one that is resumed.
            accelerator: an `accelerate.Accelerator`; its trackers get the numbers.
            folder: where `geometry.json` is written, and read from when `at` is not 0.

        Returns:
            GeometryMonitor: itself.

        Raises:
            BadInput: the texts hold no token; there is no transformers model inside, or one without hidden states.
            UnknownName: a layer that does not exist.
        """
        self.accelerator, self.folder, self._model = accelerator, folder, model
        self.read(tokenizer, model)
        self.begin(model, steps, at, [Path(folder) / FILE] if folder else [])
        return self

    def step(self, step: int, epoch: float | None = None) -> Reading | None:
        """After an optimizer step: measures if the schedule names it, and tells Accelerate's trackers.

        Args:
            step: optimizer steps so far.
            epoch: for the history.

        Returns:
            Reading: or `None` where nothing was due.
        """
        if not self.due(step):
            return None
        autocast = self.accelerator.autocast() if self.accelerator else None
        reading = self.measure(self._model, step, epoch, autocast=autocast)
        if self.accelerator is not None and self.accelerator.trackers:
            values = {f"geometry/{key}": value for key, value in self.logged(reading).items()}
            self.guarded("trackers", self.accelerator.log, values, step=step)
        if self.folder is not None:
            self.save(self.folder)
        return reading

    # --- before training ---------------------------------------------------------------------------------------------

    def read(self, tokenizer: PreTrainedTokenizerBase | None, model: torch.nn.Module) -> None:
        """Reads the texts with the tokenizer and begins an empty history.

        Raises:
            BadInput: the texts cannot be read or hold no token; the model holds no transformers model.
        """
        if self.sample is None:
            seed = self.layer_measures.seed
            tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
            self.sample = FixedSample.of(self.given, tokenizer, encoder_of(model), self.rows, seed)
            if self.sample.rows < MINIMUM_BATCH and is_first():
                logger.warning(
                    "few_rows: the texts have %d tokens; numbers of fewer than %d rows are not those of the whole "
                    "distribution, above all effective rank, dimension and patchiness",
                    self.sample.rows,
                    MINIMUM_BATCH,
                )
        self.history = GeometryReport(provenance=self._provenance(model))

    def begin(self, model: torch.nn.Module, steps: int, at: int, files: list[Path]) -> None:
        """Checks the model, plans the steps, and goes on with the history of a training that is resumed.

        Args:
            model: in training.
            steps: of the whole training.
            at: steps that lie behind it.
            files: where an earlier history may be, the best place first.
        """
        self._forget()
        with left_as_found(model) as part:
            self._places = check_encoder(part, self.sample, self.layer_measures.layers)
        self._thinning = Thinning(planned_steps(self.schedule, self.every, steps), self.budget, (at, monotonic()))
        if at or any(self.steps):  # of an earlier training; an evaluation before the training is its beginning
            self.history = GeometryReport(provenance=self._provenance(model))
        if at:
            earlier, why = agreed(earlier_history(files, self.history) if is_first() else None)
            self.history = earlier or self.history
            if earlier is None and is_first():
                logger.warning("the geometry history begins anew at step %d: %s", at, why)

    def _provenance(self, model: torch.nn.Module) -> dict:
        encoder = encoder_of(model)
        return {
            "model": encoder.config._name_or_path or type(encoder).__name__,
            "measures": [f"{name}:{convention}" for name, convention in self.layer_measures.pairs],
            "tokens": self.policies,
            "layers": self.layer_measures.layers,
            "options": self.layer_measures.options,
            "seed": self.layer_measures.seed,
            "texts": self.sample.provenance(),
            "schedule": f"{self.schedule or 'log-spaced and the last step'}, every {self.every}",
            "budget": self.budget,
            "counts": {},
            "skipped": [],
            **versions(),
        }

    # --- when --------------------------------------------------------------------------------------------------------

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

    # --- what --------------------------------------------------------------------------------------------------------

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

    def logged(self, reading: Reading) -> dict[str, float]:
        """The keys and numbers that go to a tracker."""
        return reading.summary if self.log == "summary" else reading.layers

    def measure(
        self,
        model: torch.nn.Module,
        step: int,
        epoch: float | None = None,
        *,
        batch_size: int | None = None,
        autocast: AbstractContextManager | None = None,
    ) -> Reading:
        """Measures now, unless the last reading is of these very weights, as at an evaluation right after a step.

        All processes have to call it. A failure is told once, becomes rows without values, and ends nothing.
        """
        weights = (step, id(model), sum(p._version for p in model.parameters()))
        if self._reading is None or self._reading[0] != weights:
            began = monotonic()
            rows = self._measured_rows(model, self.batch_size or batch_size or FORWARD_BATCH, autocast)
            rows, seconds = agreed((rows, monotonic() - began))
            self._reading = weights, self._enter(rows, seconds, step, epoch)
        return self._reading[1]

    def _measured_rows(self, model: torch.nn.Module, batch_size: int, autocast) -> list[dict]:
        """The report's rows, in the first process; values are missing where a process failed."""
        rows, failure = [], None
        if is_first() or is_sharded(model):
            try:
                _finish_pending_work(model)
                with left_as_found(model) as part:
                    seed = self.layer_measures.seed
                    run = (part, self.sample, batch_size, autocast, self.policies, seed)
                    found = sample_representations(*run)
                    rows = self.layer_measures.measure(found) if is_first() else []
            except Exception as error:  # whatever it is, it must not end the training
                failure = (is_out_of_memory(error), f"{type(error).__name__}: {error}".strip())
        failure = first_of(failure)
        if failure is None:
            return rows
        return self.layer_measures.missing(self._places, self.policies, self._failed(*failure))

    def _failed(self, out_of_memory: bool, why: str) -> str:
        """Tells a failure once; after one of memory the next measurement has half the rows. Returns the warning."""
        code, cure = ("out_of_memory" if out_of_memory else "failed"), "the training goes on"
        if out_of_memory:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.sample = self.sample.halved()
            cure += f", and the next measurement has {self.sample.rows} rows"
        why = why.splitlines()[0][:300]
        if (code, why) not in self._told and is_first():
            logger.warning("%s: the geometry could not be measured (%s); %s", code, why, cure)
        self._told.add((code, why))
        return f"{code}: {why}"

    def _enter(self, rows: list[dict], seconds: float, step: int, epoch: float | None) -> Reading:
        """Puts a measurement into the history, and says what is wrong with it."""
        for row in rows:
            details = (row.get("details") or {}) | {"step": step, "epoch": epoch}
            self.history.add(**row | {"details": details})
        if self._thinning is not None and self._thinning.plans(step):
            self._thinning.took(seconds)
        flagged = flags(rows, self.collapse, self.sink)
        self._warn(step, flagged)
        counts = {
            "collapsed_layers": sum(kind == "collapse" for kind, *_ in flagged),
            "sink_layers": sum(kind == "sink" for kind, *_ in flagged),
            "seconds": seconds,
        }
        skipped = {"skipped": len(self.history.provenance["skipped"])}
        layers = log_values(rows, self.asked) | counts | skipped
        reading = Reading(step, layers, summary_values(rows, self.asked) | counts, flagged, seconds)
        if self.verbose and is_first():
            shown = ", ".join(f"{key} {number(value)}" for key, value in reading.summary.items())
            print(f"geometry at step {step}: {shown}")
        return reading

    def _warn(self, step: int, flagged: list[Flag]) -> None:
        """Says each kind of trouble once a layer; failures of everything at once were told before."""
        new = [flag for flag in flagged if flag[:3] not in self._told and not _is_told(flag, self._told)]
        self._told |= {flag[:3] for flag in new}
        self.new_collapses = [flag for flag in new if flag[0] == "collapse"]
        self.should_stop |= self.stop and bool(self.new_collapses)
        for kind in dict.fromkeys(flag[0] for flag in new) if is_first() else ():
            told = "; ".join(f"{stack} layer {layer}: {why}" for k, stack, layer, why in new if k == kind)
            logger.warning("%s at step %d: %s", kind, step, told)

    # --- after -------------------------------------------------------------------------------------------------------

    def save(self, *folders: str | Path) -> None:
        """Writes `geometry.json` into folders that exist, from the first process; a failure is told once."""
        if is_first() and len(self.history):
            for folder in map(Path, folders):
                self.guarded("history", save_history, self.history, folder)

    def guarded(self, what: str, call, *arguments, **options) -> None:
        """Calls something that the training must survive, and tells its failure once."""
        try:
            call(*arguments, **options)
        except Exception as error:
            if (what, type(error)) not in self._told:
                logger.warning("%s: %s: %s; the training goes on", what, type(error).__name__, error)
            self._told.add((what, type(error)))


def _check_numbers(every: Any, budget: Any, rows: Any) -> None:
    if not isinstance(every, int) or every < 1:
        raise BadInput("every", came=repr(every), wanted="an integer of at least 1")
    if budget is not None and not budget > 0:
        raise BadInput("budget", came=repr(budget), wanted="a share of the training time above 0, or None")
    if rows is not None and (not isinstance(rows, int) or rows < 2):
        raise BadInput("rows", came=repr(rows), wanted="an integer of at least 2, or None for all")


def _is_told(flag: Flag, told: set[tuple]) -> bool:
    return tuple(flag[3].split(": ", 1)) in told


def _finish_pending_work(model: torch.nn.Module) -> None:
    """Waits for the training step, which runs on a GPU in its own time and is no part of the measurement's cost."""
    if any(p.device.type == "cuda" for p in model.parameters()):
        torch.cuda.synchronize()
