"""GeometryCallback: the shape of a model's representations while it trains, for transformers' Trainer and its children.

trainer = Trainer(model, arguments, callbacks=[GeometryCallback(texts)], ...)
trainer.train()                                      # geometry/anisotropy/mean, ... beside the loss
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import ProgressCallback, Trainer, TrainerCallback
from transformers.trainer_callback import DefaultFlowCallback, PrinterCallback

from .training.measurement import Measurement
from .training.processes import is_first
from .training.reporters import Reporters
from .training.schedule import STEPWISE
from .training.watch import TrainingWatch

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

CONSOLE = (PrinterCallback, ProgressCallback, DefaultFlowCallback)


class GeometryCallback(TrainingWatch, TrainerCallback):
    """Measures every layer on a fixed sample of text in the course of a training, and changes nothing about it.

    Weights, losses, random generators and the number of loss lines in the log are, bit for bit, those of the same
    training without it. If a measurement fails, for lack of memory or any other reason, the log says why once, the
    history has a missing value, and training continues; after a failure for lack of memory the next measurement takes
    half the rows.

    The numbers go into `trainer.state.log_history` and to TensorBoard, W&B and trackio at the global step, as
    `geometry/...`; other trackers get them after `attach`. Nothing is printed.

    - `geometry/<measure>/mean` over the layers, or `/layer_12` where one layer is measured;
    - `geometry/failed`: values that could not be computed; they have no key, and the history says why;
    - `geometry/collapsed_layers`, `geometry/sink_layers`: see `collapse` and `sink`;
    - `geometry/seconds` that the measurement took;
    - with `log="layers"` every layer's value, `geometry/<measure>/layer_03`, the layers' `/mean`, `/min`, `/max`,
      `/max_layer`, and `geometry/skipped`: measurements left out so far to keep the budget.

    At each evaluation every layer's key, as `eval_geometry/...`, is in the log history and in what
    `trainer.evaluate()` returns, so that `metric_for_best_model="eval_geometry/anisotropy/layer_03"` works.

    A model with two stacks has keys `encoder_layer_03` and `decoder_layer_03`; a convention that is not its measure's
    default is part of the measure's name, as in `intrinsic_dimension_mle`; a token policy other than `all` comes
    first, as in `geometry/sink_robust/anisotropy/mean`.

    The history, one `GeometryReport` with `step` and `epoch` in each row's `details`, is saved as `geometry.json` into
    every checkpoint and the output folder, and continues when the training is resumed. `print` shows it by
    step, `hf_repgeo.plot_training` draws it.

    Where several processes train, the first one measures and tells the others; under FSDP and ZeRO-3, where no process
    holds the whole model, all of them run the forward pass.

    Args:
        texts: what is measured, the same tokens every time: strings; a `datasets.Dataset` with a column `text` or
            `input_ids`; dicts of `input_ids` and `attention_mask`, 1-D for an example or 2-D for a batch.
        measures: names as in `hf_repgeo.measure`, but a bare name stands for its default convention only. Default:
            anisotropy, effective rank, intrinsic dimension and patchiness.
        tokens: token policies as in `hf_repgeo.profile`: `"all"`: every token is a row, special ones included;
            `"no_special"`, `"sink_robust"`, `"one_per_type"`; or a list of them.
        layers: where intrinsic dimension and patchiness are measured, indices into `hidden_states`; default: the last.
            All other measures are taken in every layer.
        rows: number of tokens to measure; from longer texts, examples are drawn at random. With fewer than 4096 rows
            the numbers are those of a small sample. `None`: every token of the texts.
        every: the number of steps, epochs, evaluations or saves between measurements; with `"log-spaced"`, the unit.
            Default: 100 steps, else 1.
        schedule: `"steps"`, `"epochs"`, `"evaluate"`, `"save"`, or `"log-spaced"`: steps 1, 2, 5, 10, 20, 50, 100 ...
            Default: `"steps"` where `every` is given, else log-spaced with the last step, and at least six points.
            Whatever it is, an evaluation is measured too (each one; with `"evaluate"` as `every` says).
        budget: largest share of the training time that the measurements at steps may take, beyond the first six. If
            they would take more, only every second, fourth, ... point of the schedule is measured. Six points, spread
            over the schedule, are always measured, and so are epochs, evaluations and saves. `None`: no limit.
        collapse: warn when the anisotropy of a layer without massive rows is above this, or when its rows are equal.
            Or bands by measure, `{"effective_rank": (5, None), "anisotropy": (None, 0.8)}`: warn when a layer leaves
            one. W&B and trackio get an alert.
        sink: warn when more than this share of a layer's rows is massive, with a norm over 5 medians; anisotropy and
            effective rank then describe those rows.
        stop: end the training at a collapse.
        batch_size: sequences per forward pass; default: the Trainer's `per_device_eval_batch_size`.
        log: `"summary"` or `"layers"`: the keys of a line in the training log and of the trackers.
        verbose: print one line per measurement.
        seed: of the draw of examples and of the quantizers.
        name: takes the place of `geometry` in keys and in the file of the history. Two callbacks in one trainer, such
            as for two languages, need a name each: `GeometryCallback(texts, name="geometry_german")`.
        images, audio: measured instead of texts, in the forms that `hf_repgeo.profile` takes; rows are patches or
            frames. Beside texts, one for each, what is written about an image or said in a sound.
        processor: of images or audio; default: the Trainer's `processing_class`, else the one saved with the model.
        probe: the former name of `texts`.
        options: as in `hf_repgeo.measure`.

    Raises:
        UnknownName: an unknown measure, option, policy or schedule; at the start of the training, an unknown layer.
        BadInput: `every`, `budget`, `rows` or `collapse` out of range; when a trainer is made, texts that hold no
            token; at the start of the training, a model without hidden states.

    Cost: a forward pass of the model's body over the rows; the default measures add about a fifth of that for a
    12-layer, 768-wide model on CPU. Memory for the rows of every layer.

    Not tested: DeepSpeed ZeRO-3, `torch_compile`. Under FSDP or ZeRO-3 a failure of one process in the middle of the
    forward pass leaves the others waiting, as in any training step.

    Example:
        >>> from hf_repgeo import GeometryCallback
        >>> callback = GeometryCallback(["Some text."])
        >>> trainer = Trainer(model, arguments, train_dataset=data, callbacks=[callback])  # doctest: +SKIP
        >>> trainer.train()  # doctest: +SKIP
        >>> callback.at(100).value("anisotropy", layer=3)  # doctest: +SKIP
    """

    trainer: Trainer | None = None
    reporters: Reporters | None = None

    # --- before training --------------------------------------------------------------------------------------------

    def attach(self, trainer: Trainer) -> GeometryCallback:
        """Adds the callback to an existing trainer and sends the numbers to all of its trackers.

        Args:
            trainer: transformers' Trainer or a child of it.

        Returns:
            GeometryCallback: itself.

        Raises:
            BadInput: the texts cannot be read or hold no token; the model holds no transformers model.
        """
        self.trainer = trainer
        if trainer.model is not None:
            self._join(trainer.args, trainer.model, trainer.processing_class)
        if self not in trainer.callback_handler.callbacks:
            trainer.add_callback(self)
        return self

    def on_init_end(
        self, args, state, control, *, model: Any = None, processing_class: Any = None, **kwargs: Any
    ) -> None:
        if model is not None:
            self._join(args, model, processing_class)

    def _join(self, args: TrainingArguments, model: torch.nn.Module, processing_class: Any) -> Reporters:
        if self.reporters is None:
            self.reporters = Reporters(cast("list[str]", args.report_to), _output_folder(args))
            self.read(processing_class, model)
        return self.reporters

    def on_train_begin(
        self, args, state, control, *, model: Any = None, processing_class: Any = None, **kwargs: Any
    ) -> None:
        reporters = self._join(args, model, processing_class)
        if self.trainer is None and reporters.unreached and is_first():
            names = ", ".join(reporters.unreached)
            logger.warning("trackers: %s will not get the geometry; call attach(trainer) to reach them", names)
        folders = [_output_folder(args) / f"checkpoint-{state.global_step}"]
        if isinstance(args.resume_from_checkpoint, str):
            folders.insert(0, Path(args.resume_from_checkpoint))
        self.begin(model, state.max_steps, state.global_step, [folder / self.file for folder in folders])

    # --- when -------------------------------------------------------------------------------------------------------

    def on_step_end(self, args, state, control, *, model: Any = None, **kwargs: Any) -> None:
        self._align(state)
        if self.due(state.global_step):
            self._record(args, state, control, model)

    def on_epoch_end(self, args, state, control, *, model: Any = None, **kwargs: Any) -> None:
        if self.schedule == "epochs" and self.counts("epochs"):
            self._record(args, state, control, model)

    def on_evaluate(
        self,
        args,
        state,
        control,
        *,
        model: Any = None,
        metrics: Any = None,
        processing_class: Any = None,
        **kwargs: Any,
    ) -> None:
        self._join(args, model, processing_class)
        if self.schedule == "evaluate" and not self.counts("evaluate"):
            return
        measurement = self._record(args, state, control, model, evaluating=True)
        if metrics is not None:
            metrics.update(self.keyed(measurement.layers, evaluating=True))
        if not self._is_training(state):
            self.save(_output_folder(args))

    def on_save(self, args, state, control, *, model: Any = None, **kwargs: Any) -> None:
        if self.schedule == "save" and self.counts("save"):
            self._record(args, state, control, model)
        self.save(_output_folder(args), _output_folder(args) / f"checkpoint-{state.global_step}")

    def on_log(self, args, state, control, **kwargs: Any) -> None:
        self._align(state)

    def on_train_end(self, args, state, control, *, model: Any = None, **kwargs: Any) -> None:
        stopped_early = state.global_step < state.max_steps and state.global_step not in self.steps
        if stopped_early and self.schedule in (None, *STEPWISE) and not args.load_best_model_at_end:
            self._record(args, state, control, model)
        self.save(_output_folder(args))
        if self.reporters is not None:
            self.reporters.close()

    def _align(self, state: TrainerState) -> None:
        if self.reporters is not None:
            self.reporters.align(state.global_step)

    def _is_training(self, state: TrainerState) -> bool:
        return self._thinning is not None and 0 < state.global_step < state.max_steps

    # --- where to ---------------------------------------------------------------------------------------------------

    def _record(
        self, args, state: TrainerState, control: TrainerControl, model, *, evaluating: bool = False
    ) -> Measurement:
        """Measures, and puts the numbers into the log history and the trackers, once in training, once evaluating."""
        batch_size = args.per_device_eval_batch_size
        measurement = self.measure(
            model, state.global_step, state.epoch, batch_size=batch_size, autocast=_autocast(args, model)
        )
        if evaluating not in measurement.logged:
            measurement.logged.add(evaluating)
            full = evaluating or self.log == "layers"
            line = self.keyed(measurement.layers if full else measurement.summary, evaluating)
            epoch = {} if state.epoch is None else {"epoch": state.epoch}
            state.log_history.append(line | epoch | {"step": state.global_step})
            if state.is_world_process_zero:
                self._report(self._join(args, model, None), evaluating, measurement, args, state, control)
        if self.should_stop:
            control.should_training_stop = True
        return measurement

    def _report(
        self,
        reporters: Reporters,
        evaluating: bool,
        measurement: Measurement,
        args,
        state: TrainerState,
        control: TrainerControl,
    ) -> None:
        values = self.logged(measurement)
        shown = {("eval/" if evaluating else "") + key: value for key, value in self.keyed(values).items()}
        self.guarded("trackers", reporters.write, shown, state.global_step, self._tensorboard_writer())
        for stack, layer, why in [flag[1:] for flag in self.new_collapses]:
            text = f"step {state.global_step}, {stack} layer {layer}: {why}"
            self.guarded("alerts", reporters.alert, f"{self.name}: collapse", text)
        self.new_collapses = []
        for callback in self._others():
            self.guarded("trackers", callback.on_log, args, state, control, logs=self.keyed(values, evaluating))

    def _tensorboard_writer(self):
        """The Trainer's own, where the trainer is known."""
        callbacks = self.trainer.callback_handler.callbacks if self.trainer else ()
        return next((each.tb_writer for each in callbacks if getattr(each, "tb_writer", None)), None)

    def _others(self) -> list[TrainerCallback]:
        """The attached trainer's callbacks that read its log, except the console and trackers written to directly."""
        from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

        known = (*CONSOLE, TensorBoardCallback, WandbCallback, TrackioCallback)
        callbacks = self.trainer.callback_handler.callbacks if self.trainer else ()
        return [each for each in callbacks if each is not self and not isinstance(each, known)]


def _output_folder(args: TrainingArguments) -> Path:
    return Path(cast(str, args.output_dir))  # TrainingArguments sets a default where none is given


def _autocast(args: TrainingArguments, model: torch.nn.Module) -> AbstractContextManager:
    """The precision in which the training runs its own forward passes."""
    dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
    device = next(model.parameters()).device.type
    return nullcontext() if dtype is None else torch.autocast(device, dtype=dtype)
