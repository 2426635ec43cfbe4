"""True dimension against every convention, on scikit-dimension's manifolds; writes results/dimension_truth.md.

python benchmarks/dimension_truth.py              # 24 manifolds, 2,500 rows, 5 draws: about 2 minutes
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from statistics import fmean, median

import skdim
import torch

from hf_repgeo.measures import PointCloud, gride, intrinsic_dimension, levina_bickel

TARGET = Path(__file__).parent / "results" / "dimension_truth.md"
ESTIMATORS = {name: partial(intrinsic_dimension, convention=name) for name in ("facco", "razzhigaev", "mle", "ball")}
ESTIMATORS |= {"gride 2, 4": partial(gride, n1=2, n2=4), "levina_bickel": levina_bickel}


def draws(rows: int, seeds: int) -> dict[str, tuple[int, dict[str, list[float]]]]:
    """`{manifold: (truth, {estimator: values})}`."""
    found: dict[str, tuple[int, dict[str, list[float]]]] = {}
    for seed in range(seeds):
        manifolds = skdim.datasets.BenchmarkManifolds(random_state=seed)
        truth = manifolds.truth["Intrinsic Dimension"]
        for name, X in manifolds.generate(n=rows).items():
            cloud = PointCloud(torch.from_numpy(X).double(), jackknife=False)
            _, values = found.setdefault(name, (int(truth[name]), {estimator: [] for estimator in ESTIMATORS}))
            for estimator, estimate in ESTIMATORS.items():
                values[estimator].append(estimate(cloud).value)
    return found


def table(found: dict, rows: int, seeds: int) -> str:
    heads = list(ESTIMATORS)
    lines = [f"| manifold | truth | {' | '.join(heads)} |", "| --- " + "| ---: " * (len(heads) + 1) + "|"]
    errors: dict[str, list[float]] = {head: [] for head in heads}
    for name, (truth, values) in found.items():
        for head in heads:
            errors[head].append(fmean(abs(value - truth) / truth for value in values[head]))
        lines.append(f"| {name} | {truth} | " + " | ".join(f"{fmean(values[head]):.3g}" for head in heads) + " |")
    for title, summary in (("mean", fmean), ("median", median), ("largest", max)):
        lines.append(f"| {title} relative error | | " + " | ".join(f"{summary(errors[h]):.3f}" for h in heads) + " |")
    worse = sorted(zip((b - f for b, f in zip(errors["ball"], errors["facco"])), found), reverse=True)[:3]
    said = ", ".join(f"{name} by {by:+.3f}" for by, name in worse)
    note = f"Against `facco`, the error of `ball` rises most for {said}."
    return f"{rows:,} rows, means over {seeds} draws.\n\n" + "\n".join(lines) + f"\n\n{note}\n"


def timing(rows: int = 4096, columns: int = 768) -> str:
    X = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) * torch.arange(1, columns + 1) ** -0.5
    spent = {}
    for name in ("facco", "ball", "facco", "ball"):
        started = time.process_time()
        intrinsic_dimension(PointCloud(X), name)
        spent[name] = time.process_time() - started
    return f"{rows:,} x {columns} rows: `facco` {spent['facco']:.2f} CPU s, `ball` {spent['ball']:.2f} CPU s.\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2500)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    title = "# True dimension against estimate\n\nMade by `python benchmarks/dimension_truth.py`.\n\n"
    result = table(draws(options.rows, options.seeds), options.rows, options.seeds)
    TARGET.write_text(title + result + "\n" + timing())
    print(TARGET.read_text())
