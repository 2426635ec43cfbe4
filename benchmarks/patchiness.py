"""What does patchiness read by chance, how far does it scatter, what does a fit cost? Writes results/patchiness.md.

    python benchmarks/patchiness.py

Gaussians have no clumps: what patchiness reads on them is chance. One fit each; one thread, CPU seconds.
"""

import argparse
import datetime
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import torch  # noqa: E402
from compare import processor  # noqa: E402
from standard_errors import CLOUDS  # noqa: E402

from hf_repgeo.measures import PointCloud, patchiness  # noqa: E402

HERE = Path(__file__).parent
CHANCE = (0.98, 1.02)
ROWS, COLUMNS = (2500, 4096, 10_000), (4, 8, 16, 32, 64, 256, 768)


def normal(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def along_axes(n: int, d: int) -> torch.Tensor:
    return normal(n, d) * torch.arange(1, d + 1).rsqrt()


def rotated(n: int, d: int, power: float = 1.0) -> torch.Tensor:
    frame = torch.linalg.qr(normal(d, d, seed=1)).Q
    return (normal(n, d) * torch.arange(1, d + 1) ** (-power / 2)) @ frame


KINDS: dict[str, Callable] = {
    "isotropic": normal,
    "eigenvalues 1 / i, along the columns": along_axes,
    "eigenvalues 1 / i, rotated": rotated,
    "eigenvalues 1 / i^2, rotated": lambda n, d: rotated(n, d, 2.0),
}


def read(rows: torch.Tensor) -> tuple[float, float]:
    """Patchiness, and the CPU seconds it took."""
    start = time.process_time()
    value = patchiness(PointCloud(rows, jackknife=False)).value
    return value, time.process_time() - start


def chance() -> str:
    text = "| Gaussian, columns | " + " | ".join(f"{n:,} rows" for n in ROWS) + " | s, 4,096 rows |\n"
    text += "| --- |" + " ---: |" * (len(ROWS) + 1) + "\n"
    for kind, make in KINDS.items():
        for d in COLUMNS:
            found = [read(make(n, d)) for n in ROWS]
            text += f"| {kind}, {d} | " + " | ".join(_shown(value) for value, _ in found) + f" | {found[1][1]:.2f} |\n"
    return text


def _shown(value: float) -> str:
    return f"{value:.3f}" if CHANCE[0] <= round(value, 3) <= CHANCE[1] else f"**{value:.3f}**"


def scatter(draws: int) -> str:
    text = "| cloud | mean | sd over samples | sd over orders of the rows |\n| --- | ---: | ---: | ---: |\n"
    for name, make in CLOUDS.items():
        samples = [make(4096, 64, torch.Generator().manual_seed(seed)) for seed in range(draws)]
        values = [read(rows)[0] for rows in samples]
        orders = [torch.randperm(4096, generator=torch.Generator().manual_seed(seed)) for seed in range(5)]
        again = [read(samples[0][order])[0] for order in orders]
        text += f"| {name}, 4,096 x 64 | {fmean(values):.3f} | {stdev(values):.4f} | {stdev(again):.4f} |\n"
    return text


def twenty_three() -> str:
    """The clouds of quantizers.py: known shapes, and states of MiniLM as it is and with noise in its weights."""
    from quantizers import clouds_to_rank

    text = "| cloud | patchiness | error | rows in other order |\n| --- | ---: | ---: | ---: |\n"
    for title, rows in clouds_to_rank(6000, 64):
        found = patchiness(PointCloud(rows))
        error = f"{found.standard_error:.3f}" if found.standard_error else "–"
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
        text += f"| {title} | {found.value:.3f} | {error} | {read(rows[order])[0]:.3f} |\n"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "patchiness.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.write_text(
        f"# Patchiness: chance, scatter, cost\n\n`python benchmarks/patchiness.py`, {datetime.date.today()}, "
        f"{processor()}, one thread.\nDefault cells: a product quantizer of 64 cells in each of 4 codebooks, fewer "
        f"codebooks below 32 columns.\n\n## Chance\n\nBold: outside {CHANCE[0]} to {CHANCE[1]}.\n\n{chance()}\n"
        f"## Scatter\n\nThe clouds of [standard errors](standard_errors.md), {options.draws} samples each.\n\n"
        f"{scatter(options.draws)}\n## Clouds\n\n6,000 rows; known shapes in 64 columns, states of MiniLM in 384.\n\n"
        f"{twenty_three()}"
    )
    print(options.out.read_text())


if __name__ == "__main__":
    main()
