"""Writes the reference curve of `intrinsic_dimension:ball`: TwoNN's value for n uniform rows in a k-ball.

    python benchmarks/ball_curve.py            # 20 s; writes hf_repgeo/data/ball_readings.csv
    python benchmarks/ball_curve.py --check    # against simulated balls, 1 min

By quadrature, without simulation, for real k. For a row at radius r the share F of the ball that is nearer than s has a
closed form: the two balls' common part is two caps, whose volumes are incomplete beta functions. The n - 1 other rows
fall independently, so given the nearest at quantile w of its law,

    P(r2 / r1 > t | r, w) = ((1 - F(t s_w)) / (1 - F(s_w)))^(n - 2),

averaged over w, uniform on (0, 1), and over r = v^(1 / k), v uniform on (0, 1). As in `two_nn_likelihood`, the smallest
nine tenths of the ratios give the value.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.special import betainc, betaln, hyp2f1

TARGET = Path(__file__).parent.parent / "hf_repgeo" / "data" / "ball_readings.csv"
DIMENSIONS = 2.0 ** (np.arange(57) / 4)  # 1 ... 16,384
ROWS = 2 ** np.arange(4, 21)  # 16 ... 1,048,576
USED_SHARE = 0.9
GRID = 6000
SMALLEST_LOG_SHARE = -700.0


def gauss(order: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of Gauss and Legendre on (0, 1)."""
    nodes, weights = np.polynomial.legendre.leggauss(order)
    return (nodes + 1) / 2, weights / 2


RADII, RANKS = gauss(32), gauss(48)


def log_cap(height: np.ndarray, k: float) -> np.ndarray:
    """log of the share of the unit k-ball beyond a plane at signed distance `height` from its centre."""
    a, x = (k + 1) / 2, np.clip(1 - height**2, 1e-300, 1)
    smaller = 0.5 * betainc(a, 0.5, x)
    with np.errstate(divide="ignore"):
        logs = np.where(height >= 0, np.log(smaller), np.log1p(-smaller))
    tiny = (smaller < 1e-280) & (height >= 0) & (x < 0.99)  # by the series of the incomplete beta function
    x = x[tiny]
    series = hyp2f1(a + 0.5, 1, a + 1, x)
    logs[tiny] = np.log(0.5 * series / a) + a * np.log(x) + 0.5 * np.log1p(-x) - betaln(a, 0.5)
    return logs


def log_share(log_s: np.ndarray, r: float, k: float) -> np.ndarray:
    """log of the share of the unit k-ball that is nearer than s to a point at radius r."""
    s = np.exp(log_s)
    own = np.clip((r * r + s * s - 1) / (2 * r * s), -1, 1)  # the plane where the two spheres meet, from either centre
    other = np.clip((r * r + 1 - s * s) / (2 * r), -1, 1)
    common = np.minimum(np.logaddexp(k * log_s + log_cap(own, k), log_cap(other, k)), 0)
    return np.maximum(np.where(s <= 1 - r, k * log_s, common), SMALLEST_LOG_SHARE)


def shares(k: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """`(log s, log F)` on a grid for each radius."""
    found = []
    for v in RADII[0]:
        r = v ** (1 / k)
        log_s = np.linspace(np.log(1e-14) / k, np.log1p(r), GRID)
        found.append((log_s, np.maximum.accumulate(log_share(log_s, r, k))))
    return found


def reading(table: list[tuple[np.ndarray, np.ndarray]], k: float, n: int) -> float:
    """TwoNN's likelihood of infinitely many ratios, each from n rows of the k-ball."""
    log_first = np.log(-np.expm1(np.log1p(-RANKS[0]) / (n - 1)))  # log F(s_w)
    x = np.concatenate([[0], np.geomspace(1e-5, 1, 600)]) * 12 / max(0.3, k / (1 + k / 200))
    survival = np.zeros(len(x))
    for (log_s, log_f), weight in zip(table, RADII[1], strict=True):
        s_w = np.interp(log_first, log_f, log_s)
        nearer = np.exp(np.interp(s_w[:, None] + x, log_s, log_f))
        with np.errstate(divide="ignore"):
            left = np.log1p(-np.minimum(nearer, 1)) - np.log1p(-np.exp(log_first))[:, None]
        survival += weight * (RANKS[1] @ np.exp((n - 2) * np.minimum(left, 0)))
    quantiles = np.interp(1 - (np.arange(900) + 0.5) / 1000, survival[::-1], x[::-1])
    last = np.interp(1 - USED_SHARE, survival[::-1], x[::-1])
    return USED_SHARE / (USED_SHARE * quantiles.mean() + (1 - USED_SHARE) * last)


def write() -> None:
    lines = ["k," + ",".join(map(str, ROWS))]
    for k in DIMENSIONS:
        table = shares(k)
        lines.append(",".join([f"{k:.8g}", *(f"{reading(table, k, n):.6g}" for n in ROWS)]))
    TARGET.write_text("\n".join(lines) + "\n")


def check() -> None:
    import torch

    from hf_repgeo.measures import PointCloud, intrinsic_dimension

    generator = torch.Generator().manual_seed(0)
    for k, n, draws in ((2, 500, 60), (5, 2500, 12), (10, 128, 200), (20, 2500, 12), (70, 2500, 8), (300, 512, 20)):
        found = []
        for _ in range(draws):
            radius = torch.rand(n, 1, generator=generator, dtype=torch.float64) ** (1 / k)
            rows = torch.randn(n, k, generator=generator, dtype=torch.float64)
            rows *= radius / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
            found.append(intrinsic_dimension(PointCloud(rows, jackknife=False), "mle").value)
        by_quadrature, error = reading(shares(k), k, n), np.std(found) / draws**0.5
        print(f"k {k}, n {n}: quadrature {by_quadrature:.3f}, simulated {np.mean(found):.3f} +- {error:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with simulated balls")
    check() if parser.parse_args().check else write()
