"""Training through `transformers.Trainer`: cached embeddings, the best epoch by validation loss, seeds, runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset as TorchDataset
from transformers import PreTrainedConfig, PreTrainedModel, PrinterCallback, Trainer, TrainingArguments
from transformers.utils import logging

from ..errors import BadInput
from .configuration_sparse_vae import BLMBaselineConfig, SparseVAEConfig, SparseVAEForBLMConfig
from .embeddings import EmbeddingTable
from .losses_sparse_vae import choose
from .modeling_blm_baseline import BLMBaseline
from .modeling_sparse_vae import SparseVAEForSentenceEmbedding
from .modeling_sparse_vae_blm import SparseVAEForBLM
from .resuming import begin, checkpoint_to_resume, identity_of

EPOCHS = 100
MODELS = {
    SparseVAEConfig: SparseVAEForSentenceEmbedding,
    SparseVAEForBLMConfig: SparseVAEForBLM,
    BLMBaselineConfig: BLMBaseline,
}


class EmbeddedInstances(TorchDataset):
    """Instances as row numbers into a table of embeddings; a whole batch is gathered at once.

    Args:
        data: a `datasets.Dataset` with `input` or `context`, `candidates` and `label`.
        table: embeddings of all its texts.

    Raises:
        BadInput: no instance, a text without embedding, fewer than two candidates, a label that names no candidate.
    """

    def __init__(self, data: Dataset, table: EmbeddingTable):
        if not len(data):
            raise BadInput("data", came="no instance", wanted="at least one")
        self.rows = table.rows
        sets = list(data["candidates"])
        sizes = torch.tensor([len(one) for one in sets])
        self.labels = torch.tensor(list(data["label"]))
        for wrong, came, wanted in (
            (sizes < 2, "fewer than two candidates", "an answer and another"),
            ((self.labels < 0) | (self.labels >= sizes), "a candidate set without its answer", "labels that name one"),
        ):
            if wrong.any():
                raise BadInput("data", came=f"{came} in row {int(wrong.nonzero()[0])}", wanted=wanted)
        places = table.places([text for one in sets for text in one]).split(sizes.tolist())
        places = pad_sequence(places, batch_first=True, padding_value=-1)  # (n, K)
        self.candidates, present = places.clamp(min=0), places >= 0
        self.candidate_mask = None if present.all() else present
        if "context" in data.column_names:
            contexts = list(data["context"])
            self.inputs = table.places([text for one in contexts for text in one]).view(len(contexts), -1)  # (n, S)
        else:
            self.inputs = table.places(list(data["input"]))  # (n,)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: value[0] for name, value in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """A batch: `inputs_embeds (B, D)` or `(B, S, D)`, `candidates (B, K, D)`, `labels (B,)`.

        If sets have different sizes, also `candidate_mask (B, K)`: smaller ones are filled up with the first row.
        """
        at = torch.as_tensor(indices)
        batch = {
            "inputs_embeds": self.rows[self.inputs[at]],
            "candidates": self.rows[self.candidates[at]],
            "labels": self.labels[at],
        }
        return batch if self.candidate_mask is None else batch | {"candidate_mask": self.candidate_mask[at]}


def as_is(batch: Any) -> dict[str, torch.Tensor]:
    """The collator: `EmbeddedInstances` has made the batch already."""
    return batch


def selection_accuracy(prediction) -> dict[str, float]:
    """Share of instances whose answer is the single best candidate by cosine; for `Trainer(compute_metrics=...)`."""
    chosen = choose(torch.as_tensor(prediction.predictions))
    return {"accuracy": float((chosen == torch.as_tensor(prediction.label_ids)).double().mean())}


@dataclass
class TrainingRun:
    """One training run: the model and its history.

    Args:
        model: the best checkpoint by validation loss, in evaluation mode.
        seed: of initialisation, order and noise.
        best_epoch: of that checkpoint; 0 if none was better than the start.
        history: what the Trainer logged: training loss, validation loss and accuracy, by epoch.
        seconds: of training, evaluation and saving included.
    """

    model: PreTrainedModel
    seed: int
    best_epoch: float
    history: list[dict] = field(repr=False)
    seconds: float


def training_arguments(
    output_dir: str | Path,
    *,
    epochs: int = EPOCHS,
    batch_size: int = 100,
    learning_rate: float = 1e-3,
    seed: int = 0,
    **settings: Any,
) -> TrainingArguments:
    """The paper's optimisation: Adam at 1e-3, batches of 100, no decay, no clipping, best epoch by validation loss.

    Args:
        output_dir: for checkpoints; two are kept.
        epochs: passes over the training data.
        batch_size: instances per step.
        learning_rate: of Adam.
        seed: of initialisation, order and noise.
        **settings: anything else that `TrainingArguments` takes; wins over what is set here.

    Returns:
        `TrainingArguments`.
    """
    chosen = {
        "num_train_epochs": epochs,
        "per_device_train_batch_size": batch_size,
        "per_device_eval_batch_size": 10 * batch_size,
        "learning_rate": learning_rate,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 0.0,
        "seed": seed,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 2,
        "logging_strategy": "epoch",
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
        "label_names": ["labels"],
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        "report_to": "none",
    }
    return TrainingArguments(str(output_dir), **{**chosen, **settings})


def build_model(config: PreTrainedConfig, seed: int = 0) -> PreTrainedModel:
    """A fresh model of a configuration, its weights drawn from `seed`.

    Args:
        config: a `SparseVAEConfig`, `SparseVAEForBLMConfig` or `BLMBaselineConfig`.
        seed: of the drawing; torch's global generator is left as it was. Masks come from `config.mask_seed`.

    Returns:
        The model.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return MODELS[type(config)](deepcopy(config))  # saving a model writes into its configuration


