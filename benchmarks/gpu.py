"""The measures on a CUDA device: neighbours, quantizers, a whole cloud; writes results/gpu.md.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --out elsewhere.md

Seconds are wall-clock time between two synchronisations: the least of the calls that follow a warm-up call of the same
shape. The first column of seconds is that warm-up, which loads and compiles. Shares are of the float32 and TF32 rates
of a product of 8192 x 8192 matrices in the same run; a search counts n^2 d flops, half of the full product.
"""

import argparse
import datetime
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from compare import power_law
from neighbors import write

from hf_repgeo.measures import PointCloud, evaluate_all, intrinsic_dimension, patchiness, resolve
from hf_repgeo.measures.kernels.neighbors import nearest
from hf_repgeo.measures.kernels.quantizers import quantize

HERE = Path(__file__).parent
WIDTH = 768
PAPER = 116_667  # rows of the paper's models with BERT's vocabulary
HEAD = """| what | n | d | first call, s | seconds | share of float32 / TF32 | peak, MiB | says | to reach |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | --- |
"""


@dataclass
class Timed:
    """Seconds of the warm-up, least seconds of the other calls, additional peak memory in MiB, and the last result."""

    first: float
    least: float
    peak: float
    answer: object


def timed(function: Callable, calls: int) -> Timed:
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(calls + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        answer = function()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return Timed(seconds[0], min(seconds[1:]), (torch.cuda.max_memory_allocated() - held) / 2**20, answer)


def matmul_rate(tf32: bool) -> float:
    """Rate of a float32 product in TFLOP/s."""
    a, b = torch.randn(2, 8192, 8192, device="cuda")
    before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, tf32
    try:
        return 2 * 8192**3 / timed(lambda: a @ b, 20).least / 1e12
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def wrong_rows(rows: torch.Tensor, found, sample: int = 200) -> int:
    """In how many sampled rows the two distances differ from those of direct differences in float64."""
    some = torch.arange(0, len(rows), max(1, len(rows) // sample), device=rows.device)
    wrong = 0
    for i in some.tolist():
        distances = torch.linalg.vector_norm(rows.double() - rows[i].double(), dim=1)
        distances[i] = torch.inf
        true = distances.topk(2, largest=False).values
        wrong += not torch.allclose(true, found.distances[i], rtol=1e-12, atol=0)
    return wrong


def rows_of(n: int) -> torch.Tensor:
    return torch.from_numpy(power_law(n, WIDTH)).cuda()


def verdict(seconds: float, limit: float | None) -> str:
    return "" if limit is None else f"{limit:g} s: {'reached' if seconds < limit else 'not reached'}"


def line(what: str, n: int, took: Timed, says: str = "", limit: float | None = None, share: str = "") -> str:
    cells = f"{took.first:.3g} | {took.least:.4f} | {share} | {took.peak:.0f} | {says} | {verdict(took.least, limit)}"
    text = f"| {what} | {n} | {WIDTH} | {cells} |\n"
    print(text, end="", flush=True)
    return text


def neighbor_lines(n: int, calls: int, limit: float, rates: tuple[float, float]) -> str:
    rows = rows_of(n)
    took = timed(lambda: nearest(rows), calls)
    used = n * n * WIDTH / took.least / 1e12
    share = " / ".join(f"{used / rate:.0%}" for rate in rates)
    says = f"{wrong_rows(rows, took.answer)} of 200 rows wrong"
    whole = timed(lambda: intrinsic_dimension(PointCloud(rows, jackknife=False)), calls)
    return line("two nearest neighbours", n, took, says, limit, share) + line(
        "TwoNN with all checks", n, whole, f"dimension {whole.answer.value:.4g}", limit
    )


def quantizer_lines(n: int) -> str:
    rows = rows_of(n)
    text = ""
    for name, calls, limit in (("product", 3, None), ("residual", 3, None), ("additive", 2, 60.0)):
        took = timed(lambda: quantize(rows, name), calls)  # noqa: B023
        says = f"relative error {took.answer.relative_error:.4f}"
        text += line(f"{name} quantizer", n, took, says, limit)
    took = timed(lambda: patchiness(PointCloud(rows), quantizer="additive"), 1)
    spread = took.answer.details["seed_standard_deviation"]
    return text + line("patchiness, additive, 3 seeds", n, took, f"{took.answer.value:.4f} ± {spread:.4f}")


def cloud_lines(n: int) -> str:
    rows, text = rows_of(n), ""
    for name, pairs in (("default measures", resolve(None)), ("all measures", resolve("all"))):
        took = timed(lambda: evaluate_all(PointCloud(rows), pairs), 3)  # noqa: B023
        text += line(name, n, took, f"{len(took.answer)} numbers")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gpu.md")
    options = parser.parse_args()
    rates = matmul_rate(False), matmul_rate(True)
    text = (
        f"# On a GPU\n\n`python benchmarks/gpu.py`, {datetime.date.today()}, {torch.cuda.get_device_name()}, "
        f"PyTorch {torch.__version__}.\nProducts of 8192 x 8192: float32 {rates[0]:.1f} TFLOP/s, TF32 {rates[1]:.0f} "
        f"TFLOP/s. Rows: power-law Gaussian.\nSeconds are the least of the calls after the first; a share counts "
        f"n^2 d flops; peak is memory beyond the rows.\n\n{HEAD}"
    )
    print(text, flush=True)
    text += neighbor_lines(10_000, 10, 3e-3, rates) + neighbor_lines(100_000, 3, 1.0, rates)
    text += quantizer_lines(PAPER) + cloud_lines(4096)
    write(options.out, text)


if __name__ == "__main__":
    main()
