"""Compares TwoNN and anisotropy with peers on the same data in one run; writes benchmarks/results/peers-ROWS.md.

benchmarks/setup                                     # once
python benchmarks/compare.py                         # one thread, CPU seconds, medians of 3 calls
python benchmarks/compare.py --rows 4096 --columns 384
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from methods import ANISOTROPY, TWO_NN, float64_twin

HERE = Path(__file__).parent
OWN_ENVIRONMENT = {"dadapy": "dadapy", "fastwonn": "fastwonn"}
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")}


def manifold(n: int, d: int) -> np.ndarray:
    """A linear manifold of dimension 10 in R^d."""
    rng = np.random.default_rng(0)
    return (rng.standard_normal((n, 10)) @ rng.standard_normal((10, d))).astype(np.float32)


def power_law(n: int, d: int) -> np.ndarray:
    """A Gaussian whose variance along direction i is 1 / i, randomly rotated."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((d, d)))[0].astype(np.float32)
    return (rng.standard_normal((n, d)).astype(np.float32) * np.arange(1, d + 1, dtype=np.float32) ** -0.5) @ turn


def run(name: str, path: Path, calls: int) -> dict | None:
    """A method's figures, or `None` if it cannot be installed or run."""
    home = OWN_ENVIRONMENT.get(name)
    python = HERE / ".work" / home / "bin" / "python" if home else Path(sys.executable)
    if not python.exists():
        return None
    environment = os.environ | ONE_THREAD
    if home == "fastwonn":
        environment["PYTHONPATH"] = str(HERE / ".work" / "fastwonn" / "stub")
    command = [str(python), str(HERE / "worker.py"), name, str(path), str(calls)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    if result.returncode:
        print(f"  {name}: {result.stderr.strip().splitlines()[-1] if result.stderr.strip() else 'failed'}", flush=True)
        return None
    return json.loads(result.stdout.splitlines()[-1])


def table(title: str, names: list[str], data: np.ndarray, calls: int, exact: float | None) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "X.npy"
        np.save(path, data)
        found = {}
        for name in names:
            found[name] = run(name, path, calls)
            print(f"  {name}: {found[name]}", flush=True)
    base = found[names[0]]
    lines = [
        f"### {title}",
        "",
        "| method | CPU s | ratio | peak MiB | value | error |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in found.items():
        if row is None:
            lines.append(f"| {name} | did not install or run | | | | |")
            continue
        error = "" if exact is None else f"{row['value'] - exact:+.1e}"
        figures = (
            f"{row['cpu']:.3f} | {row['cpu'] / base['cpu']:.2f} | {row['peak']:.0f} | {row['value']:.6g} | {error}"
        )
        lines.append(f"| {name} | {figures} |")
    return "\n".join(lines) + "\n"


def matmul_rate() -> str:
    """Best float32 rate of this machine on one thread, numpy's and oneDNN's."""
    import torch

    from hf_repgeo.measures.kernels.products import times_transposed

    torch.set_num_threads(1)
    a, b = (np.random.default_rng(0).standard_normal((2048, 768)).astype(np.float32) for _ in range(2))
    rates = {}
    for name, product in {
        "numpy": lambda: a @ b.T,
        "oneDNN": lambda: times_transposed(*map(torch.from_numpy, (a, b))),
    }.items():
        seconds = []
        for _ in range(10):
            start = time.process_time()
            product()
            seconds.append(time.process_time() - start)
        rates[name] = 2 * 2048 * 2048 * 768 / min(seconds) / 1e9
    return ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in rates.items())


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[4096, 16384])
    parser.add_argument("--columns", type=int, nargs="+", default=[384, 768, 2048])
    parser.add_argument("--calls", type=int, default=3)
    parser.add_argument("--states", nargs="*", default=[], metavar="FILE.npy", help="rows of real models to add")
    parser.add_argument("--out", type=Path, help="default: results/peers-ROWS.md")
    options = parser.parse_args()
    os.environ.update(ONE_THREAD)
    rows = "-".join(map(str, options.rows))
    options.out = options.out or HERE / "results" / f"peers-{rows}.md"
    parts = [
        f"# Peers\n\n`python benchmarks/compare.py --rows {rows}`, {datetime.date.today()}, {processor()}, one thread; "
        f"float32 products: {matmul_rate()}.\nCPU seconds are medians of {options.calls} calls; "
        "ratio is to the first line; peak is memory beyond the input.\n"
    ]
    sets = [(f"{n} x {d}", manifold(n, d), power_law(n, d)) for n in options.rows for d in options.columns]
    sets += [(Path(path).stem, np.load(path), np.load(path)) for path in options.states]
    options.out.parent.mkdir(exist_ok=True)
    for title, for_dimension, for_anisotropy in sets:
        print(title, flush=True)
        parts.append(table(f"TwoNN, {title}", TWO_NN, for_dimension, options.calls, None))
        parts.append(
            table(f"Anisotropy, {title}", ANISOTROPY, for_anisotropy, options.calls, float64_twin(for_anisotropy))
        )
        options.out.write_text("\n".join(parts))


if __name__ == "__main__":
    main()
