"""Are normal rows significant as often as `p` says, also with fewer rows than columns? Writes results/chance.md.

python benchmarks/chance.py                       # 25 draws of four clouds, half a minute
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean

import torch

import hf_repgeo

TARGET = Path(__file__).parent / "results" / "chance.md"
CLOUDS = {
    "even, 512 x 512": (512, 512, 0.0),
    "even, 256 x 768": (256, 768, 0.0),
    "1 / i, 256 x 768": (256, 768, 0.5),
    "1 / i, 512 x 512": (512, 512, 0.5),
}
MEASURES = ("intrinsic_dimension:mle", "patchiness:lloyd")


def draw(n: int, d: int, decay: float, seed: int) -> torch.Tensor:
    """Normal rows with eigenvalues `i^(-2 decay)` in a random basis."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(n, d, generator=generator) * torch.arange(1, d + 1) ** -decay
    return X @ torch.linalg.qr(torch.randn(d, d, generator=generator)).Q if decay else X


def row(name: str, draws: int) -> list[str]:
    """One line per measure: mean value, mean chance level, and how often p was below 0.05 and 0.5."""
    found = [hf_repgeo.measure(draw(*CLOUDS[name], seed), list(MEASURES), null=True, bits=4) for seed in range(draws)]
    lines = []
    for measure in MEASURES:
        rows = [report.row(measure) for report in found]
        p = [one["details"]["p"] for one in rows]
        value, null = (fmean(numbers) for numbers in zip(*((one["value"], one["details"]["null"]) for one in rows)))
        shares = [sum(one < level for one in p) / draws for level in (0.05, 0.5)]
        lines.append(f"| {name} | {measure} | {value:.4g} | {null:.4g} | {shares[0]:.2f} | {shares[1]:.2f} |")
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=25)
    draws = parser.parse_args().draws
    head = (
        "# Chance\n\nMade by `python benchmarks/chance.py`. Normal rows against the Gaussian surrogate with a shrunk "
    )
    head += f"covariance, {draws} draws; 4 bits. By chance the last two columns are 0.05 and 0.5.\n\n"
    head += "| rows | measure | value | chance | p < 0.05 | p < 0.5 |\n| --- | --- | ---: | ---: | ---: | ---: |\n"
    TARGET.write_text(head + "\n".join(line for name in CLOUDS for line in row(name, draws)) + "\n")
    print(TARGET.read_text())
