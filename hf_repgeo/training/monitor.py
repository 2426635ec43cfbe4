"""GeometryMonitor: the shape of a model's representations while it trains, for training loops of your own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .measurement import Measurement
from .watch import TrainingWatch

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedTokenizerBase


class GeometryMonitor(TrainingWatch):
    """Measures every layer of a model in training, on a fixed sample of text, and changes nothing about the training.

    For training loops of your own, with Accelerate or plain torch. For transformers' Trainer use `GeometryCallback`,
    for Lightning `LightningGeometryCallback`; their arguments are the same.

    Args:
        texts, measures, tokens, layers, rows, every, schedule, budget, collapse, sink, stop, batch_size, log, verbose,
            seed, images, audio, processor, options: see `GeometryCallback`. `schedule` is `"log-spaced"`, `"steps"` or
            `None` here.

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

    def start(
        self,
        model: torch.nn.Module,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        steps: int,
        at: int = 0,
        accelerator: Accelerator | None = None,
        folder: str | Path | None = None,
    ) -> GeometryMonitor:
        """Begins a training, before its first step.

        Args:
            model: as `accelerator.prepare` returned it, or a plain one.
            tokenizer: reads the texts.
            steps: of the whole training.
            at: the step from which a resumed training continues.
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
        self.begin(model, steps, at, [Path(folder) / self.file] if folder else [])
        return self

    def step(self, step: int, epoch: float | None = None) -> Measurement | None:
        """After an optimizer step: measures if the schedule names it, and tells Accelerate's trackers.

        Args:
            step: optimizer steps so far.
            epoch: for the history.

        Returns:
            Measurement: or `None` if nothing was due.
        """
        if not self.due(step):
            return None
        autocast = self.accelerator.autocast() if self.accelerator else None
        measurement = self.measure(self._model, step, epoch, autocast=autocast)
        if self.accelerator is not None and self.accelerator.trackers:
            self.guarded("trackers", self.accelerator.log, self.keyed(self.logged(measurement)), step=step)
        if self.folder is not None:
            self.save(self.folder)
        return measurement
