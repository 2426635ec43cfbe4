"""What neighbours and k-means gain from a second thread, and what a matrix product gains; wall-clock seconds.

    python benchmarks/two_threads.py                      # writes benchmarks/results/two_threads.md
    python benchmarks/two_threads.py --rows 4096 --calls 9

Runs with one and with two threads take turns in one process, so that other programs slow both alike; each figure is the
least of several calls. Rows: a Gaussian whose variance along direction i is 1 / i, turned at random. The goal: each
gains at least 90 % of what the float32 product of the rows with themselves gains.
"""

import argparse
import datetime
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from compare import power_law, processor

from hf_repgeo.measures.kernels.neighbors import nearest
from hf_repgeo.measures.kernels.products import times_transposed
from hf_repgeo.measures.kernels.quantizers import quantize

TARGET = Path(__file__).parent / "results" / "two_threads.md"
WHY = """
Cells gain little because half of their time is the start of k-means: 63 cuts a block, each of some 25 calls on few
rows, which no thread can share. Of 53 ms in one thread (4,096 x 384, a busy machine) the start took 28, products 6.5,
numpy's argmin 4.1, sums over cells 2.6. Blocks in threads of our own were slower: the calls are too short for
Python's lock.
"""
SHAPES = ((4096, 384), (4096, 768), (16384, 768))
WORK: dict[str, Callable] = {
    "product": lambda rows: times_transposed(rows, rows[:4096]),
    "neighbours": nearest,
    "product quantizer": quantize,
}


def seconds(function: Callable, rows: torch.Tensor) -> float:
    start = time.perf_counter()
    function(rows)
    return time.perf_counter() - start


def gains(rows: torch.Tensor, calls: int) -> dict[str, tuple[float, float]]:
    """Least seconds with one thread and with two."""
    best = {name: [float("inf")] * 2 for name in WORK}
    for _ in range(calls):
        for name, function in WORK.items():
            for threads in (1, 2):
                torch.set_num_threads(threads)
                best[name][threads - 1] = min(best[name][threads - 1], seconds(function, rows))
    return {name: (one, two) for name, (one, two) in best.items()}


def lines(n: int, d: int, calls: int) -> list[str]:
    found = gains(torch.from_numpy(power_law(n, d)), calls)
    product = found["product"][0] / found["product"][1]
    return [
        f"| {n} x {d} | {name} | {one * 1e3:.0f} | {two * 1e3:.0f} | {one / two:.2f} | {one / two / product:.0%} |"
        for name, (one, two) in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, help="time only the clouds with this number of rows; write no file")
    parser.add_argument("--calls", type=int, default=7)
    options = parser.parse_args()
    shapes = [shape for shape in SHAPES if options.rows in (None, shape[0])]
    table = [
        "| n x d | work | one thread, ms | two, ms | gain | of the product's |",
        "| ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for shape in shapes:
        table += lines(*shape, options.calls)
        print("\n".join(table[-len(WORK) :]), flush=True)
    where = f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    made = f"`python benchmarks/two_threads.py`, {datetime.date.today()}, {where} (this benchmark counted)."
    text = "\n".join(["# What a second thread gains, by the clock", "", made, "", *table, WHY])
    if options.rows is None:
        TARGET.write_text(text)


if __name__ == "__main__":
    main()
