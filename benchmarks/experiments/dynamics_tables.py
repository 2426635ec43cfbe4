"""Makes the tables and figures of docs/dynamics.md from the files of training_dynamics.py.

    python benchmarks/experiments/dynamics_tables.py runs/dynamics docs/images

Means over layers 1 to the last, and over seeds where there are several, with their standard deviation.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import fmean, stdev

from hf_repgeo import GeometryReport, plot_training

MEASURES = ("anisotropy", "intrinsic_dimension", "mean_cosine", "effective_rank")


def blocks_only(report: GeometryReport) -> GeometryReport:
    return GeometryReport([row for row in report if row["layer"]], report.provenance)


def means(runs: list[GeometryReport], measure: str, tokens: str) -> dict[int, list[float]]:
    """step -> each run's mean over layers."""
    found: dict[int, list[float]] = {}
    for run in runs:
        part = run.select(measure=measure, tokens=tokens).rows
        for step in sorted({row["details"]["step"] for row in part}):
            found.setdefault(step, []).append(fmean(row["value"] for row in part if row["details"]["step"] == step))
    return {step: values for step, values in found.items() if len(values) == len(runs)}


def cell(values: list[float]) -> str:
    return f"{fmean(values):.3g}" + (f" ({stdev(values):.2g})" if len(values) > 1 else "")


def table(runs: list[GeometryReport]) -> str:
    cases = [(measure, tokens) for measure in MEASURES for tokens in ("all", "sink_robust", "one_per_type")]
    columns = {case: means(runs, *case) for case in cases}
    steps = list(next(iter(columns.values())))
    lines = [["measure", "tokens", *map(str, steps)], ["---"] * (len(steps) + 2)]
    lines += [[*case, *(cell(values[step]) for step in steps)] for case, values in columns.items()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def by_layer(runs: list[GeometryReport], tokens: str) -> str:
    last = max(row["details"]["step"] for row in runs[0])
    part = [row for run in runs for row in run.select(measure="anisotropy", tokens=tokens) if row["layer"] is not None]
    layers = sorted({row["layer"] for row in part})
    values = [[row["value"] for row in part if (row["layer"], row["details"]["step"]) == (n, last)] for n in layers]
    return f"anisotropy by layer at step {last}, {tokens}: " + ", ".join(cell(each) for each in values)


def main(folder: Path, images: Path) -> None:
    for kind in ("gpt", "bert"):
        done = [path.parent for path in sorted(folder.glob(f"{kind}-*/log.json"))]
        if not done:
            continue
        runs = [GeometryReport.from_json(path / "geometry.json") for path in done]
        print(f"\n{kind}, {len(runs)} seed(s)\n\n{table([blocks_only(run) for run in runs])}\n")
        print(by_layer(runs, "all"), by_layer(runs, "sink_robust"), sep="\n")
        for path in done:
            lines = json.loads((path / "log.json").read_text())["log"]
            losses = {line["step"]: round(line["eval_loss"], 2) for line in lines if "eval_loss" in line}
            print(path.name, "held-out loss:", losses)
        figure = plot_training([blocks_only(run) for run in runs] if len(runs) > 1 else blocks_only(runs[0]))
        figure.savefig(images / f"dynamics-{kind}.png", dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
