"""Does a fresh model learn faster if its weights are adjusted first until its geometry is that of a trained one?

    python benchmarks/experiments/geometry_led_initialization.py wikitext-2 --out runs/initialization --seeds 6

A GPT as in training_dynamics.py (4 layers of 128). The target, by layer: effective rank, anisotropy and mean cosine of
such a model trained for 1,000 steps. Each seed is trained from three starts with the same batches: its random
weights; those adjusted to the target by 60 steps without labels; and random weights with the norm of every adjusted
weight, which shows the effect of scale alone. Counts the steps until the held-out loss passes two marks, interpolated
between evaluations, and tests paired differences by flipping signs. Finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from operator import mul
from pathlib import Path
from statistics import fmean, stdev

import torch
from training_dynamics import BATCH, WINDOW, corpus, make_model, make_tokenizer, windows

from hf_repgeo.losses import TERMS
from hf_repgeo.rows.capture import RESIDUAL, read_places
from hf_repgeo.rows.forward import places_of
from hf_repgeo.rows.passes import undisturbed
from hf_repgeo.rows.windows import Windows
from hf_repgeo.training.initialization import match_geometry

MEASURES = ("effective_rank", "anisotropy", "mean_cosine")
BEGINNINGS = ("random", "geometry_led", "same_norms")
MARKS = (6.5, 6.0)
EVERY, STEPS, WARMUP, RATE, ADJUSTING = 10, 300, 50, 1e-3, 60


def batches_of(rows: torch.Tensor, seed: int):
    """Endless batches of BATCH windows."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for part in torch.randperm(len(rows), generator=generator).split(BATCH):
            if len(part) == BATCH:
                yield rows[part]


@torch.no_grad()
def held_out_loss(model, rows: torch.Tensor) -> float:
    with undisturbed(model):
        return fmean(float(model(input_ids=part, labels=part).loss) for part in rows.split(64))


def train(model, rows: torch.Tensor, held_out: torch.Tensor, seed: int, steps: int, until: float) -> dict[int, float]:
    """Held-out loss by step, until it passes the last mark."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    losses = {0: held_out_loss(model, held_out)}
    for step, ids in zip(range(1, steps + 1), batches_of(rows, seed)):
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, step / WARMUP)
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        if step % EVERY == 0:
            losses[step] = held_out_loss(model, held_out)
            if losses[step] < until:
                break
    return losses


def geometry(model, ids: torch.Tensor) -> dict[str, dict[int, float]]:
    """measure -> layer -> value on one batch of windows."""
    body = model.base_model
    taps = [tap for tap in places_of(body, Windows([ids[0].tolist()], [[0] * WINDOW])) if tap.place.point == RESIDUAL]
    with read_places(body, taps, lambda _, rows: rows.flatten(0, 1).clone()) as found, undisturbed(model):
        body(input_ids=ids)
    return {m: {place.layer: float(TERMS[m](rows)) for place, rows in found.items()} for m in MEASURES}


@torch.no_grad()
def with_norms_of(model, other) -> None:
    """Gives every weight of a model the norm that it has in another."""
    for weight, like in zip(model.parameters(), other.parameters(), strict=True):
        if float(weight.norm()) > 0:
            weight *= like.norm() / weight.norm()


def begin(beginning: str, seed: int, sample: torch.Tensor, target: dict):
    """A model at its start, and its distance from the target's geometry after each step of adjusting."""

    def fresh():
        torch.random.manual_seed(seed)
        return make_model("gpt")

    model = fresh()
    if beginning == "random":
        return model, []
    batches = [{"input_ids": part} for part in sample.split(BATCH)]
    distances = match_geometry(model, batches, target, steps=ADJUSTING)
    if beginning == "same_norms":
        adjusted, model = model, fresh()
        with_norms_of(model, adjusted)
    return model, distances


def steps_to(losses: dict[int, float], mark: float) -> float | None:
    """Where the curve first passes the mark, between two evaluations on a straight line."""
    points = sorted(losses.items())
    for (a, high), (b, low) in zip(points, points[1:]):
        if low <= mark < high:
            return a + (b - a) * (high - mark) / (high - low)
    return None


def sign_flip_p(differences: list[float]) -> float:
    """Two-sided p of the mean difference, over all 2^n flips of sign."""
    means = [abs(fmean(map(mul, signs, differences))) for signs in product((1, -1), repeat=len(differences))]
    return fmean(mean >= abs(fmean(differences)) - 1e-12 for mean in means)


def read_runs(folder: Path, beginning: str) -> dict[int, dict]:
    """Seed -> the stored results of the run from one kind of start."""
    return {int(file.stem.split("-")[1]): json.loads(file.read_text()) for file in folder.glob(f"{beginning}-*.json")}


def steps_by_seed(runs: dict[int, dict], mark: float) -> dict[int, float]:
    """Seed -> steps to the mark, of the runs that reach it."""
    found = {seed: steps_to({int(k): v for k, v in run["losses"].items()}, mark) for seed, run in runs.items()}
    return {seed: steps for seed, steps in found.items() if steps is not None}


def report(folder: Path) -> None:
    """Steps to each mark for each beginning, and paired differences from the random one."""
    print("| beginning | mark | seeds | steps (sd) | fewer than random (sd) | p |\n" + "| --- " * 6 + "|")
    for beginning, mark in product(BEGINNINGS, MARKS):
        found, base = (steps_by_seed(read_runs(folder, name), mark) for name in (beginning, "random"))
        both = sorted(found.keys() & base)
        if len(both) < 2:
            continue
        steps, gains = [found[seed] for seed in both], [base[seed] - found[seed] for seed in both]
        test = f"{fmean(gains):.1f} ({stdev(gains):.1f}) | {sign_flip_p(gains):.3f}" if any(gains) else " | "
        print(f"| {beginning} | {mark} | {len(both)} | {fmean(steps):.1f} ({stdev(steps):.1f}) | {test} |")
    for beginning in BEGINNINGS:
        found = [run["distances"] for run in read_runs(folder, beginning).values() if run["distances"]]
        if found:
            ends = [fmean(distances[place] for distances in found) for place in (0, -1)]
            print(f"{beginning}: squared distance from its target {ends[0]:.4f}, then {ends[1]:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=6)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    train_texts, valid_texts = corpus(asked.data)
    tokenizer = make_tokenizer(train_texts)
    rows, held_out = windows(tokenizer, train_texts), windows(tokenizer, valid_texts)[:64]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(99))
    rows, sample = rows[order[512:]], rows[order[:512]]
    target_file = asked.out / "target.json"
    if not target_file.is_file():
        torch.random.manual_seed(1000)
        teacher = make_model("gpt")
        losses = train(teacher, rows, held_out, 1000, 1000, 0.0)
        target_file.write_text(json.dumps({"geometry": geometry(teacher, sample[:BATCH]), "losses": losses}))
    stored = json.loads(target_file.read_text())["geometry"]
    target = {measure: {int(layer): value for layer, value in by.items()} for measure, by in stored.items()}
    for seed, beginning in product(range(asked.seeds), BEGINNINGS):
        file = asked.out / f"{beginning}-{seed}.json"
        if not file.is_file():
            model, distances = begin(beginning, seed, sample, target)
            start = geometry(model, sample[:BATCH])
            losses = train(model, rows, held_out, seed, STEPS, min(MARKS))
            file.write_text(json.dumps({"losses": losses, "distances": distances, "start": start}))
    report(asked.out)


if __name__ == "__main__":
    main()
