"""The paper's own layout (preset `sparse`, one latent per region) under every control.

    python benchmarks/experiments/paper_layout.py FOLDER --output runs               trains, analyses, prints the tables
    python benchmarks/experiments/paper_layout.py FOLDER --output runs --minutes 10  stops then; run it again to resume

A division draws the pairs (split `pairs`) or the lexicon rows (split `seeds`), the regions' latents and the shuffled
dimensions; a seed draws the weights and the order. Each model is one line of JSON in OUTPUT/layout.jsonl; finished
models are not run again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.manifold import TSNE
from sparse_vae import Encoder, append, chunk_table, encoder_of

from hf_repgeo.blm import chunk_sentences, pair_instances, to_dataset
from hf_repgeo.localization.figures import latents_of
from hf_repgeo.localization.probing import make_probe
from hf_repgeo.localization.scores import property_rows
from hf_repgeo.sparse_vae import (
    SparseVAEConfig,
    SparseVAEForSentenceEmbedding,
    build_model,
    counterfactual_pairs,
    evaluate_model,
    localize,
    pattern_properties,
    planted_table,
    probe,
    read_columns,
    region_dimensions,
    selection_score,
)
from hf_repgeo.sparse_vae.training import EmbeddedInstances

DIVISIONS, SEEDS, EPOCHS, BATCH, NULLS = (0, 1, 2), (0, 1, 2), 100, 100, 99
ROWS_OF_PROBES = range(4, 33, 4)  # tested on, where the split holds no rows out
NUMBERS, EXCHANGED = ("subject", "pp1", "pp2", "length"), ("subject", "pp1", "pp2")
SETTINGS = {  # name: preset, shuffled dimensions, random vectors in place of embeddings
    "sparse": ("sparse", False, False),
    "sparse, shuffled dimensions": ("sparse", True, False),
    "sparse, random vectors": ("sparse", False, True),
    "sparse_units": ("sparse_units", False, False),
    "dense_stride": ("dense_stride", False, False),
    "base": ("base", False, False),
}
KINDS = tuple(SETTINGS)


@dataclass(frozen=True)
class Run:
    """One model."""

    kind: str
    split: str
    division: int
    seed: int

    @property
    def slug(self) -> str:
        return f"{self.kind.replace(', ', '-').replace(' ', '-')}_{self.split}_{self.division}_{self.seed}"

    def config(self) -> SparseVAEConfig:
        preset, shuffled, _ = SETTINGS[self.kind]
        order = 1 + self.seed + 10 * self.division if shuffled else None
        return SparseVAEConfig.preset(preset, mask_seed=self.division, permutation_seed=order)

    def table(self, encoder: Encoder):
        if SETTINGS[self.kind][2]:
            return planted_table(chunk_sentences("en"), 768, strength=0.0, seed=self.division)
        return chunk_table(encoder, -1, "en")


def all_runs() -> Iterator[Run]:
    """The layout and its control over all divisions, then the models that it is compared with."""
    for kinds in (KINDS[:2], KINDS[2:]):
        for division, split, seed, kind in product(DIVISIONS, ("pairs", "seeds"), SEEDS, kinds):
            if (kind, split) != ("sparse, random vectors", "seeds") or seed == 0:  # no information on unseen words
                yield Run(kind, split, division, seed)


@cache
def instances(split: str, division: int):
    return to_dataset(pair_instances("en", split=split, seed=division))


def trained(run: Run, encoder: Encoder, output: Path) -> dict:
    """Train, keep and score one model."""
    data, table = instances(run.split, run.division), run.table(encoder)
    began = time.process_time()
    model, best_epoch = best_of(run, data, table)
    seconds = round(time.process_time() - began, 1)
    model.save_pretrained(output / "layout" / run.slug)
    scored = evaluate_model(model, data["test"], table).as_dict()
    facts = {name: value for name, value in scored.items() if name != "errors"}
    return facts | {"best_epoch": best_epoch, "seconds": seconds}


def best_of(run: Run, data, table) -> tuple[SparseVAEForSentenceEmbedding, int]:
    """Like `hf_repgeo.sparse_vae.train`, without the Trainer, which takes half of the time of such small steps."""
    torch.default_generator.manual_seed(run.seed)
    model = build_model(run.config(), run.seed)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    part, held = (EmbeddedInstances(data[name], table) for name in ("train", "validation"))
    unseen = held.__getitems__(range(len(held)))
    least, best, best_epoch = float("inf"), {}, 0
    for epoch in range(1, EPOCHS + 1):
        model.train()
        for at in torch.randperm(len(part)).split(BATCH):
            optimizer.zero_grad()
            model(**part.__getitems__(at)).loss.backward()
            optimizer.step()
        with torch.no_grad():
            loss = float(model.eval()(**unseen).loss)
        if loss < least:
            least, best, best_epoch = loss, deepcopy(model.state_dict()), epoch
    model.load_state_dict(best)
    return model.eval(), best_epoch


def asked(run: Run, encoder: Encoder, output: Path) -> dict:
    """Ablates regions, exchanges regions, and reads the latents; probes are tested on words that they have not seen."""
    model = SparseVAEForSentenceEmbedding.from_pretrained(output / "layout" / run.slug).eval()
    data, table = instances(run.split, run.division), run.table(encoder)
    x, score = selection_score(model, data["test"], table)
    reference = table.of(sorted(set(data["train"]["input"])))
    ablated = localize(score, x, region_dimensions(model), reference=reference, n_null=39, floor=1 / 8)
    rows = unseen_rows(run)
    return {
        "regions": ablated.as_dict(),
        "exchange": {prop: exchanged(model, table, prop, rows) for prop in EXCHANGED},
        "latents": {prop: told(model, table, prop, rows) for prop in NUMBERS},
    }


def unseen_rows(run: Run) -> set[int]:
    if run.split == "pairs":
        return set(ROWS_OF_PROBES)
    known = set(instances(run.split, run.division)["train"]["input"])
    return {one.row for one in chunk_sentences("en")} - {one.row for one in chunk_sentences("en") if one.text in known}


def exchanged(model, table, prop: str, rows: set[int]) -> dict:
    """How often the counterpart's region flips what a probe of the latents reads; the same for random sets."""
    sentences, values = property_rows(chunk_sentences("en"), prop)
    fitted = [i for i, sentence in enumerate(sentences) if sentence.row not in rows]
    known = latents_of(model, table.of([sentences[i].text for i in fitted]))
    reader = make_probe().fit(known.numpy(), [values[i] for i in fitted])
    pairs = [(a, b) for a, b in counterfactual_pairs(sentences, prop) if a.row in rows]
    x, donors = (table.of([pair[side].text for pair in pairs]) for side in (0, 1))
    wanted = [pattern_properties(b.pattern)[prop] for _, b in pairs]

    @torch.no_grad()
    def flips(regions: torch.Tensor) -> torch.Tensor:
        turned = torch.where(regions[:, None], donors, x)  # (regions, pairs, hidden_size)
        answers = reader.predict(model.sentence.encode(turned.flatten(0, 1))[0].numpy()).reshape(len(regions), -1)
        return torch.as_tensor(answers == np.array(wanted)).double().mean(-1)

    regions, generator = region_dimensions(model), torch.Generator().manual_seed(0)
    own, whole = flips(regions), torch.ones(1, x.shape[1], dtype=torch.bool)
    null = torch.stack([flips(regions[:, torch.randperm(x.shape[1], generator=generator)]) for _ in range(NULLS)])
    p_values = (1 + (null >= own).sum(0)).double() / (1 + NULLS)
    ends = {"whole": float(flips(whole)), "none": float(flips(~whole))}
    return ends | {"flips": own.tolist(), "random": null.mean(0).tolist(), "p": p_values.tolist()}


