"""What a measurement of GeometryCallback costs, compared with its own forward pass.

    OMP_NUM_THREADS=1 python benchmarks/callback_cost.py
    python benchmarks/callback_cost.py --device cuda --dtype bfloat16

A BERT-base configuration (12 layers, 768 columns) with random weights, random tokens, the default measures. The goal:
on CPU, the whole measurement costs at most 1.3 times the forward pass alone. Prints one line of JSON; `cpu_ratio`
compares processor time, which other programs disturb less than wall-clock time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
from transformers import BertConfig, BertForMaskedLM, Trainer, TrainingArguments

from hf_repgeo.callbacks import GeometryCallback
from hf_repgeo.rows.forward import undisturbed


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--length", type=int, default=128, help="tokens a sequence")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    return parser.parse_args()


def seconds(work: Callable[[], object], device: str) -> tuple[float, float]:
    """Wall-clock time and processor time."""
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    wait()
    began, began_cpu = time.perf_counter(), time.process_time()
    work()
    wait()
    return time.perf_counter() - began, time.process_time() - began_cpu


def plain_forward(body: torch.nn.Module, ids: torch.Tensor, batch_size: int) -> None:
    """Runs the same batches through the body and keeps no rows."""
    for batch in ids.to(body.device).split(batch_size):
        body(input_ids=batch, attention_mask=torch.ones_like(batch))


def ratio(whole: list[tuple[float, float]], forward: list[tuple[float, float]], which: int) -> float:
    """Median over the repeats; the first is a warm-up."""
    return round(statistics.median(w[which] / f[which] for w, f in zip(whole[1:], forward[1:])), 3)


def main() -> None:
    asked = arguments()
    model = BertForMaskedLM(BertConfig()).to(asked.device, getattr(torch, asked.dtype))
    ids = torch.randint(1000, 30000, (asked.rows // asked.length, asked.length))
    sample = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(folder, use_cpu=asked.device == "cpu", report_to="none")
        callback = GeometryCallback(sample, batch_size=asked.batch_size).attach(Trainer(model, settings))
        callback.begin(model, 1000, 0, [])
        forward, whole = [], []
        for _ in range(asked.repeats + 1):
            with undisturbed(model):
                forward.append(seconds(lambda: plain_forward(model.bert, ids, asked.batch_size), asked.device))
            whole.append(seconds(lambda: callback._begun().rows(model, asked.batch_size, None), asked.device))
    result = {
        "device": torch.cuda.get_device_name() if asked.device == "cuda" else "cpu",
        "dtype": asked.dtype,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "rows": callback._begun().sample.rows,
        "forward_s": round(statistics.median(clock for clock, _ in forward[1:]), 3),
        "measurement_s": round(statistics.median(clock for clock, _ in whole[1:]), 3),
        "ratio": ratio(whole, forward, 0),
        "cpu_ratio": ratio(whole, forward, 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
