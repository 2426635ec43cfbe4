"""Makes the tables of docs/sparse-vae.md from the files of sparse_vae.py and places.py.

python benchmarks/experiments/tables.py runs
"""

import argparse
import json
from collections import Counter, defaultdict
from pathlib import Path
from statistics import fmean, stdev

ROLE_ERRORS = ("SSM1", "SSM2", "AASSM", "AgentAct")
NUMBER_ERRORS = ("AEV", "AEN1", "AEN2", "WN1", "WN2")


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.open()] if path.exists() else []


def grouped(rows: list[dict]) -> dict[tuple, list[dict]]:
    """Runs that differ in their seed only."""
    groups = defaultdict(list)
    for row in rows:
        settings = {key: value for key, value in row["settings"].items() if not key.endswith("_seed")}
        kind = "permuted " if "permutation_seed" in row["settings"] else ""
        key = (row["encoder"], row["data"], kind + row["preset"], json.dumps(settings), row["layer"], row["language"])
        groups[(*key, row["noise"], row["epochs"])].append(row)
    return groups


def spread(values: list[float]) -> str:
    return f"{fmean(values):.3f} ({stdev(values):.3f})" if len(values) > 1 else f"{values[0]:.3f}"


def table(head: list[str], lines: list[list[str]]) -> str:
    return "\n".join(
        ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(line) + " |" for line in lines)]
    )


def chunks(rows: list[dict]) -> str:
    lines = []
    for (encoder, data, preset, settings, layer, language, noise, epochs), runs in grouped(rows).items():
        if "-" in data:
            continue
        accuracies = [run["accuracy"] for run in runs]
        lines.append([
            f"{encoder}{' noise' if noise else ''}{f' layer {layer}' if layer != -1 else ''} {language}", data, preset,
            settings.strip("{}").replace('"', ""), str(epochs), ", ".join(f"{value:.3f}" for value in accuracies),
            spread(accuracies), spread([run["macro_f1"] for run in runs]),
            ", ".join(f"{run['best_epoch']:g}" for run in runs), f"{fmean(run['seconds'] for run in runs):.0f}",
        ])  # fmt: skip
    head = ["embeddings", "split", "model", "settings", "epochs", "runs", "mean (sd)", "macro F1", "best epoch", "s"]
    return table(head, sorted(lines, key=lambda line: (line[1], line[2], line[3])))


def matrices(rows: list[dict]) -> str:
    lines = []
    for (_, data, preset, settings, *_, epochs), runs in grouped(rows).items():
        if "-" not in data:
            continue
        others = {type: spread([run["tests"][type]["accuracy"] for run in runs]) for type in runs[0].get("tests", {})}
        cells = [others.get(type, spread([run["accuracy"] for run in runs])) for type in ("I", "II", "III")]
        if not others:
            cells = [spread([run["accuracy"] for run in runs]), "", ""]
        wrong = Counter()
        for run in runs:
            wrong.update({name: count for name, count in run["errors"].items() if name != "Correct"})
        listed = ", ".join(f"{name} {count}" for name, count in wrong.most_common(6))
        runs_listed = ", ".join(f"{run['accuracy']:.3f}" for run in runs)
        lines.append([data, preset, settings.strip("{}").replace('"', ""), str(epochs), runs_listed, *cells, listed])
    return table(["trained on", "model", "settings", "epochs", "runs", "I", "II", "III", "errors"], sorted(lines))


def sparsity(rows: list[dict]) -> str:
    """Share of wrong answers by kind, at each number of latents a unit feeds."""
    lines = []
    for (_, data, _, settings, *_), runs in grouped(rows).items():
        if "latents_per_unit" not in settings or "-" not in data:
            continue
        names = NUMBER_ERRORS if data.startswith("agreement") else ROLE_ERRORS
        totals = [sum(run["errors"].values()) for run in runs]
        kinds = [sum(run["errors"].get(name, 0) for name in names) / n for run, n in zip(runs, totals, strict=True)]
        rest = [1 - run["accuracy"] - kind for run, kind in zip(runs, kinds, strict=True)]
        level = json.loads(settings)["latents_per_unit"]
        accuracy = spread([run["accuracy"] for run in runs])
        lines.append([data, f"{1 - level / 5:.1f}", accuracy, spread(kinds), spread(rest)])
    return table(["data", "sparsity", "accuracy", "wrong number (role)", "other errors"], sorted(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    options = parser.parse_args()
    rows = [row for path in sorted(options.runs.glob("*.jsonl")) if path.name != "places.jsonl" for row in read(path)]
    for title, of in (("Chunks", chunks), ("Matrices", matrices), ("Sparsity", sparsity)):
        print(f"## {title}\n\n{of(rows)}\n")


if __name__ == "__main__":
    main()
