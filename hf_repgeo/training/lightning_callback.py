"""LightningGeometryCallback: the shape of a model's representations while Lightning trains it."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtra
from ..report import GeometryReport
from .processes import is_first
from .watch import TrainingWatch

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback
    from transformers import PreTrainedTokenizerBase
else:
    try:
        from lightning.pytorch.callbacks import Callback
    except ImportError:
        try:
            from pytorch_lightning.callbacks import Callback
        except ImportError:  # the class can be named and read about without the package, but not made
            Callback = object

ENDLESS = 1_000_000  # steps that are planned if Lightning does not know their number


class LightningGeometryCallback(TrainingWatch, Callback):
    """Measures every layer of the transformers model inside a LightningModule, and changes nothing about the training.

    Every logger of the trainer gets `geometry/...` at the global step; `geometry.json` is written to the trainer's
    `default_root_dir`, and the history is part of Lightning's checkpoints.

    Args:
        texts: what is measured.
        tokenizer: reads the texts; not needed for tokenized ones.
        options: as in `GeometryCallback`; `schedule` is `"log-spaced"`, `"steps"` or `None` here.

    Raises:
        MissingExtra: Lightning is not installed.
        UnknownName, BadInput: as for `GeometryCallback`.

    Example:
        >>> from hf_repgeo import LightningGeometryCallback
        >>> callback = LightningGeometryCallback(texts, tokenizer=tokenizer)  # doctest: +SKIP
        >>> lightning.Trainer(callbacks=[callback]).fit(module, batches)  # doctest: +SKIP
    """

    def __init__(self, texts: Any = None, *, tokenizer: PreTrainedTokenizerBase | None = None, **options):
        if Callback is object:
            raise MissingExtra("lightning", "lightning", "LightningGeometryCallback")
        super().__init__(texts, **options)
        self.tokenizer = tokenizer
        self._loaded: GeometryReport | None = None

    def on_train_start(self, trainer, pl_module) -> None:
        """Reads the texts and plans the steps."""
        steps = trainer.estimated_stepping_batches
        self.read(self.tokenizer, pl_module)
        self.begin(pl_module, int(steps) if isfinite(steps) and steps > 0 else ENDLESS, trainer.global_step, [])
        self._seen = trainer.global_step
        if self._loaded is not None:
            self.history = self._loaded

    def on_train_batch_end(self, trainer, pl_module, *arguments) -> None:
        """Measures if the schedule names the step; batches without an optimizer step are ignored."""
        step = trainer.global_step
        if step == self._seen:
            return
        self._seen = step
        if self.due(step):
            autocast = trainer.precision_plugin.forward_context()
            measurement = self.measure(pl_module, step, float(trainer.current_epoch), autocast=autocast)
            values = self.keyed(self.logged(measurement))
            for log in trainer.loggers if is_first() else ():
                self.guarded("loggers", log.log_metrics, values, step)
            trainer.should_stop |= self.should_stop

    def on_train_end(self, trainer, pl_module) -> None:
        """Writes the history."""
        self.save(trainer.default_root_dir)

    @property
    def state_key(self) -> str:
        """Tells this callback's history from another's in Lightning's checkpoints."""
        return self._generate_state_key(name=self.name)

    def state_dict(self) -> dict:
        """The history, for Lightning's checkpoint."""
        return {"rows": self.history.rows, "provenance": self.history.provenance}

    def load_state_dict(self, state_dict: dict) -> None:
        """Restores the history of a resumed training."""
        self._loaded = GeometryReport(list(state_dict["rows"]), dict(state_dict["provenance"]))
