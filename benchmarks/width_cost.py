"""What the spectral measures of one cloud cost by its width; one thread, CPU seconds.

    python benchmarks/width_cost.py --widths 768 2048 4096

4,096 rows of a power-law Gaussian in float32. The parts: the moments in float64 (up to 4,096 columns), the eigenvalues,
all four default spectral measures without and with standard errors, and anisotropy alone, which needs no decomposition.
The last column is the arithmetic of one transformer layer on as many tokens, 24 n d^2 flops, at this machine's rate.
"""

import argparse
import os
import time

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import torch  # noqa: E402

from hf_repgeo.measures import Moments, PointCloud, anisotropy, evaluate_all, resolve  # noqa: E402
from hf_repgeo.measures.eigen import eigenvalues  # noqa: E402

ROWS = 4096
SPECTRAL = resolve(["anisotropy", "effective_rank", "participation_ratio", "iso_score"])


def timed(function) -> float:
    start = time.process_time()
    with torch.no_grad():
        function()
    return time.process_time() - start


def cloud_of(d: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(ROWS, d, generator=generator) * torch.arange(1, d + 1) ** -0.5
    mirror = torch.randn(d, generator=generator)
    return rows - 2 * torch.outer(rows @ mirror, mirror) / mirror.square().sum()  # no axis is principal


def line(d: int) -> str:
    rows, few = cloud_of(d), ROWS <= d
    moments = [None if few else Moments.of(rows)]
    weight = torch.randn(d, d)
    seconds = [
        0.0 if few else timed(lambda: Moments.of(rows)),
        timed(lambda: eigenvalues(rows, None if few else moments[0].scatter, ROWS)),
        timed(lambda: evaluate_all(PointCloud(rows, jackknife=False), SPECTRAL)),
        timed(lambda: evaluate_all(PointCloud(rows, groups=torch.arange(ROWS) // 128), SPECTRAL)),
        timed(lambda: anisotropy(PointCloud(rows))),
        12 * timed(lambda: rows @ weight),
    ]
    return f"| {d} | " + " | ".join(f"{s:.2f}" for s in seconds) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[768, 2048, 4096, 8192])
    torch.set_num_threads(1)
    print("| d | moments | eigenvalues | spectral | with errors | anisotropy alone | a layer's products |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for d in parser.parse_args().widths:
        print(line(d), flush=True)


if __name__ == "__main__":
    main()
