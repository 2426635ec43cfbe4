"""How widely rows spread: the participation ratio, and its change between two sets of rows, over drawn groups."""

from __future__ import annotations

import numpy as np
import torch

from ..downstream.resampling import LEVEL, Interval, cluster_weights
from .retrieval import unit

DRAWS = 200
ROUNDING = 1e-12  # variance that equal rows in float32 have, of unit rows


def spread(rows: torch.Tensor, groups: np.ndarray, seed: int = 0) -> tuple[float, np.ndarray]:
    """The participation ratio of the centred rows, and its values over drawn groups.

    PR = (sum of the covariance's eigenvalues)^2 / sum of their squares, from the n x n Gram matrix.

    Args:
        rows: `(n, d)`; scaled to unit length first, as cosines see them.
        groups: `(n,)` rows that are drawn together.
        seed: of the draws.

    Returns:
        The value and `(DRAWS,)` drawn values; the same draws for any rows of the same groups, so that they pair.

    Cost: n^2 (d + DRAWS).
    """
    rows = unit(rows.double())
    gram = rows @ rows.T
    weights = torch.from_numpy(cluster_weights(groups, DRAWS, seed))
    return _ratio(gram, torch.ones(len(rows), dtype=torch.float64)), np.array([_ratio(gram, one) for one in weights])


def _ratio(gram: torch.Tensor, weights: torch.Tensor) -> float:
    """(tr K)^2 / |K|^2 of the Gram matrix of weighted rows, their weighted mean subtracted."""
    share = weights / weights.sum()
    means = gram @ share
    centred = gram - means[:, None] - means[None, :] + share @ means
    total = weights @ centred.diagonal()
    squares = weights @ (centred * centred) @ weights
    return float(total**2 / squares) if total > ROUNDING * weights.sum() else 0.0


def ratio_of(after: tuple[float, np.ndarray], before: tuple[float, np.ndarray]) -> Interval:
    """The quotient of two spreads of the same texts, with an interval over their common draws.

    A draw holds some groups twice, which narrows both clouds: the draws are shifted so that their median is the value.
    """
    if before[0] <= 0:
        return Interval(None)
    drawn = after[1] / np.maximum(before[1], 1e-300)
    drawn = drawn * (after[0] / before[0] / np.median(drawn)) if np.median(drawn) > 0 else drawn
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(after[0] / before[0], float(low), float(high), len(drawn))
