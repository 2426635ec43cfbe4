"""Correlations of a score with many measures at once, their bootstrap intervals and permutation tests.

A bootstrap draw is a vector of weights on the rows: whole clusters are drawn with replacement, a row's weight is how
often its cluster was. Weighted moments then give all draws of all measures in a few matrix products.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A number and its 95 % percentile interval; `None` where the data are too few.

    Attributes:
        value, low, high: the number and the ends.
        n: number of rows that it is computed from.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0

    @property
    def descending(self) -> float:
        """Sort key: the largest value first, intervals without a value last."""
        return math.inf if self.value is None else -self.value

    def __str__(self) -> str:
        if self.value is None:
            return "-"
        value, low, high = (None if x is None else round(x, 2) + 0.0 for x in (self.value, self.low, self.high))
        return f"{value:.2f}" if low is None else f"{value:.2f} [{low:.2f}, {high:.2f}]"  # no minus before 0.00


def cluster_weights(clusters: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """`(draws, n)`: how often each row's cluster was drawn; every draw takes as many clusters as there are."""
    names, of_row = np.unique(clusters, return_inverse=True)
    counts = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    return counts[:, of_row].astype(np.float64)


def residuals(y: np.ndarray, design: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Residuals of a least-squares fit of y on the columns of `design`: `(n,)`, or `(draws, n)` with weights."""
    if weights is None:
        return y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    grams = np.einsum("bn,nk,nl->bkl", weights, design, design)
    moments = np.einsum("bn,nk,n->bk", weights, design, y)
    ridge = 1e-10 * np.trace(grams, axis1=1, axis2=2)[:, None, None] * np.eye(design.shape[1])
    return y - np.linalg.solve(grams + ridge, moments[..., None])[..., 0] @ design.T


def weighted_correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`(draws,)` Pearson correlations of `(n,)` or `(draws, n)` vectors under `(draws, n)` weights, or NaN."""
    total = weights.sum(1)
    mean_x, mean_y = (weights * x).sum(1) / total, (weights * y).sum(1) / total
    x, y = x - mean_x[:, None], y - mean_y[:, None]
    norms = np.sqrt((weights * x * x).sum(1) * (weights * y * y).sum(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(norms > 1e-12 * total, (weights * x * y).sum(1) / norms, np.nan)


def correlation(
    x: np.ndarray,
    y: np.ndarray,
    clusters: np.ndarray,
    *,
    design: np.ndarray | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Interval:
    """Pearson correlation with a percentile bootstrap interval over clusters.

    Args:
        x, y: `(n,)`; rows with NaN are left out.
        clusters: `(n,)` rows that belong together, drawn as one.
        design: `(n, k)` columns whose linear effect is removed from both first, separately in each draw.
        draws: of the bootstrap.
        seed: of the draws.
    """
    keep = np.isfinite(x) & np.isfinite(y)
    x, y, clusters = x[keep], y[keep], clusters[keep]
    if len(x) < 4 or len(np.unique(clusters)) < 3:
        return Interval(None, n=len(x))
    ones = np.ones((1, len(x)))
    weights = cluster_weights(clusters, draws, seed)
    if design is None:
        value, drawn = weighted_correlation(x, y, ones), weighted_correlation(x, y, weights)
    else:
        design = design[keep]
        if len(x) <= design.shape[1] + 2:
            return Interval(None, n=len(x))
        value = weighted_correlation(residuals(x, design), residuals(y, design), ones)
        drawn = weighted_correlation(residuals(x, design, weights), residuals(y, design, weights), weights)
    drawn = drawn[np.isfinite(drawn)]
    if not np.isfinite(value[0]) or len(drawn) < draws / 2:
        return Interval(None, n=len(x))
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(value[0]), float(low), float(high), len(x))


def centred_by(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Values minus their group's mean; NaN in groups of one, which have no variation within."""
    _, of_row, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    means = np.bincount(of_row, np.nan_to_num(values)) / np.maximum(np.bincount(of_row, np.isfinite(values)), 1)
    return np.where(sizes[of_row] > 1, values - means[of_row], np.nan)


def permuted_within(groups: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """`(draws, n)` permutations of the rows that keep every row in its group."""
    rng, order = np.random.default_rng(seed), np.argsort(groups, kind="stable")
    keys = rng.random((draws, len(groups)))
    shuffled = np.argsort(groups[None] + keys * 0.5, axis=1, kind="stable")  # groups are whole numbers
    places = np.empty((draws, len(groups)), dtype=np.int64)
    places[:, order] = shuffled
    return places


def permutation_p(
    measures: np.ndarray, y: np.ndarray, groups: np.ndarray, draws: int = 1999, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Two-sided p of each measure's correlation with y, alone and corrected for the number of measures.

    y is permuted within groups. The corrected p is the share of permutations whose largest |r| over all measures
    reaches the measure's own (Westfall and Young 1993): as the measures are correlated, it is sharper than Bonferroni.

    Args:
        measures: `(n, m)` without NaN.
        y: `(n,)`.
        groups: `(n,)` whole numbers.
        draws: permutations.
        seed: of them.

    Returns:
        p and corrected p, `(m,)` each.
    """
    x, z = _unit(measures), _unit(y[:, None])[:, 0]
    observed = np.abs(x.T @ z)
    null = np.abs(z[permuted_within(groups, draws, seed)] @ x)
    reached = null >= observed - 1e-12
    highest = null.max(1, keepdims=True) >= observed - 1e-12
    return (1 + reached.sum(0)) / (1 + draws), (1 + highest.sum(0)) / (1 + draws)


def _unit(columns: np.ndarray) -> np.ndarray:
    """Centred columns of length 1; zero for constant ones."""
    centred = columns - columns.mean(0)
    return centred / np.maximum(np.linalg.norm(centred, axis=0), 1e-300)
