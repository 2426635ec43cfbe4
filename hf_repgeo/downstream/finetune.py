"""Fine-tuning and evaluation of one model on one GLUE task by transformers' Trainer, with the paper's settings."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import BadInput, MissingExtra
from .glue_files import Rows, Task, need_scipy
from .perturbation import Perturbation, apply_perturbation

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class FinetuneSettings:
    """How to fine-tune; the defaults are those of arXiv 2406.12159 (run_glue's).

    Attributes:
        learning_rate: of AdamW at the start; it falls linearly to 0.
        epochs: passes over the training data.
        steps: updates of the weights instead of epochs, the same for large and small tasks.
        max_length: tokens of a sequence; longer ones are cut.
        batch_size: rows per step, whatever the device holds.
        device_batch_size: rows at once on the device; gradients are accumulated up to `batch_size`.
        seed: of the head's initialisation and the order of rows; a run's number is added.
        train_rows, dev_rows: number of rows to use, from the start; default: all.
        bf16: matrix products in bfloat16 (autocast).
    """

    learning_rate: float = 2e-5
    epochs: float = 3.0
    steps: int | None = None
    max_length: int = 128
    batch_size: int = 32
    device_batch_size: int = 32
    seed: int = 42
    train_rows: int | None = None
    dev_rows: int | None = None
    bf16: bool = False

    def __post_init__(self):
        if self.device_batch_size < 1 or self.batch_size % self.device_batch_size:
            wanted = f"a divisor of the batch size, {self.batch_size}"
            raise BadInput("device_batch_size", came=str(self.device_batch_size), wanted=wanted)
        if self.steps is not None and self.steps < 1:
            raise BadInput("steps", came=str(self.steps), wanted="1 or more")


def finetune(
    place: str,
    task: Task,
    rows: dict[str, Rows],
    settings: FinetuneSettings,
    tokenizer: PreTrainedTokenizerBase,
    *,
    recipe: Perturbation | None = None,
    run: int = 0,
    options: dict | None = None,
) -> dict[str, float | None]:
    """Loads a model with a fresh head, perturbs its encoder, trains it, and scores it on the validation rows.

    Args:
        place: Hub id or folder.
        task: which GLUE task.
        rows: `train` and `dev`, from `load_task`.
        settings: of the training.
        tokenizer: of the model.
        recipe: perturbation before the training; default: none.
        run: added to the seed.
        options: for `from_pretrained`, such as `revision`.

    Returns:
        `score`, the number that GLUE's average takes, and `loss` on the validation rows.

    Raises:
        MissingExtra: accelerate or scipy is not installed.
    """
    need_trainer()
    seed = settings.seed + run
    with _quiet():
        model = classifier(place, task, seed, options or {})
    if recipe is not None:
        apply_perturbation(model, recipe)
    parts = {
        "train": _encode(rows["train"].head(settings.train_rows), tokenizer, settings.max_length),
        "dev": _encode(rows["dev"].head(settings.dev_rows), tokenizer, settings.max_length),
    }
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        trainer = _trainer(model, tokenizer, parts, settings, seed, folder)
        trainer.train()
        found = trainer.predict(parts["dev"])
    return {"score": task.score(_predictions(task, found.predictions), found.label_ids), "loss": _loss(found.metrics)}


def need_trainer() -> None:
    """Raises MissingExtra unless fine-tuning can run to its end."""
    try:
        import accelerate  # noqa: F401
    except ImportError:
        raise MissingExtra("accelerate", "downstream", "Fine-tuning") from None
    need_scipy()


def classifier(place: str, task: Task, seed: int, options: dict) -> PreTrainedModel:
    """The model with a head for the task; the head's start depends on the seed alone."""
    from transformers import AutoModelForSequenceClassification

    with torch.random.fork_rng():
        torch.manual_seed(seed)  # noqa: TID251  transformers draws heads from the global generator; the fork restores it
        return AutoModelForSequenceClassification.from_pretrained(
            place,
            num_labels=max(len(task.classes), 1),
            problem_type="single_label_classification" if task.classes else "regression",
            dtype=torch.float32,
            **options,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences transformers' note that the head is new, which would come once per job."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


class _Encoded(torch.utils.data.Dataset):
    def __init__(self, encoded: dict, labels: list):
        self.encoded, self.labels = encoded, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, at: int) -> dict:
        return {**{key: values[at] for key, values in self.encoded.items()}, "labels": self.labels[at]}


def _encode(rows: Rows, tokenizer, max_length: int) -> _Encoded:
    return _Encoded(dict(tokenizer(*rows.texts, truncation=True, max_length=max_length)), rows.labels)


def _trainer(model, tokenizer, parts: dict[str, _Encoded], settings: FinetuneSettings, seed: int, folder: str):
    from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainingArguments

    arguments = TrainingArguments(
        output_dir=folder,
        learning_rate=settings.learning_rate,
        num_train_epochs=settings.epochs,
        max_steps=settings.steps or -1,
        per_device_train_batch_size=settings.device_batch_size,
        gradient_accumulation_steps=settings.batch_size // settings.device_batch_size,
        per_device_eval_batch_size=64,
        seed=seed,
        bf16=settings.bf16,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    collator = DataCollatorWithPadding(tokenizer)
    trainer = Trainer(model, arguments, train_dataset=parts["train"], data_collator=collator)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _predictions(task: Task, logits) -> np.ndarray:
    logits = np.asarray(logits[0] if isinstance(logits, tuple) else logits)
    return logits.argmax(-1) if task.classes else logits.reshape(len(logits))


def _loss(metrics: dict) -> float | None:
    """The validation loss; `None` where a collapsed model's is not finite."""
    loss = float(metrics["test_loss"])
    return loss if np.isfinite(loss) else None