def told(model, table, prop: str, rows: set[int]) -> dict:
    """Bits of each latent, and the accuracy of a linear probe of all latents on unseen words."""
    sentences, values = property_rows(chunk_sentences("en"), prop)
    latents = latents_of(model, table.of([sentence.text for sentence in sentences]))
    inside = [sentence.row in rows for sentence in sentences]
    places = [[i for i, held in enumerate(inside) if held == side] for side in (False, True)]
    parts = [part for at in places for part in (latents[at], [values[i] for i in at])]
    found = probe(*parts)
    bits = [one.mutual_information for one in read_columns(latents, values)]
    return {"accuracy": found.accuracy, "shuffled": found.control_accuracy, "bits": bits}


# --- tables -----------------------------------------------------------------------------------------------------------


def spread(values: list[float]) -> str:
    return f"{fmean(values):.3f} ({stdev(values):.3f})" if len(values) > 1 else f"{fmean(values):.3f}"


def printed(lines: list[dict]) -> None:
    """Accuracies, places and exchanges as Markdown, the spread over divisions beside that over initialisations."""
    groups = defaultdict(list)
    for line in lines:
        groups[line["kind"], line["split"]].append(line)
    print(
        "| model | split | runs | mean (sd over all) | sd of division means | mean sd over initialisations | macro F1 |"
    )
    for (kind, split), runs in sorted(groups.items()):
        cells = defaultdict(list)
        for run in runs:
            cells[run["division"]].append(run["accuracy"])
        means = [fmean(cell) for cell in cells.values()]
        within = [stdev(cell) for cell in cells.values() if len(cell) > 1]
        parts = [f"{stdev(means):.3f}" if len(means) > 1 else "", f"{fmean(within):.3f}" if within else ""]
        f1 = spread([run["macro_f1"] for run in runs])
        print("|", " | ".join([kind, split, str(len(runs)), spread([r["accuracy"] for r in runs]), *parts, f1]), "|")
    for (kind, split), runs in sorted(groups.items()):
        answered = [run for run in runs if "regions" in run]
        if answered:
            print_places(f"{kind}, {split}", answered)


