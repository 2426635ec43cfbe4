"""Random clouds against plain float64: every measure equals its definition, or warns; writes results/random_clouds.md.

    python benchmarks/random_clouds.py                # 10,000 clouds, about 3 minutes on a free core
    python benchmarks/random_clouds.py --only 4711    # one cloud, with what differs
    python benchmarks/random_clouds.py --first 500000 # others, and no file is written

A cloud's number seeds its rows, columns, spectrum, scale, offset, dtype, copies, outliers and constant columns; half of
the clouds also have one extreme property (`EXTREMES`). The reference is computed from the stored values in float64;
patchiness and its reconstruction error have no closed form, so their reference is the same quantizer on these values. A
measure that gives another value without a warning is listed.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.distance import pdist, squareform
from scipy.special import logsumexp
from scipy.stats import differential_entropy

from hf_repgeo.measures import PointCloud, evaluate_all, patchiness
from hf_repgeo.measures.ball import ball_dimension
from hf_repgeo.measures.reconstruction import reconstruction_error

TARGET = Path(__file__).parent / "results" / "random_clouds.md"
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
TOLERANCE = 1e-5  # relative
CELLS = {"codebooks": 1, "bits": 3}
CELL_TOLERANCE = 0.2  # rounding may move rows at the border of two cells, and a cloud has as few as 20 rows
EPS = np.finfo(np.float64).eps


# --- clouds ---------------------------------------------------------------------------------------------------------


def draw(number: int) -> torch.Tensor:
    """The cloud of this number, finite in its dtype."""
    rng = np.random.default_rng(number)
    n, d = int(20 * 15 ** rng.uniform()), int(80 ** rng.uniform())
    X = rng.standard_normal((n, d)) * np.arange(1, d + 1) ** -rng.choice([0, 0.5, 1, 2])
    if rng.uniform() < 0.5:
        X = X @ np.linalg.qr(rng.standard_normal((d, d)))[0]
    if rng.uniform() < 0.3:
        X[rng.integers(n, size=rng.integers(1, 5))] *= 10 ** rng.uniform(0, 8)
    if rng.uniform() < 0.3:
        X[rng.integers(n, size=n // 4)] = X[rng.integers(n, size=n // 4)]
    if rng.uniform() < 0.3:
        X += rng.standard_normal(d) * 10 ** rng.uniform(-2, 6)
    if rng.uniform() < 0.2:
        X[:, rng.integers(d, size=max(1, d // 5))] = rng.standard_normal()
    if rng.uniform() < 0.5:
        X = EXTREMES[rng.integers(len(EXTREMES))](X, rng)
    dtype = DTYPES[rng.integers(4)]
    room = {torch.float16: 3, torch.float64: 280}.get(dtype, 30)
    X *= 10 ** rng.uniform(-room, room) if rng.uniform() < 0.5 else 1
    limit = torch.finfo(dtype).max / 2
    return torch.from_numpy(np.clip(X, -limit, limit)).to(dtype)


def _giant_row(X: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    X[rng.integers(len(X))] *= 10 ** rng.uniform(4, 20)
    return X


def _giant_column(X: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    X[:, rng.integers(X.shape[1])] *= 10 ** rng.uniform(2, 12)
    return X


def _two_scales(X: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    X[: len(X) // 2] *= 10 ** rng.uniform(1, 9)
    return X


def _two_places(X: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    X[: len(X) // 2] += 10 ** rng.uniform(1, 9)
    return X


def _blocks_of_copies(X: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return X[np.arange(len(X)) // rng.integers(2, 6)]


def _grid(X: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.round(X * 10 ** rng.uniform(0, 1))


def _all_equal(X: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    X[:] = X[0]
    X[: rng.integers(2)] *= 1 + 10 ** rng.uniform(-9, 1)
    return X


def _few_rows(X: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return X[: rng.integers(2, 12)]


def _near_the_maximum(X: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return X * (3e4 / np.abs(X).max().clip(1e-300))


EXTREMES = (
    _giant_row,
    _giant_column,
    _two_scales,
    _two_places,
    _blocks_of_copies,
    _grid,
    _all_equal,
    _few_rows,
    _near_the_maximum,
)


# --- the definitions, in float64 ------------------------------------------------------------------------------------


def definitions(X: np.ndarray) -> dict[tuple[str, str], float]:
    """`{(measure, convention): value}` of rows whose largest entry is about 1; undefined values are left out."""
    return _spectral(X) | _directions(X) | _neighbors(X) | _shares(X)


def _spectral(X: np.ndarray) -> dict[tuple[str, str], float]:
    n, d = X.shape
    values = np.linalg.svd(X - X.mean(0), compute_uv=False) ** 2 / n
    floor = max(values[0] * len(values) * EPS, ((8 * EPS * X[0]) ** 2).sum())
    values = np.where(values > floor, values, 0)
    if not values.sum() > 0:
        return {}
    p, sigma = values / values.sum(), np.sqrt(values) / np.sqrt(values).sum()
    k, pr = len(values), values.sum() ** 2 / (values**2).sum()
    found = {
        ("anisotropy", "razzhigaev"): p[0],
        ("stable_rank", "centred"): 1 / p[0],
        ("participation_ratio", "eigenvalues"): pr,
        ("effective_rank", "roy_vetterli"): math.exp(_entropy(sigma)),
        ("spectral_entropy", "von_neumann"): _entropy(p),
        ("early_enrichment", "marbut"): 2 / k * ((p.cumsum() - np.arange(1, k + 1) / k).sum() - (p[0] - 1 / k) / 2),
    }
    if d > 1:
        found["iso_score", "rudman"] = (pr - 1) / (d - 1)
        full = np.pad(values, (0, d - k))
        shrunk = 0.8 * full + 0.2 * full.mean()
        found["iso_score_star", "identity"] = (shrunk.sum() ** 2 / (shrunk**2).sum() - 1) / (d - 1)
    if (values > 0).sum() >= 50:
        found["power_law_exponent", "agrawal"] = -np.polyfit(np.log(np.arange(11, 51)), np.log(values[10:50]), 1)[0]
    return found


def _entropy(p: np.ndarray) -> float:
    return float(-(p[p > 0] * np.log(p[p > 0])).sum())


def _directions(X: np.ndarray) -> dict[tuple[str, str], float]:
    n, d = X.shape
    found = {}
    singular = np.linalg.svd(X, compute_uv=False)
    if singular[0] > 0:
        singular[singular < singular[0] * math.sqrt(d * EPS)] = 0
        p = singular / singular.sum() + 1e-7
        found["rank_me", "garrido"] = math.exp(_entropy(p))
    peaks = np.abs(X).max(1, keepdims=True)
    if peaks.min() > 0:
        unit = X / peaks
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        found["mean_cosine", "off_diagonal"] = ((unit.sum(0) ** 2).sum() - n) / (n * (n - 1))
        found["uniformity", "wang"] = logsumexp(-2 * pdist(unit) ** 2) - math.log(n * (n - 1) / 2)
    return found


def _neighbors(X: np.ndarray) -> dict[tuple[str, str], float]:
    distinct = np.unique(X, axis=0)
    if len(distinct) < 21:
        return {}
    distances = np.sort(squareform(pdist(distinct)), axis=1)[:, 1:]
    if not distances[:, 0].min() > 0:
        return {}
    mu = np.sort(np.log(distances[:, 1] / distances[:, 0]))
    n, used = len(mu), int(0.9 * len(mu))
    found = {}
    if mu[used - 1] > 0:
        y = -np.log1p(-np.arange(1, used + 1) / n)
        found["intrinsic_dimension", "facco"] = (y @ mu[:used]) / (mu[:used] @ mu[:used])
        mle = (used - 1) / (mu[:used].sum() + (n - used) * mu[used - 1])
        found["intrinsic_dimension", "mle"] = mle
        ball = ball_dimension(mle, n)
        if ball:
            found["intrinsic_dimension", "ball"] = ball[0]
        apart = mu > 16 * EPS  # smaller values are rounding of two equal distances
        if apart.all():  # otherwise rounding decides how many ratios count
            found["gride", "denti"] = (apart.sum() - 1) / mu[apart].sum()
    inverse = np.log(distances[:, 19]) - np.log(distances[:, :19]).mean(1)
    if inverse.min() > 0:
        found["levina_bickel", "mackay"] = 1 / inverse.mean()
        found["levina_bickel", "levina"] = (1 / inverse).mean()
    return found


def _shares(X: np.ndarray) -> dict[tuple[str, str], float]:
    n, d = X.shape
    variances = ((X - X.mean(0)) ** 2).mean(0)
    norms = np.linalg.norm(X / max(np.abs(X).max(), 1e-300), axis=1)
    median = np.sort(norms)[(n - 1) // 2]
    found = {("massive_share", "norm_over_5_medians"): (norms > 5 * median).mean()}
    found["duplicate_share", "bit_equal"] = 1 - len(np.unique(X, axis=0)) / n
    if variances.sum() > n * EPS**2 * (X**2).mean(0).sum():
        found["top_coordinate_share", "variance"] = variances.max() / variances.sum()
    values = np.linalg.eigh(np.cov(X.T, bias=True).reshape(d, d))
    if n >= 11 and n > d and values[0].min() > 1e-10 * values[0].max():
        coordinates = (X - X.mean(0)) @ values[1] * math.sqrt(d / values[0].sum())
        ratios = np.exp(differential_entropy(coordinates, method="ebrahimi", axis=0)) / math.sqrt(2 * math.pi * math.e)
        found["vasicek_mse", "marbut"] = float(((1 - ratios) ** 2).mean())
    return found


# --- the comparison -------------------------------------------------------------------------------------------------


def compare(number: int) -> list[tuple[str, str, float | None, float, tuple[str, ...]]]:
    """`(measure, convention, value, definition, warning codes)` wherever the two differ, for one cloud."""
    X = draw(number)
    plain = X.to(torch.float64)
    peak = float(plain.abs().max())
    plain = plain * (2.0 ** -math.frexp(peak)[1] if peak else 1.0)
    with np.errstate(all="ignore"):
        wanted = definitions(plain.numpy())
    cloud = PointCloud(X, jackknife=False)
    found = {(e.measure, e.convention): e for e in evaluate_all(cloud, list(wanted))}
    differing = []
    for case, value in wanted.items():
        estimate = found[case]
        if estimate.value is None or not math.isclose(estimate.value, value, rel_tol=TOLERANCE, abs_tol=1e-9):
            differing.append((*case, estimate.value, float(value), estimate.codes))
    return differing + _cells(cloud, PointCloud(plain, jackknife=False))


def _cells(cloud: PointCloud, plain: PointCloud) -> list[tuple[str, str, float | None, float, tuple[str, ...]]]:
    """The same for patchiness and reconstruction error, whose reference is the quantizer on float64 rows."""
    differing = []
    for measure in (patchiness, reconstruction_error):
        estimate, wanted = measure(cloud, **CELLS), measure(plain, **CELLS)
        values = (estimate.value, wanted.value)
        if None not in values and not math.isclose(*values, rel_tol=CELL_TOLERANCE, abs_tol=1e-9):
            differing.append((estimate.measure, estimate.convention, *values, estimate.codes))
        elif (values[0] is None) != (values[1] is None):
            differing.append((estimate.measure, estimate.convention, *values, ()))
    return differing


def main(clouds: int, first: int = 0) -> str:
    silent, warned, checked = [], Counter(), 0
    for number in range(first, first + clouds):
        for measure, convention, value, wanted, codes in compare(number):
            if codes:
                warned[f"{measure}:{convention}", codes[0], value is None] += 1
            else:
                silent.append((number, f"{measure}:{convention}", value, wanted))
        checked += 1
    lines = [
        "# Random clouds against plain float64",
        "",
        f"Made by `python benchmarks/random_clouds.py --clouds {clouds}`.",
        "",
    ]
    lines += [f"{checked:,} clouds; {len(silent)} values differ by over {TOLERANCE:g} without a warning.", ""]
    if silent:
        lines += ["| cloud | measure | value | definition |", "| ---: | --- | ---: | ---: |"]
        lines += [f"| {number} | {name} | {value} | {wanted} |" for number, name, value, wanted in silent[:40]]
    lines += ["", "With a warning:", "", "| measure | warning | no value | clouds |", "| --- | --- | --- | ---: |"]
    lines += [
        f"| {name} | {code} | {'yes' if lost else 'no'} | {k} |" for (name, code, lost), k in warned.most_common()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clouds", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first cloud")
    parser.add_argument("--only", type=int, help="number of one cloud to look at")
    options = parser.parse_args()
    if options.only is not None:
        cloud = draw(options.only)
        print(tuple(cloud.shape), cloud.dtype, *compare(options.only), sep="\n")
    elif options.first:
        print(main(options.clouds, options.first))
    else:
        TARGET.write_text(main(options.clouds))
        print(TARGET.read_text())
