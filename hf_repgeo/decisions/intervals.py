"""Means and their differences with intervals over clusters of rows that belong together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from ..downstream.resampling import LEVEL, Interval, cluster_weights

Choice = TypeVar("Choice")
DRAWS = 1000
LEAST_CLUSTERS = 5  # from which a bootstrap interval can be drawn


def mean_interval(values: np.ndarray, clusters: np.ndarray | None = None, seed: int = 0) -> Interval:
    """The mean and its 95 % percentile bootstrap interval, drawing whole clusters.

    Args:
        values: `(n,)`; NaN is left out.
        clusters: `(n,)` rows that belong together; default: every row is its own.
        seed: of the draws.

    Returns:
        Interval: without ends where there are fewer than five clusters, without a value where there is no row.
    """
    values = np.asarray(values, dtype=np.float64)
    clusters = np.arange(len(values)) if clusters is None else np.asarray(clusters)
    known = np.isfinite(values)
    values, clusters = values[known], clusters[known]
    if len(values) == 0:
        return Interval(None)
    names, of_row = np.unique(clusters, return_inverse=True)
    if len(names) < LEAST_CLUSTERS:
        return Interval(float(values.mean()), n=len(values))
    sums, counts = np.bincount(of_row, values), np.bincount(of_row)
    weights = cluster_weights(np.arange(len(names)), DRAWS, seed)
    low, high = np.quantile(weights @ sums / (weights @ counts), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(values.mean()), float(low), float(high), len(values))


def surely_above(found: Interval, level: float) -> bool:
    """Whether the whole interval lies above a level."""
    return found.low is not None and found.low > level


def surely_below(found: Interval, level: float) -> bool:
    """Whether the whole interval lies below a level."""
    return found.high is not None and found.high < level


def best_of_each_size(score: Mapping[Choice, float], size: Callable[[Choice], Any]) -> list[Choice]:
    """The choice with the best score of each size, the smallest size first."""
    best = {size(choice): choice for choice in sorted(score, key=lambda choice: score[choice])}
    return [best[one] for one in sorted(best)]


def halves(groups: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """`(n,)` masks of two halves that share no group: choices are made on one and scored on the other."""
    names, of_row = np.unique(groups, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    first = order[of_row] < (len(names) + 1) // 2
    return first, ~first
