"""How near the exact two nearest neighbours come to the arithmetic nobody can avoid; writes results/neighbors.md.

    python benchmarks/neighbors.py                     # n = 16384 and 65536, d = 768, one thread and two
    python benchmarks/neighbors.py --rows 16384 --threads 1

Efficiency is n^2 d flops (half of what the full product takes) / time / the best float32 matmul rate, 2 m n k / time, of
numpy and oneDNN, measured just before and just after the searches, in the same process. One thread: CPU seconds. More:
seconds by the clock, which other programs on the machine spoil; the load says whether there were any.
"""

import argparse
import datetime
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
HEAD = """| n | d | threads | seconds | CPU s | matmul numpy / oneDNN, GFLOP/s | efficiency | peak, MiB | load | to reach |
| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |
"""


def fastest(function: Callable, calls: int) -> tuple[float, float]:
    """Least seconds by the clock and least CPU seconds of some calls."""
    walls, cpus = [], []
    for _ in range(calls):
        wall, cpu = time.perf_counter(), time.process_time()
        function()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return min(walls), min(cpus)


def matmul_rates(d: int, clock: int) -> dict[str, float]:
    """Best float32 rate over some shapes, GFLOP/s; `clock` 0 by the clock, 1 by CPU seconds."""
    import numpy as np
    import torch

    from hf_repgeo.measures.products import times_transposed

    best = {"numpy": 0.0, "oneDNN": 0.0}
    for m, n in SHAPES:
        a, b = (np.random.default_rng(0).standard_normal((rows, d)).astype(np.float32) for rows in (m, n))
        products = {"numpy": lambda: a @ b.T, "oneDNN": lambda: times_transposed(*map(torch.from_numpy, (a, b)))}  # noqa: B023
        with torch.no_grad():
            for name, product in products.items():
                best[name] = max(best[name], 2 * m * n * d / fastest(product, 8)[clock] / 1e9)
    return best


def measure(n: int, d: int, threads: int, calls: int) -> dict:
    """The figures of one line; run in a process of its own, whose peak memory then belongs to the search."""
    import torch
    from compare import power_law

    from hf_repgeo.measures.neighbors import nearest

    torch.set_num_threads(threads)
    clock = 1 if threads == 1 else 0
    rows = torch.from_numpy(power_law(n, d))
    rates = matmul_rates(d, clock)
    nearest(rows[:3000])
    before = peak_mib()
    seconds = fastest(lambda: nearest(rows), calls)
    peak = peak_mib() - before
    rates = {name: max(rate, again) for (name, rate), again in zip(rates.items(), matmul_rates(d, clock).values())}
    return {"seconds": seconds, "rates": rates, "peak": peak, "used": n * n * d / seconds[clock] / 1e9}


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def line(n: int, d: int, threads: int, calls: int) -> str:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = os.environ | dict.fromkeys(names, str(threads)) | {"OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, __file__, "--one", str(n), str(d), str(threads), str(calls)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    found = json.loads(result.stdout.splitlines()[-1])
    wall, cpu = found["seconds"]
    efficiency = found["used"] / max(found["rates"].values())
    lacking = [f"{TARGET:.0%}"] * (efficiency < TARGET) + [f"{TARGET_MIB} MiB"] * (found["peak"] > TARGET_MIB)
    rates = " / ".join(f"{rate:.0f}" for rate in found["rates"].values())
    verdict = f"not reached: {', '.join(lacking)}" if lacking else "reached"
    return (
        f"| {n} | {d} | {threads} | {wall:.2f} | {cpu:.2f} | {rates} | {efficiency:.0%} | {found['peak']:.0f} | "
        f"{os.getloadavg()[0]:.1f} | {verdict} |\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[16384, 65536])
    parser.add_argument("--columns", type=int, default=768)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, default=HERE / "results" / "neighbors.md")
    parser.add_argument("--one", type=int, nargs=4, metavar=("N", "D", "THREADS", "CALLS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one)))
        return
    from compare import processor

    text = (
        f"# Exact two nearest neighbours\n\n`python benchmarks/neighbors.py`, {datetime.date.today()}, {processor()}, "
        f"{os.cpu_count()} cores.\nEfficiency is n^2 d flops / time / the faster matmul of the line (power-law Gaussian, "
        f"float32 in, float64 distances out, exact).\nOne thread: least CPU seconds of the calls; more: least seconds by "
        f"the clock. Peak is memory beyond the rows.\nLoad counts this benchmark and whatever else ran. To reach: "
        f"{TARGET:.0%}, under {TARGET_MIB} MiB.\n\n{HEAD}"
    )
    options.out.parent.mkdir(exist_ok=True)
    for n in options.rows:
        for threads in options.threads:
            text += line(n, options.columns, threads, calls=4 if n <= 20000 else 2)
            print(text.splitlines()[-1], flush=True)
            options.out.write_text(text)


if __name__ == "__main__":
    main()
