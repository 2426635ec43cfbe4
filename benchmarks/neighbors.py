"""How fast the exact search of two neighbours is beside its matrix product alone; writes results/neighbors.md.

    python benchmarks/neighbors.py                     # n = 16384 and 65536, d = 768, one thread and two
    python benchmarks/neighbors.py --rows 16384 --threads 1

Efficiency is n^2 d flops (half of what the full product takes) / time / the best float32 matmul rate, 2 m n k / time,
of numpy, oneDNN and MKL, measured before and after the searches in the same process. It is given in CPU seconds, which
other programs disturb little, and in wall-clock seconds, which they lengthen; the load shows whether any ran. If the
processor multiplies bfloat16 in tiles (AMX), the search begins with those products and may be faster than the float32
rate allows; the table also has the search in float32.
"""

import argparse
import datetime
import itertools
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
TARGET, TARGET_MIB = 0.75, 2048
SHAPES = ((2048, 2048), (2048, 512), (8192, 512))
CLOCKS = ("wall", "cpu")
READING = "<!-- written by hand; kept when the figures are refreshed -->"
HEAD = """| n x d | threads | first in | seconds | CPU s | numpy, oneDNN, MKL | by CPU s | by clock | peak, MiB | load |
| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
"""


def fastest(function: Callable, calls: int) -> dict[str, float]:
    """Least wall-clock seconds and least CPU seconds of some calls."""
    found = dict.fromkeys(CLOCKS, float("inf"))
    for _ in range(calls):
        start = time.perf_counter(), time.process_time()
        function()
        end = time.perf_counter(), time.process_time()
        found = {clock: min(found[clock], z - a) for clock, a, z in zip(CLOCKS, start, end, strict=True)}
    return found


def matmul_rates(d: int) -> dict[str, dict[str, float]]:
    """Best float32 rates over some shapes, GFLOP/s by clock and library."""
    import numpy as np
    import torch

    from hf_repgeo.measures.kernels.products import times_transposed

    best = {clock: {"numpy": 0.0, "oneDNN": 0.0, "MKL": 0.0} for clock in CLOCKS}
    for m, n in SHAPES:
        a, b = (np.random.default_rng(0).standard_normal((rows, d)).astype(np.float32) for rows in (m, n))
        x, y = torch.from_numpy(a), torch.from_numpy(b)
        products = {
            "numpy": lambda: a @ b.T,  # noqa: B023
            "oneDNN": lambda: times_transposed(x, y),  # noqa: B023
            "MKL": lambda: x @ y.T,  # noqa: B023
        }
        with torch.no_grad():
            for library, product in products.items():
                for clock, seconds in fastest(product, 8).items():
                    best[clock][library] = max(best[clock][library], 2 * m * n * d / seconds / 1e9)
    return best


def measure(n: int, d: int, threads: int, calls: int, float32: int) -> dict:
    """The figures of one line; runs in a process of its own, so that its peak memory is that of the search."""
    import torch
    from compare import power_law

    from hf_repgeo.measures.kernels import neighbors
    from hf_repgeo.measures.kernels.neighbors import nearest

    bfloat16 = neighbors.bfloat16_is_fast() and not float32
    neighbors.bfloat16_is_fast = lambda: bfloat16
    torch.set_num_threads(threads)
    rows = torch.from_numpy(power_law(n, d))
    before_search = matmul_rates(d)
    nearest(rows[:3000])
    memory = peak_mib()
    seconds = fastest(lambda: nearest(rows), calls)
    memory = peak_mib() - memory
    after_search = matmul_rates(d)
    rates = {
        clock: {name: max(rate, after_search[clock][name]) for name, rate in before_search[clock].items()}
        for clock in CLOCKS
    }
    shares = {clock: n * n * d / seconds[clock] / 1e9 / max(rates[clock].values()) for clock in CLOCKS}
    return {"seconds": seconds, "rates": rates["cpu"], "shares": shares, "memory": memory, "bfloat16": bfloat16}


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def line(n: int, d: int, threads: int, calls: int, float32: bool) -> str:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = os.environ | dict.fromkeys(names, str(threads)) | {"OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, __file__, "--one", str(n), str(d), str(threads), str(calls), str(int(float32))]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    found = json.loads(result.stdout.splitlines()[-1])
    seconds, shares = found["seconds"], found["shares"]
    verdict = "" if shares["cpu"] >= TARGET else ", not reached"
    rates = ", ".join(f"{rate:.0f}" for rate in found["rates"].values())
    first = "bfloat16" if found["bfloat16"] else "float32"
    return (
        f"| {n} x {d} | {threads} | {first} | {seconds['wall']:.2f} | {seconds['cpu']:.2f} | {rates} | "
        f"{shares['cpu']:.0%}{verdict} | {shares['wall']:.0%} | {found['memory']:.0f} | {os.getloadavg()[0]:.1f} |\n"
    )


def write(path: Path, figures: str) -> None:
    """Replace the figures in a file and keep what was written by hand after them."""
    _, _, reading = path.read_text().partition(READING) if path.exists() else ("", "", "")
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{figures.rstrip()}\n\n{READING}\n\n{reading.strip()}".rstrip() + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[16384, 65536])
    parser.add_argument("--columns", type=int, default=768)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, default=HERE / "results" / "neighbors.md")
    parser.add_argument(
        "--one", type=int, nargs=5, metavar=("N", "D", "THREADS", "CALLS", "FLOAT32"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one)))
        return
    from compare import processor

    from hf_repgeo.measures.kernels.products import bfloat16_is_fast

    text = (
        f"# Exact two nearest neighbours\n\n`python benchmarks/neighbors.py`, {datetime.date.today()}, {processor()}, "
        f"{os.cpu_count()} cores.\nEfficiency is n^2 d flops / time / the faster matmul of the line. Rows: power-law "
        "Gaussian, float32; distances exact\nin float64. Seconds are the least of 2 to 6 calls; the matmul columns are "
        "GFLOP per CPU second; peak is memory beyond\nthe rows; load counts this benchmark and whatever else ran. "
        f"To reach: {TARGET:.0%}, under {TARGET_MIB} MiB.\n\n{HEAD}"
    )
    for n, threads in itertools.product(options.rows, options.threads):
        for float32 in (False, True) if bfloat16_is_fast() else (True,):
            text += line(n, options.columns, threads, 6 if n <= 20000 else 2, float32)
            print(text.splitlines()[-1], flush=True)
            write(options.out, text)


if __name__ == "__main__":
    main()