def print_places(title: str, runs: list[dict]) -> None:
    cells = [region["cells"] for region in runs[0]["regions"]["regions"]]
    effects = [fmean(run["regions"]["regions"][i]["effect"] for run in runs) for i in range(len(cells))]
    indices = [run["regions"]["index"] for run in runs]
    found = sum(run["regions"]["p_value"] <= 0.05 for run in runs)
    print(f"\n{title}: cells {cells}, lost {[round(effect, 3) for effect in effects]}")
    print(f"index {spread(indices)}; p <= 0.05 in {found} of {len(runs)}")
    for prop in EXCHANGED:
        asked = [run["exchange"][prop] for run in runs]
        ends = [fmean(one[end] for one in asked) for end in ("whole", "none")]
        means = [
            [round(fmean(one[key][i] for one in asked), 3) for i in range(len(cells))] for key in ("flips", "random")
        ]
        passed = sum(p <= 0.05 for one in asked for p in one["p"])
        print(f"exchange of {prop}: whole {ends[0]:.2f}, none {ends[1]:.2f}, regions {means[0]}, random {means[1]},",
              f"p <= 0.05 in {passed} of {len(cells) * len(runs)}")  # fmt: skip
    for prop in NUMBERS:
        asked = [run["latents"][prop] for run in runs]
        best, second = ([sorted(one["bits"])[-k] for one in asked] for k in (1, 2))
        read, chance = (spread([one[key] for one in asked]) for key in ("accuracy", "shuffled"))
        print(f"latents, {prop}: read {read}, shuffled {chance}, best {spread(best)}, second {spread(second)} bits")


