"""Writes to the clients of TensorBoard, W&B and trackio that a Trainer's reporters have opened, at the right step."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

DIRECT = ("tensorboard", "wandb", "trackio")


class Reporters:
    """Writes numbers to the clients named in `report_to`, without a trainer.

    Keys stay as they are, `geometry/anisotropy/mean`; the x-axis is the global step.

    Args:
        names: as in `TrainingArguments.report_to`.
        output_dir: the Trainer's; TensorBoard's files are below it.
    """

    def __init__(self, names: list[str], output_dir: str | Path):
        self.names, self.output_dir = list(names or ()), Path(output_dir)
        self._tensorboard = None

    @property
    def unreached(self) -> list[str]:
        """The names of trackers that cannot be written to without the trainer."""
        return [name for name in self.names if name not in DIRECT]

    def write(self, values: dict[str, float], step: int, tensorboard: Any = None) -> None:
        """Sends numbers to every client.

        Args:
            values: key -> number.
            step: the global step.
            tensorboard: the writer to use; default: one of our own in the folder of the Trainer's.
        """
        if "tensorboard" in self.names or tensorboard is not None:
            writer = tensorboard or self._writer()
            for key, value in values.items():
                writer.add_scalar(key, value, step)
            writer.flush()
        if "wandb" in self.names and (run := _wandb_run()) is not None:
            run.log(values | {"train/global_step": step})
        if "trackio" in self.names and (run := _trackio_run()) is not None:
            run.log(dict(values), step=step)
            self.align(step)

    def align(self, step: int) -> None:
        """Makes trackio's next line without a step of its own, such as the Trainer's loss, land at this step.

        Without a step trackio numbers the lines, and the Trainer gives it no step: the loss of step 500, logged every
        10 steps, would be at x = 49, and after a line of ours somewhere else.
        """
        run = _trackio_run() if "trackio" in self.names else None
        if run is not None and hasattr(run, "_next_step"):
            run._next_step = step

    def alert(self, title: str, text: str) -> None:
        """Raises an alert in W&B and trackio."""
        if "wandb" in self.names and (run := _wandb_run()) is not None:
            run.alert(title=title, text=text)
        if "trackio" in self.names and (run := _trackio_run()) is not None:
            run.alert(title=title, text=text)

    def close(self) -> None:
        """Closes what was opened here."""
        if self._tensorboard is not None:
            self._tensorboard.close()
            self._tensorboard = None

    def _writer(self):
        if self._tensorboard is None:
            from torch.utils.tensorboard import SummaryWriter

            self._tensorboard = SummaryWriter(str(self._tensorboard_folder()), filename_suffix=".geometry")
        return self._tensorboard

    def _tensorboard_folder(self) -> Path:
        """Where the Trainer's own reporter writes: the folder it was told, else its newest one."""
        if told := os.environ.get("TENSORBOARD_LOGGING_DIR"):
            return Path(told).expanduser()
        runs = self.output_dir / "runs"
        made = [folder for folder in runs.iterdir() if folder.is_dir()] if runs.is_dir() else []
        return max(made, key=lambda folder: folder.stat().st_mtime, default=runs / "geometry")


def _wandb_run():
    """The run that is open, if any; a client that was never imported has none."""
    return getattr(sys.modules.get("wandb"), "run", None)


def _trackio_run():
    trackio = sys.modules.get("trackio")
    return None if trackio is None else trackio.context_vars.current_run.get()
