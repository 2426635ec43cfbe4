"""GeometryCallback: the shape of a model's representations while it trains, for transformers' Trainer and its children.

GeometryCallback(texts).attach(trainer)
trainer.train()                                      # geometry/anisotropy/layer_03, ... beside the loss
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import torch
from transformers import Trainer, TrainerCallback

from .errors import BadInput, RepgeoError, UnknownName
from .measures import check_options
from .profiling import MINIMUM_BATCH, versions
from .report import GeometryReport
from .rows.forward import encoder_of, undisturbed
from .training.fixed_sample import FixedSample, LayerMeasures, check_encoder, sample_representations
from .training.log_values import default_pairs, flags, log_values

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

SCHEDULES = ("steps", "epochs", "evaluate", "save", "log-spaced")
DEFAULT_EVERY = {"steps": 100}
WATCH = ("massive_share", "norm_over_5_medians")  # always measured: without it a sink looks like a collapse
FILE = "geometry.json"


@dataclass
class _Reading:
    """One probe's numbers, for every log line that may want them while the weights stay as they are."""

    weights: tuple
    values: dict[str, float]
    seconds: float
    logged: set[str] = field(default_factory=set)


class GeometryCallback(TrainerCallback):
    """Measures every layer on a fixed probe in the course of a training, and changes nothing about the training.

    Weights, losses, random generators and the number of loss lines in the log are, bit for bit, those of the same
    training without it. The numbers go where the Trainer's own go, TensorBoard, W&B, trackio, MLflow or none:

    - `geometry/<measure>/layer_03`; over the layers `geometry/<measure>/mean`, `/min`, `/max`, `/max_layer`;
    - `geometry/failed`: values that could not be had; they have no key, and the history says why;
    - `geometry/collapsed_layers`, `geometry/sink_layers`: see `collapse` and `sink`;
    - `geometry/seconds` that the probe took, `geometry/skipped`: probes left out so far to keep the budget;
    - at each evaluation the same as `eval_geometry/...`, also in what `trainer.evaluate()` returns, so that
      `metric_for_best_model="eval_geometry/anisotropy/layer_03"` works.

    A model with two stacks has keys `encoder_layer_03` and `decoder_layer_03`; a convention that is not its measure's
    default is part of the measure's name, as in `intrinsic_dimension_mle`.

    The history, one `GeometryReport` with `step` and `epoch` in each row's `details`, is saved as `geometry.json` into
    every checkpoint and the output folder, and goes on from there when a training is resumed.

    Where several processes train, all of them run the probe, the first one measures and tells the others.

    Args:
        probe: what is measured, the same tokens every time: texts; a `datasets.Dataset` with a column `text` or
            `input_ids`; dicts of `input_ids` and `attention_mask`, 1-D for an example or 2-D for a batch. Every token
            is a row, special ones included; with fewer than 4096 rows the numbers are those of so few rows.
        measures: names as in `hf_repgeo.measure`, but a bare name stands for its default convention only. Default:
            anisotropy, effective rank, intrinsic dimension and patchiness.
        layers: where intrinsic dimension and patchiness are measured, indices into `hidden_states`; default: the last.
            All other measures are taken in every layer.
        every: a probe at every so many steps, epochs, evaluations or saves; with `"log-spaced"`, the unit. Default: 100
            steps, else 1.
        schedule: `"steps"`, `"epochs"`, `"evaluate"`, `"save"`, or `"log-spaced"`: steps 1, 2, 5, 10, 20, 50, 100 ...
            Whatever it is, an evaluation has its probe too (each one, or every so many with `"evaluate"`).
        budget: largest share of the training time for the probes at steps; those that would exceed it are left out.
            Never the first, and never those at epochs, evaluations and saves. `None`: no limit.
        collapse: warn when the anisotropy of a layer without massive rows is above this, or when its rows are equal.
        sink: warn when more than this share of a layer's rows is massive, with a norm over 5 medians; anisotropy and
            effective rank then speak of those rows.
        batch_size: sequences a forward pass; default: the Trainer's `per_device_eval_batch_size`.
        seed: of the quantizers.
        options: as in `hf_repgeo.measure`.

    Raises:
        UnknownName: an unknown measure, option or schedule; at the start of the training, an unknown layer.
        BadInput: `every` or `budget` out of range; when attached, a probe that holds no token; at the start of the
            training, a model without hidden states.

    Cost: a forward pass of the model's body over the probe; the default measures add about a fifth of that for a
    12-layer, 768-wide model on CPU. Memory for the probe's rows in every layer.

    Not supported: FSDP. Not tried: DeepSpeed ZeRO-3, `torch_compile`.

    Example:
        >>> from hf_repgeo.callbacks import GeometryCallback
        >>> callback = GeometryCallback(["Some text."], schedule="log-spaced")
        >>> trainer = Trainer(model, arguments, train_dataset=data, processing_class=tokenizer)  # doctest: +SKIP
        >>> callback.attach(trainer)  # doctest: +SKIP
        >>> trainer.train()  # doctest: +SKIP
        >>> callback.at(100).value("anisotropy", layer=3)  # doctest: +SKIP
    """

    def __init__(
        self,
        probe: Any,
        *,
        measures: str | list[str] | None = None,
        layers: list[int] | None = None,
        every: int | None = None,
        schedule: str = "steps",
        budget: float | None = 0.02,
        collapse: float = 0.9,
        sink: float = 0.001,
        batch_size: int | None = None,
        seed: int = 0,
        **options,
    ):
        if schedule not in SCHEDULES:
            raise UnknownName("schedule", schedule, SCHEDULES)
        self.schedule = schedule
        self.every = DEFAULT_EVERY.get(schedule, 1) if every is None else every
        if not isinstance(self.every, int) or self.every < 1:
            raise BadInput("every", came=repr(every), wanted="an integer of at least 1")
        if budget is not None and not budget > 0:
            raise BadInput("budget", came=repr(budget), wanted="a share of the training time above 0, or None")
        check_options(options)
        self.budget, self.collapse, self.sink = budget, collapse, sink
        self.asked = default_pairs(measures)
        self.layer_measures = LayerMeasures(
            list(dict.fromkeys([*self.asked, WATCH])), [-1] if layers is None else layers, options, seed
        )
        self.layer_measures.check()
        self.batch_size = batch_size
        self.given = probe
        self.trainer: Trainer | None = None
        self.history = GeometryReport()
        self._reading: _Reading | None = None
        self._warned: set[tuple] = set()

    # --- before training --------------------------------------------------------------------------------------------

    def attach(self, trainer: Trainer) -> GeometryCallback:
        """Joins a trainer and reads the probe with its tokenizer.

        Args:
            trainer: transformers' Trainer or a child of it.

        Returns:
            GeometryCallback: itself.

        Raises:
            BadInput: the probe cannot be read or holds no token; the model holds no transformers model; FSDP.
        """
        if trainer.is_fsdp_enabled:
            raise BadInput("trainer", came="one with FSDP", wanted="plain, DDP or DeepSpeed training")
        tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
        self.sample = FixedSample.of(self.given, tokenizer, encoder_of(trainer.model))
        self.trainer = trainer
        if self.sample.rows < MINIMUM_BATCH and trainer.is_world_process_zero():
            logger.warning(
                "few_rows: the probe has %d tokens; numbers of fewer than %d rows are not those of the whole "
                "distribution, above all effective rank, dimension and patchiness",
                self.sample.rows,
                MINIMUM_BATCH,
            )
        self._start_history(trainer.model)
        if self not in trainer.callback_handler.callbacks:
            trainer.add_callback(self)
        return self

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model, **kwargs):
        self._check_attached()
        with undisturbed(model):
            check_encoder(encoder_of(model), self.sample, self.layer_measures.layers)
        self._reading, self._warned = None, set()
        self._began, self._spent, self._cost = monotonic(), 0.0, None
        if state.global_step:
            self._start_history(model)
            self._resume(args, state)
        elif any(self.steps):  # of an earlier training; an evaluation before the training is its beginning
            self._start_history(model)

    def _check_attached(self) -> None:
        if self.trainer is None:
            raise RepgeoError(
                "GeometryCallback has no trainer to log with: call GeometryCallback(...).attach(trainer), "
                "which also adds it to the trainer's callbacks"
            )

    def _start_history(self, model: torch.nn.Module) -> None:
        encoder = encoder_of(model)
        self.history = GeometryReport(
            provenance={
                "model": encoder.config._name_or_path or type(encoder).__name__,
                "measures": [f"{name}:{convention}" for name, convention in self.layer_measures.pairs],
                "layers": self.layer_measures.layers,
                "options": self.layer_measures.options,
                "seed": self.layer_measures.seed,
                "probe": self.sample.provenance(),
                "schedule": f"{self.schedule}, every {self.every}",
                "budget": self.budget,
                "counts": {},
                "skipped": [],
                **versions(),
            }
        )

    def _resume(self, args: TrainingArguments, state: TrainerState) -> None:
        """Goes on with the history of the checkpoint that this training was resumed from."""
        folders = [Path(args.output_dir) / f"checkpoint-{state.global_step}"]
        if isinstance(args.resume_from_checkpoint, str):
            folders.insert(0, Path(args.resume_from_checkpoint))
        found = [folder / FILE for folder in folders if (folder / FILE).exists()]
        earlier = self._agreed(GeometryReport.from_json(found[0]) if found and state.is_world_process_zero else None)
        if earlier is not None and earlier.provenance["probe"] == self.history.provenance["probe"]:
            self.history = earlier
        elif state.is_world_process_zero:
            why = f"no {FILE} in {folders[-1]}" if earlier is None else "the earlier one is of another probe"
            logger.warning("the geometry history begins anew at step %d: %s", state.global_step, why)

    # --- when -------------------------------------------------------------------------------------------------------

    def on_step_end(self, args, state: TrainerState, control: TrainerControl, model, **kwargs):
        stepwise = self.schedule in ("steps", "log-spaced")
        if not stepwise or state.global_step % self.every:
            return
        if self.schedule == "log-spaced" and not _is_1_2_5(state.global_step // self.every):
            return
        if self._affordable(state):
            self._log("geometry/", state, control, model)
            self._cost = self._reading.seconds
            self._spent += self._cost

    def on_epoch_end(self, args, state: TrainerState, control: TrainerControl, model, **kwargs):
        if self.schedule == "epochs" and self._due("epochs"):
            self._log("geometry/", state, control, model)

    def on_evaluate(self, args, state: TrainerState, control: TrainerControl, model, metrics=None, **kwargs):
        self._check_attached()
        if self.schedule == "evaluate" and not self._due("evaluate"):
            return
        values = self._log("eval_geometry/", state, control, model)
        if metrics is not None:
            metrics.update(values)
        if not self.trainer.is_in_train:
            self._save(state, Path(args.output_dir))

    def on_save(self, args, state: TrainerState, control: TrainerControl, model, **kwargs):
        if self.schedule == "save" and self._due("save"):
            self._log("geometry/", state, control, model)
        self._save(state, Path(args.output_dir), Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def on_train_end(self, args, state: TrainerState, control: TrainerControl, **kwargs):
        self._save(state, Path(args.output_dir))

    def _due(self, event: str) -> bool:
        """Counts an event; the count is part of the history, so that it goes on after a resumption."""
        counts = self.history.provenance["counts"]
        counts[event] = counts.get(event, 0) + 1
        return counts[event] % self.every == 0

    def _affordable(self, state: TrainerState) -> bool:
        """Whether one more probe keeps the budget; the first process decides for all, and says what is left out."""
        if self.budget is None or self._cost is None:
            return True
        share = self._agreed((self._spent + self._cost) / (monotonic() - self._began))
        if share <= self.budget:
            return True
        skipped = self.history.provenance["skipped"]
        if not skipped and state.is_world_process_zero:
            logger.warning(
                "budget: no geometry at step %d, since probes of %.2g s would take %.2g of the training time and the "
                "budget is %.2g; others may be left out too, see geometry/skipped",
                state.global_step,
                self._cost,
                share,
                self.budget,
            )
        skipped.append(state.global_step)
        return False

    # --- what -------------------------------------------------------------------------------------------------------

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

    def _log(self, prefix: str, state: TrainerState, control: TrainerControl, model) -> dict[str, float]:
        """Sends a reading to the log, once per prefix, and returns what it sent."""
        reading = self._read(state, model)
        extra = {"seconds": reading.seconds, "skipped": len(self.history.provenance["skipped"])}
        values = {prefix + key: value for key, value in (reading.values | extra).items()}
        if prefix not in reading.logged:
            reading.logged.add(prefix)
            wanted = control.should_log  # logging clears it, and the Trainer would leave out its own loss line
            # not self.trainer.log: children of Trainer empty their running means of training metrics there
            Trainer.log(self.trainer, dict(values))
            control.should_log = wanted
        return values

    def _read(self, state: TrainerState, model: torch.nn.Module) -> _Reading:
        """Measures, unless the last reading is of these very weights, as at an evaluation right after a step."""
        weights = (state.global_step, id(model), sum(p._version for p in model.parameters()))
        if self._reading is None or self._reading.weights != weights:
            rows, seconds = self._agreed(self._probe(state, model))
            stamp = {"step": state.global_step, "epoch": state.epoch}
            for row in rows:
                self.history.add(**row | {"details": row["details"] | stamp})
            flagged = flags(rows, self.collapse, self.sink)
            self._warn(state, flagged)
            values = log_values(rows, self.asked)
            values["collapsed_layers"] = sum(kind == "collapse" for kind, *_ in flagged)
            values["sink_layers"] = sum(kind == "sink" for kind, *_ in flagged)
            self._reading = _Reading(weights, values, seconds)
        return self._reading

    def _probe(self, state: TrainerState, model: torch.nn.Module) -> tuple[list[dict], float]:
        """Rows of the report and the seconds they took. All processes run the model, the first one measures."""
        encoder = encoder_of(model)
        _finish_pending_work(encoder)
        began = monotonic()
        batch_size = self.batch_size or self.trainer.args.per_device_eval_batch_size
        with undisturbed(model):
            states = sample_representations(encoder, self.sample, batch_size, self.trainer.accelerator.autocast())
            rows = self.layer_measures.measure(states) if state.is_world_process_zero else []
        return rows, monotonic() - began

    def _agreed(self, value: Any) -> Any:
        """What the first process holds, in every process."""
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def _warn(self, state: TrainerState, flagged: list[tuple[str, str, int, str]]) -> None:
        """Says each kind of trouble once a layer."""
        new = [flag for flag in flagged if flag[:3] not in self._warned]
        self._warned |= {flag[:3] for flag in new}
        for kind in dict.fromkeys(flag[0] for flag in new) if state.is_world_process_zero else ():
            told = "; ".join(f"{stack} layer {layer}: {why}" for k, stack, layer, why in new if k == kind)
            logger.warning("%s at step %d: %s", kind, state.global_step, told)

    def _save(self, state: TrainerState, *folders: Path) -> None:
        if not state.is_world_process_zero or not len(self.history):
            return
        for folder in folders:
            if folder.is_dir():
                self.history.to_json(folder / FILE)


# --- small things ---------------------------------------------------------------------------------------------------


def _is_1_2_5(number: int) -> bool:
    """Whether the decimal number is 1, 2 or 5 followed by zeros."""
    digits = str(number)
    return digits[0] in "125" and not digits[1:].strip("0")


def _finish_pending_work(encoder: PreTrainedModel) -> None:
    """Waits for the training step, which runs on a GPU in its own time and is no part of the probe's cost."""
    if encoder.device.type == "cuda":
        torch.cuda.synchronize(encoder.device)
