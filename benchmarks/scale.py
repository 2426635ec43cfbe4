"""Cost as it grows: rows for moments and neighbours, columns for both, and a stream longer than memory.

python benchmarks/scale.py moments [--most 1000000]       four decades of rows, 768 columns
python benchmarks/scale.py neighbours [--most 200000]     the exact search
python benchmarks/scale.py width [--most 8192]            columns, --rows 16384 rows each
python benchmarks/scale.py stream [--most 10000000]       generated rows x 768 through `measure`'s stream; peak memory
"""

from __future__ import annotations

import argparse
import math
import resource
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from hf_repgeo.measures import Moments, evaluate_all, resolve
from hf_repgeo.measures.kernels.neighbors import nearest
from hf_repgeo.rows.streams import cloud_of_stream

WIDTH, BLOCK, NARROW_ROWS = 768, 4096, 16_384
STREAMED = ["anisotropy", "effective_rank", "mean_cosine", "intrinsic_dimension", "patchiness"]


def blocks(rows: int, width: int) -> Iterator[np.ndarray]:
    """Normal rows with a falling spectrum, made block by block."""
    generator = np.random.default_rng(0)
    scale = np.arange(1, width + 1, dtype=np.float32) ** -0.5
    for start in range(0, rows, BLOCK):
        yield generator.standard_normal((min(BLOCK, rows - start), width), dtype=np.float32) * scale


def seconds(work: Callable[[], object]) -> float:
    """Processor seconds of all threads, which other programs hardly change."""
    start = time.process_time()
    work()
    return time.process_time() - start


def of_moments(rows: int, width: int) -> float:
    """Seconds of the moments alone, without generating the rows."""
    block = torch.from_numpy(next(blocks(BLOCK, width)))
    whole, rest = divmod(rows, BLOCK)

    def work():
        moments = Moments.of(block[: rest or BLOCK])
        for _ in range(whole if rest else whole - 1):
            moments = moments + Moments.of(block)

    return seconds(work)


def of_neighbours(rows: int, width: int) -> float:
    cloud = torch.from_numpy(np.concatenate(list(blocks(rows, width))))
    return seconds(lambda: nearest(cloud))


def table(name: str, sizes: list[int], cost: Callable[[int], float]) -> None:
    """Seconds at each size, and the exponent between the two largest sizes and over all of them."""
    cost(sizes[0])  # what is loaded once
    times = [cost(size) for size in sizes]
    print(f"| {name} | CPU seconds |\n|---|---|")
    for size, taken in zip(sizes, times, strict=True):
        print(f"| {size:,} | {taken:.3g} |", flush=True)
    logs = np.log(sizes), np.log(times)
    half = len(sizes) // 2
    every, upper = (np.polyfit(*(x[start:] for x in logs), 1)[0] for start in (0, half))
    print(f"\nexponent {every:.2f}; over the upper half {upper:.2f}")


def stream(rows: int) -> None:
    """Sends generated rows through the stream of `measure FILE`; the peak memory is that of the whole process."""
    start = time.perf_counter()
    cloud = cloud_of_stream(blocks(rows, WIDTH), max_rows=NARROW_ROWS)
    read = time.perf_counter() - start
    for estimate in evaluate_all(cloud, resolve(STREAMED)):
        print(f"{estimate.measure} ({estimate.convention}): {estimate.value:.6g}, n = {estimate.n or cloud.n:,}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{rows:,} x {WIDTH}: {read:.0f} s for the stream, {time.perf_counter() - start:.0f} s in all, {peak:.2f} GiB"
    )


def powers(least: int, most: int, step: float) -> list[int]:
    """Sizes from the least to the most, each about `step` times the one before."""
    return [round(size) for size in np.geomspace(least, most, 1 + round(math.log(most / least, step)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["moments", "neighbours", "width", "stream"])
    parser.add_argument("--most", type=int)
    parser.add_argument("--rows", type=int, default=NARROW_ROWS, help="of each width")
    options = parser.parse_args()
    if options.what == "moments":
        table("rows", powers(100, options.most or 1_000_000, 10), lambda n: of_moments(n, WIDTH))
    elif options.what == "neighbours":
        table("rows", powers(1000, options.most or 200_000, 2), lambda n: of_neighbours(n, WIDTH))
    elif options.what == "width":
        sizes = powers(128, options.most or 8192, 2)
        for name, cost in (("columns, moments", of_moments), ("columns, neighbours", of_neighbours)):
            table(name, sizes, lambda d, cost=cost: cost(options.rows, d))
    else:
        stream(options.most or 10_000_000)


if __name__ == "__main__":
    main()
