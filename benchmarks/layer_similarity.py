"""Debiased linear CKA of 12 x 12 layers: ours, pytorch-cka, the products alone; writes results/layer_similarity.md.

pip install --no-deps pytorch-cka==1.1.1             # once
python benchmarks/layer_similarity.py                # one thread, CPU seconds, medians of 3 calls taken in turn
"""

import argparse
import os
import platform
from pathlib import Path
from statistics import median
from time import process_time

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import torch  # noqa: E402

from hf_repgeo.measures.pairs import cka_matrix  # noqa: E402

try:
    from cka import cka_from_features
except ImportError:
    cka_from_features = None

RESULTS = Path(__file__).parent / "results" / "layer_similarity.md"


def layers(count: int, n: int, d: int, seed: int) -> list[torch.Tensor]:
    """Clouds that drift from one to the next, as layers do."""
    generator = torch.Generator().manual_seed(seed)
    found = [torch.randn(n, d, generator=generator)]
    while len(found) < count:
        found.append(found[-1] + 0.5 * torch.randn(n, d, generator=generator))
    return found


def products(x: list[torch.Tensor], y: list[torch.Tensor] | None) -> None:
    """Only the matrix products of all pairs, by PyTorch."""
    for i, a in enumerate(x):
        for b in x[i:] if y is None else y:
            a.T @ b


def peer(x: list[torch.Tensor], y: list[torch.Tensor] | None) -> torch.Tensor:
    return cka_from_features(x, x if y is None else y)


def ours(x: list[torch.Tensor], y: list[torch.Tensor] | None) -> torch.Tensor:
    return cka_matrix(x, y)


def seconds(method, x, y) -> tuple[float, torch.Tensor | None]:
    began = process_time()
    found = method(x, y)
    return process_time() - began, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--columns", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--calls", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    x = layers(asked.layers, asked.rows, asked.columns, 0)
    y = layers(asked.layers, asked.rows, asked.columns, 1)
    methods = {"hf_repgeo": ours, "pytorch-cka 1.1.1": peer if cka_from_features else None, "products alone": products}
    lines = ["| | one model with itself | two models | largest difference |", "| --- | ---: | ---: | ---: |"]
    known = {}
    for name, method in methods.items():
        if method is None:
            lines.append(f"| {name} | not installed | | |")
            continue
        cells = []
        for case, other in (("self", None), ("two", y)):
            taken = [seconds(method, x, other) for _ in range(asked.calls)]
            cells.append(f"{median(time for time, _ in taken):.2f} s")
            known[name, case] = taken[0][1]
        gap = known.get((name, "two"))
        away = "" if gap is None else f"{float((gap.double() - known['hf_repgeo', 'two']).abs().max()):.1e}"
        lines.append(f"| {name} | {' | '.join(cells)} | {away} |")
    head = f"""# Debiased linear CKA, {asked.layers} x {asked.layers} layers

{asked.rows:,} rows of {asked.columns} columns, float32, one thread, CPU seconds, median of {asked.calls} calls.
{platform.processor() or platform.machine()}, torch {torch.__version__}; `python benchmarks/layer_similarity.py`.
"""
    RESULTS.write_text(head + "\n" + "\n".join(lines) + "\n")
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()
