"""Does the verdict know what was planted? Properties written into noise in five ways, many times over.

    python benchmarks/experiments/planted_places.py --seeds 100

One cloud a seed holds all five properties at once: two values in a block of 20 dimensions, in 20 scattered ones, in a
block turned by a random rotation; 104 values in as many directions less one; and labels that say nothing. Classes lie
three standard deviations of the noise apart. `--noise uneven`: the noise has a power-law spectrum in a random
basis, and one dimension of fifty times the variance and a large mean.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence

import torch

from hf_repgeo.localization.verdict import where_is

SIZE, APART, MANY = 20, 3.0, 104
NULLS = {"p_present": "absent", "p_basis": "rotated subspace", "p_neighbours": "scattered few"}
TRUTH = {name: name for name in ("block", "scattered few", "rotated subspace", "distributed", "absent")}


def background(n: int, d: int, noise: str, generator: torch.Generator) -> torch.Tensor:
    """`(n, d)` rows of variance about 1 in each dimension."""
    rows = torch.randn(n, d, generator=generator)
    if noise == "uneven":
        turn = torch.linalg.qr(torch.randn(d, d, generator=generator)).Q
        rows = (rows * torch.arange(1, d + 1) ** -0.5) @ turn
        rows = rows / rows.std(0)
        rows[:, 5] = 7 * rows[:, 5] + 100
    return rows


def planted(n: int, d: int, noise: str, seed: int, names: Sequence[str]) -> tuple[torch.Tensor, dict[str, list[int]]]:
    """A cloud, and the labels of its properties."""
    generator = torch.Generator().manual_seed(seed)
    rows = background(n, d, noise, generator)
    start = int(torch.randint(d - SIZE, (1,), generator=generator))
    turn = torch.linalg.qr(torch.randn(d, SIZE, generator=generator)).Q.T
    places = {
        "block": torch.eye(d)[start : start + SIZE],
        "scattered few": torch.eye(d)[torch.randperm(d, generator=generator)[:SIZE]],
        "rotated subspace": turn,
    }
    labels = {}
    for name in names:
        count = MANY if name == "distributed" else 2
        values = (torch.randperm(n, generator=generator) % count).long()
        labels[name] = values.tolist()
        if name in places:
            code = torch.randn(SIZE, generator=generator)
            direction = APART * code / code.norm() @ places[name]
            rows = rows + (values[:, None] - 0.5) * direction
        elif name == "distributed":
            code = torch.randn(count, d, generator=generator) * 10 / d**0.5
            rows = rows + code[values]
    return rows, labels


def main() -> None:
    """Prints one line per seed, then the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--rows", type=int, default=800)
    parser.add_argument("--dimensions", type=int, default=768)
    parser.add_argument("--noise", choices=("white", "uneven"), default="white")
    parser.add_argument("--planted", nargs="+", choices=tuple(TRUTH), default=tuple(TRUTH))
    options = parser.parse_args()
    torch.set_num_threads(1)
    counts: dict[str, Counter] = {name: Counter() for name in options.planted}
    passed: Counter = Counter()
    for seed in range(options.first, options.first + options.seeds):
        rows, labels = planted(options.rows, options.dimensions, options.noise, seed, options.planted)
        began = time.process_time()
        found = where_is(rows, labels, columns=24, seed=seed)
        print(
            seed, {name: one.verdict for name, one in found.items()}, f"{time.process_time() - began:.1f} s", flush=True
        )
        for name, one in found.items():
            counts[name][one.verdict] += 1
        for test, name in ((test, name) for test, name in NULLS.items() if name in found):
            p = getattr(found[name], test)
            passed[f"{test} of {name}"] += p is not None and p <= 0.05
    print("| planted | right | verdicts |\n|---|---|---|")
    for name, counter in counts.items():
        said = ", ".join(f"{verdict} {count}" for verdict, count in counter.most_common())
        print(f"| {name} | {counter[TRUTH[name]] / options.seeds:.0%} | {said} |")
    print({test: f"{count / options.seeds:.1%}" for test, count in passed.items()})


if __name__ == "__main__":
    main()
