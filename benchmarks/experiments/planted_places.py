"""Does the verdict recover what was planted? Tests it on properties written into noise in many ways.

    python benchmarks/experiments/planted_places.py --seeds 100
    python benchmarks/experiments/planted_places.py --noise neighbours --planted five --first 1000 --seeds 40
    python benchmarks/experiments/planted_places.py --noise uneven --planted sizes --first 1000 --seeds 20
    python benchmarks/experiments/planted_places.py --noise white --planted blocks --first 7000 --seeds 24

One cloud per seed holds all the properties at once, two values each, three standard deviations of the noise apart: in a
block of dimensions, in scattered ones, in a block turned by a random rotation, in all dimensions; 104 values in 103
directions; and labels that are independent of the rows. Noise:

- white
- uneven: a power-law spectrum in a random basis, and one dimension of fifty times the variance and a large mean
- neighbours: each dimension is correlated by 0.9 with the one before
- blocks: dimensions of a row share noise in blocks of 16, correlation 0.8
- sizes: standard deviations by dimension from a lognormal law, a factor of 4.5 each way
- giant: one dimension of a thousand standard deviations
- heavy rows, heavy entries: Student's t with 5 degrees of freedom, of whole rows or of each number
- mislabelled: white, and 2 % of the labels wrong
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence

import torch

from hf_repgeo.localization.verdict import where_is

APART, MANY = 3.0, 104
NULLS = {"p_present": "absent", "p_basis": "rotated subspace", "p_neighbours": "scattered few"}
FIVE = ("block", "scattered few", "rotated subspace", "distributed", "absent")
# name -> (verdict, place, dimensions)
PLANTED = {
    "block": ("block", "block", 20),
    "scattered few": ("scattered few", "scattered", 20),
    "rotated subspace": ("rotated subspace", "rotated", 20),
    "distributed": ("distributed", "values", 0),
    "absent": ("absent", "nowhere", 0),
    "1 dimension": ("scattered few", "scattered", 1),
    "5 scattered": ("scattered few", "scattered", 5),
    "50 scattered": ("scattered few", "scattered", 50),
    "200 scattered": ("many dimensions", "scattered", 200),
    "block of 50": ("block", "block", 50),
    "block of 200": ("many dimensions", "block", 200),
    "all dimensions": ("rotated subspace", "scattered", None),
}
SIZES = tuple(name for name in PLANTED if name not in FIVE)
BLOCKS = tuple(f"block of {size}" for size in (2, 3, 5, 8, 12))
PLANTED |= {name: ("block", "block", int(name.split()[-1])) for name in BLOCKS}
SETS = {"five": FIVE, "sizes": SIZES, "blocks": BLOCKS}
NOISE = (
    "white", "uneven", "neighbours", "blocks", "sizes", "giant", "heavy rows", "heavy entries", "mislabelled",
)  # fmt: skip
WRONG = 0.02


def background(n: int, d: int, noise: str, generator: torch.Generator) -> torch.Tensor:
    """`(n, d)` rows of variance about 1 in each dimension."""
    rows = torch.randn(n, d, generator=generator)
    if noise == "uneven":
        turn = torch.linalg.qr(torch.randn(d, d, generator=generator)).Q
        rows = (rows * torch.arange(1, d + 1) ** -0.5) @ turn
        rows = rows / rows.std(0)
        rows[:, 5] = 7 * rows[:, 5] + 100
    elif noise == "neighbours":
        for i in range(1, d):
            rows[:, i] = 0.9 * rows[:, i - 1] + 0.19**0.5 * rows[:, i]
    elif noise == "blocks":
        shared = torch.randn(n, -(-d // 16), generator=generator).repeat_interleave(16, dim=1)[:, :d]
        rows = 0.2**0.5 * rows + 0.8**0.5 * shared
    elif noise.startswith("heavy"):
        shape = (5, n, 1) if noise == "heavy rows" else (5, n, d)
        rows = rows * (3 / torch.randn(shape, generator=generator).square().sum(0)).sqrt()
    return rows


def scales(d: int, noise: str, generator: torch.Generator) -> torch.Tensor:
    """`(d,)`, the factor of each dimension, for noise and planted properties alike."""
    if noise == "sizes":
        return (1.5 * torch.randn(d, generator=generator)).exp()
    units = torch.ones(d)
    if noise == "giant":
        units[int(torch.randint(d, (1,), generator=generator))] = 1000.0
    return units


def effect(name: str, d: int, generator: torch.Generator) -> torch.Tensor:
    """`(values, d)` that a property adds to the rows of each of its values."""
    _, place, size = PLANTED[name]
    if place == "values":
        return torch.randn(MANY, d, generator=generator) * 10 / d**0.5
    if place == "nowhere":
        return torch.zeros(2, d)
    size = size or d
    code = torch.randn(size, generator=generator)
    code = APART * code / code.norm()
    if place == "rotated":
        direction = code @ torch.linalg.qr(torch.randn(d, size, generator=generator)).Q.T
    else:
        start = int(torch.randint(d - size + 1, (1,), generator=generator))
        at = torch.randperm(d, generator=generator)[:size] if place == "scattered" else start + torch.arange(size)
        direction = torch.zeros(d).index_add_(0, at, code)
    return torch.stack([-direction / 2, direction / 2])


def planted(n: int, d: int, noise: str, seed: int, names: Sequence[str]) -> tuple[torch.Tensor, dict[str, list[int]]]:
    """A cloud, and the labels of its properties."""
    generator = torch.Generator().manual_seed(seed)
    rows = background(n, d, noise, generator)
    labels = {}
    for name in names:
        added = effect(name, d, generator)
        values = torch.randperm(n, generator=generator) % len(added)
        rows = rows + added[values]
        if noise == "mislabelled":
            wrong = torch.rand(n, generator=generator) < WRONG
            other = torch.randint(1, len(added), (n,), generator=generator)
            values = torch.where(wrong, (values + other) % len(added), values)
        labels[name] = values.tolist()
    return rows * scales(d, noise, generator), labels


def main() -> None:
    """Prints one line per seed, then the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--rows", type=int, default=800)
    parser.add_argument("--dimensions", type=int, default=768)
    parser.add_argument("--noise", choices=NOISE, default="white")
    parser.add_argument("--planted", nargs="+", choices=(*PLANTED, *SETS), default=["five"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = [name for chosen in options.planted for name in SETS.get(chosen, (chosen,))]
    counts: dict[str, Counter] = {name: Counter() for name in names}
    passed: Counter = Counter()
    for seed in range(options.first, options.first + options.seeds):
        rows, labels = planted(options.rows, options.dimensions, options.noise, seed, names)
        began = time.process_time()
        found = where_is(rows, labels, columns=24, seed=seed)
        spent = time.process_time() - began
        wrong = {name: one for name, one in found.items() if one.verdict != PLANTED[name][0]}
        print(seed, f"{spent:.1f} s", {name: _told(one) for name, one in wrong.items()} or "all right", flush=True)
        for name, one in found.items():
            counts[name][one.verdict] += 1
        for test, name in ((test, name) for test, name in NULLS.items() if name in found):
            p = getattr(found[name], test)
            passed[f"{test} of {name}"] += p is not None and p <= 0.05
    print(f"| {options.noise} | right | verdicts |\n|---|---|---|")
    for name, counter in counts.items():
        said = ", ".join(f"{verdict} {count}" for verdict, count in counter.most_common())
        print(f"| {name} | {counter[PLANTED[name][0]] / options.seeds:.0%} | {said} |")
    print({test: f"{count / options.seeds:.1%}" for test, count in passed.items()})


def _told(one) -> str:
    """A wrong verdict, with the numbers that it is based on."""
    size = f", {one.dimensions.value:.0f} dimensions" if one.dimensions else ""
    many = f", {one.few_dimensions.high:.0f} if few" if one.few_dimensions else ""
    tests = {test: getattr(one, test) for test in ("p_present", "p_basis", "p_neighbours", "p_many")}
    return f"{one.verdict}{size}{many}" + "".join(f", {test} {p:.3f}" for test, p in tests.items() if p is not None)


if __name__ == "__main__":
    main()
