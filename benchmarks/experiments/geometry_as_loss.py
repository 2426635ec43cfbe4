"""What a geometry term in the loss changes, and what it costs in task loss and in time per step.

    python benchmarks/experiments/geometry_as_loss.py wikitext-2 --out runs/loss

Trains the GPT of training_dynamics.py by transformers' Trainer, without a term and with `GeometryLoss` on the last
layer, from the same weights and with the same batches in each seed. Then measures the geometry of that layer on 4,096
held-out tokens, and the loss on others. Finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from functools import cache
from itertools import product
from pathlib import Path
from statistics import fmean, median, stdev

import torch
from training_dynamics import BATCH, ROWS, WINDOW, corpus, make_model, make_tokenizer, windows
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_repgeo import GeometryLoss, measure
from hf_repgeo.rows.capture import read_places
from hf_repgeo.rows.forward import places_of
from hf_repgeo.rows.passes import undisturbed
from hf_repgeo.rows.windows import Windows

TERMS = {
    "none": None,
    "iso_score, -1": ("iso_score", -1.0),
    "iso_score, -0.1": ("iso_score", -0.1),
    "patchiness, 1": ("patchiness", 1.0),
}
MEASURES = ["iso_score", "effective_rank", "patchiness:lloyd", "anisotropy"]


class StepTimes(TrainerCallback):
    """Processor seconds of each step."""

    def __init__(self):
        self.seconds: list[float] = []

    def on_step_begin(self, *args, **kwargs):
        self.began = time.process_time()

    def on_step_end(self, *args, **kwargs):
        self.seconds.append(time.process_time() - self.began)


def last_layer(model, sample: torch.Tensor) -> torch.Tensor:
    """`(tokens, hidden_size)` of the stream before the final norm, where the term reads it."""
    body = model.base_model
    taps = places_of(body, Windows([sample[0].tolist()], [[0] * WINDOW]), [-1], "raw")
    with read_places(body, taps, lambda _, rows: rows.flatten(0, 1).clone()) as found, undisturbed(model):
        body(input_ids=sample)
    return next(iter(found.values()))


@cache
def tokens(data: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows to train on, and windows held out."""
    train, valid = corpus(data)
    tokenizer = make_tokenizer(train)
    return windows(tokenizer, train), windows(tokenizer, valid)


def with_labels(rows: torch.Tensor) -> list[dict]:
    return [{"input_ids": row, "labels": row} for row in rows]


def one_run(data: Path, term: tuple | None, seed: int, steps: int) -> dict:
    train, held_out = tokens(data)
    sample, rest = held_out[: ROWS // WINDOW], held_out[ROWS // WINDOW :][:256]
    torch.random.manual_seed(seed)
    times = StepTimes()
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            scratch, max_steps=steps, per_device_train_batch_size=BATCH, per_device_eval_batch_size=64, seed=seed,
            learning_rate=1e-3, warmup_steps=50, logging_steps=50, save_strategy="no", report_to="none",
            disable_tqdm=True, use_cpu=True,
        )  # fmt: skip
        trainer = Trainer(
            make_model("gpt"),
            arguments,
            train_dataset=with_labels(train),
            eval_dataset=with_labels(rest),
            callbacks=[*([GeometryLoss(*term)] if term else []), times],
        )
        trainer.train()
        loss = trainer.evaluate()["eval_loss"]
    found = measure(last_layer(trainer.model, sample), MEASURES)
    return {"loss": loss, **{row["measure"]: row["value"] for row in found}, "step": median(times.seconds)}


def report(folder: Path) -> None:
    """Means over seeds with their standard deviation; the last column is paired by seed."""
    runs = {file.stem: json.loads(file.read_text()) for file in folder.glob("*.json")}
    columns = ["iso_score", "patchiness", "effective_rank", "anisotropy", "loss", "step"]
    print("| term, weight | seeds | " + " | ".join(columns) + " | loss above none |\n" + "| --- " * 9 + "|")
    for number, name in enumerate(TERMS):
        own = {int(key.split("-")[1]): run for key, run in runs.items() if key.startswith(f"{number}-")}
        if len(own) < 2:
            continue
        cells = [f"{fmean(v):.3f} ({stdev(v):.3f})" for v in ([run[c] for run in own.values()] for c in columns)]
        costs = [run["loss"] - runs[f"0-{seed}"]["loss"] for seed, run in own.items()]
        print(f"| {name} | {len(own)} | " + " | ".join(cells) + f" | {fmean(costs):.3f} ({stdev(costs):.3f}) |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    for seed, (number, term) in product(range(asked.seeds), enumerate(TERMS.values())):
        file = asked.out / f"{number}-{seed}.json"
        if not file.is_file():
            file.write_text(json.dumps(one_run(asked.data, term, seed, asked.steps)))
    report(asked.out)


if __name__ == "__main__":
    main()