def train(
    config: PreTrainedConfig,
    data: Mapping[str, Dataset],
    table: EmbeddingTable,
    output_dir: str | Path,
    *,
    seed: int = 0,
    resume: bool = False,
    quiet: bool = True,
    **options: Any,
) -> TrainingRun:
    """Train one model on cached embeddings.

    Args:
        config: which model; its `hidden_size` must be the table's.
        data: a `DatasetDict` with `train` and, for the choice of the best epoch, `validation`. Without `validation` the
            last epoch is taken; `test` is never used.
        table: embeddings of all texts.
        output_dir: for checkpoints.
        seed: of initialisation, order and noise.
        resume: continue from the last complete checkpoint in `output_dir`, if there is one; the result is that of an
            uninterrupted run. More `epochs` than before extend the training; otherwise everything must be the same.
        quiet: no progress bars and no printed logs.
        **options: for `training_arguments`.

    Returns:
        A `TrainingRun`.

    Raises:
        BadInput: hidden sizes that differ, empty data; with `resume`, another training in `output_dir`.
    """
    check_hidden_size(config, table)
    identity = identity_of(config, table, data, {"seed": seed, **options})
    folder, epochs = Path(output_dir), options.get("epochs", EPOCHS)
    checkpoint = checkpoint_to_resume(folder, identity, epochs) if resume else None
    if checkpoint is None:
        begin(folder, identity)
    if "validation" not in data:
        options = {"eval_strategy": "no", "load_best_model_at_end": False, **options}
    arguments = training_arguments(output_dir, seed=seed, disable_tqdm=quiet, **options)
    with _progress_bars(shown=not quiet):
        trainer = Trainer(
            model=build_model(config, seed),
            args=arguments,
            train_dataset=EmbeddedInstances(data["train"], table),
            eval_dataset=EmbeddedInstances(data["validation"], table) if "validation" in data else None,
            data_collator=as_is,
            compute_metrics=selection_accuracy,
        )
        if quiet:
            trainer.remove_callback(PrinterCallback)
        outcome = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return _as_run(trainer, seed, outcome)


def check_hidden_size(config: PreTrainedConfig, table: EmbeddingTable) -> None:
    """Refuse embeddings of another size than the model's."""
    size = table.rows.shape[1]
    if config.hidden_size != size:
        raise BadInput(
            "config",
            came=f"hidden_size {config.hidden_size} for embeddings of {size} dimensions",
            wanted="the same",
            cure=f"Make the configuration with hidden_size={size}.",
        )


@contextmanager
def _progress_bars(shown: bool):
    """Keep transformers from drawing a bar for every checkpoint it writes."""
    was_shown = logging.is_progress_bar_enabled()
    if not shown:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            logging.enable_progress_bar()


def _as_run(trainer: Trainer, seed: int, outcome) -> TrainingRun:
    history = [entry for entry in trainer.state.log_history if "loss" in entry or "eval_loss" in entry]
    scored = [entry for entry in history if "eval_loss" in entry]
    best = min(scored, key=lambda entry: entry["eval_loss"])["epoch"] if scored else trainer.state.epoch
    model = cast(PreTrainedModel, trainer.model)
    return TrainingRun(model.eval(), seed, best, history, outcome.metrics["train_runtime"])


def train_runs(
    config: PreTrainedConfig,
    data: Mapping[str, Dataset],
    table: EmbeddingTable,
    output_dir: str | Path,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    jobs: int = 1,
    **options: Any,
) -> list[TrainingRun]:
    """The same training from several seeds, each in its own folder.

    Args:
        config, data, table: as in `train`.
        output_dir: run with seed s goes to `output_dir/seed-s`.
        seeds: one run each; masks are the same in all runs, those of `mask_seed`.
        jobs: runs at a time; with more than one, each gets its own process with one thread.
        **options: for `train`.

    Returns:
        Runs in the order of `seeds`.
    """
    tasks = [(config, data, table, Path(output_dir) / f"seed-{seed}", seed, options) for seed in seeds]
    if jobs == 1:
        return [_run_task(task) for task in tasks]
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(_run_task, tasks))


def _run_task(task) -> TrainingRun:
    config, data, table, folder, seed, options = task
    return train(config, data, table, folder, seed=seed, **options)