def drawn(lines: list[dict]) -> Figure:
    """F1 by pattern on both splits, mean and spread over the models, and the confusion matrix on `pairs`."""
    own = [line for line in lines if line["kind"] == "sparse"]
    patterns = sorted(own[0]["f1"], key=lambda pattern: (len(pattern), pattern))
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    places = np.arange(len(patterns))
    for offset, split, color in ((-0.2, "pairs", "#0072B2"), (0.2, "seeds", "#D55E00")):
        scores = np.array([[line["f1"].get(name, 0.0) for name in patterns] for line in own if line["split"] == split])
        label = f"{split}, {len(scores)} models"
        left.barh(places + offset, scores.mean(0), 0.38, xerr=scores.std(0), color=color, label=label)
    left.axvline(1 / 8, color="black", linestyle="--", linewidth=0.8, label="chance")
    left.set(xlabel="F1", xlim=(0, 1), yticks=places, yticklabels=patterns)
    left.invert_yaxis()
    left.legend(fontsize="small", loc="center right")
    counts = np.zeros((len(patterns),) * 2)
    for line in (line for line in own if line["split"] == "pairs"):
        for true, taken in line["confusion"].items():
            for name, count in taken.items():
                counts[patterns.index(true), patterns.index(name)] += count
    shares = counts / counts.sum(1, keepdims=True)
    picture = right.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    right.set(xticks=places, yticks=places, yticklabels=[], xlabel="taken for (as on the left, from the top)")
    right.set_xticklabels([str(place + 1) for place in places])
    figure.colorbar(picture, ax=right, label="share of a pattern's sentences, split pairs")
    return figure


def drawn_latents(encoder: Encoder, output: Path) -> Figure:
    """t-SNE of the sentences' latents by the full model and by the paper's layout, trained on the same pairs."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    sentences = chunk_sentences("en")
    told = [pattern_properties(one.pattern) for one in sentences]
    groups = [(one["subject"], one["length"]) for one in told]
    axes = figure.subplots(1, 2)
    for axis, kind in zip(axes, ("base", "sparse")):
        run = Run(kind, "pairs", 0, 0)
        if not (output / "layout" / run.slug).exists():
            trained(run, encoder, output)
        model = SparseVAEForSentenceEmbedding.from_pretrained(output / "layout" / run.slug).eval()
        table = run.table(encoder)
        latents = latents_of(model, table.of([one.text for one in sentences]))
        points = TSNE(n_components=2, random_state=0).fit_transform(latents.numpy())
        for group in sorted(set(groups)):
            at = [place for place, one in enumerate(groups) if one == group]
            name, color = {"s": ("singular", "#0072B2"), "p": ("plural", "#D55E00")}[group[0]]
            look = {"color": color, "marker": "o^s"[int(group[1])], "s": 14, "alpha": 0.7}
            axis.scatter(points[at, 0], points[at, 1], label=f"{name} subject, {group[1]} phrases", **look)
        axis.set(title=f"{kind}: {sum(p.numel() for p in model.parameters()):,} parameters", xticks=[], yticks=[])
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize="small")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--pooling", default="cls")
    parser.add_argument("--divisions", nargs="+", type=int, default=list(DIVISIONS))
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--figure", type=Path, help="F1 by pattern and confusion")
    parser.add_argument("--latents", type=Path, help="t-SNE of the full model's latents beside the layout's")
    options = parser.parse_args()
    encoder, log, ends = encoder_of(options), options.output / "layout.jsonl", time.monotonic() + 60 * options.minutes
    done = {line["slug"]: line for line in map(json.loads, log.open())} if log.exists() else {}
    for run in all_runs():
        if run.slug in done or run.division not in options.divisions or time.monotonic() > ends:
            continue
        line = {"slug": run.slug, "encoder": encoder.short, **asdict(run), **trained(run, encoder, options.output)}
        if run.kind in KINDS[:2]:
            line |= asked(run, encoder, options.output)
        append(log, line)
        done[run.slug] = line
        print(f"{run.slug}: {line['accuracy']:.3f} in {line['seconds']} s", flush=True)
    printed(list(done.values()))
    if options.figure:
        drawn(list(done.values())).savefig(options.figure, dpi=100)
    if options.latents:
        drawn_latents(encoder, options.output).savefig(options.latents, dpi=100)


if __name__ == "__main__":
    main()
