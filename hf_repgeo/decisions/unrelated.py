"""Cosines of pairs of unrelated rows: rows of different groups, as histograms that can be drawn again by groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..downstream.resampling import LEVEL, Interval, cluster_weights
from .intervals import DRAWS, LEAST_CLUSTERS
from .retrieval import unit

BINS = 4000  # of the cosines from -1 to 1
BLOCKS = 24  # sets of groups that the bootstrap draws, at most
WIDTH = 2 / BINS


@dataclass(frozen=True)
class UnrelatedCosines:
    """How the cosines of unrelated pairs are distributed.

    Attributes:
        counts: `(p, BINS)` pairs in each bin, one line for each two blocks of groups.
        blocks: `(p, 2)` the two blocks.
    """

    counts: np.ndarray
    blocks: np.ndarray

    @classmethod
    def of(cls, rows: torch.Tensor, groups: np.ndarray) -> UnrelatedCosines:
        """All pairs of rows `(n, d)` that are of different `(n,)` groups.

        Cost: n^2 d flops in float32, and a histogram of the n^2 / 2 cosines.
        """
        names, place = np.unique(groups, return_inverse=True)
        block = place % min(BLOCKS, len(names))
        rows, group = unit(rows), torch.as_tensor(place)
        members = [torch.as_tensor(np.flatnonzero(block == b)) for b in range(block.max() + 1)]
        counts, pairs = [], []
        for i, mine in enumerate(members):
            for j in range(i, len(members)):
                cosines = rows[mine] @ rows[members[j]].T
                if i == j:  # groups of two blocks differ
                    apart = group[mine][:, None] != group[members[j]][None, :]
                    cosines = cosines[apart.triu(1)]
                found = torch.histc(cosines.clamp_(-1, 1), BINS, -1, 1)
                counts.append(found.double().numpy())
                pairs.append((i, j))
        return cls(np.array(counts), np.array(pairs))

    def __add__(self, other: UnrelatedCosines) -> UnrelatedCosines:
        """Pairs of two sets of rows, whose blocks are drawn separately."""
        shifted = other.blocks + self.blocks.max() + 1
        return UnrelatedCosines(np.vstack([self.counts, other.counts]), np.vstack([self.blocks, shifted]))

    @property
    def n_pairs(self) -> int:
        return int(self.counts.sum())

    def quantile(self, level: float, seed: int = 0) -> Interval:
        """The cosine that a share `level` of the pairs stays below, to 0.0005; interval over drawn groups."""
        return self._drawn(lambda counts: _quantiles(counts, level), seed)

    def mean(self, seed: int = 0) -> Interval:
        """The mean cosine, to 0.0005; interval over drawn groups."""
        return self._drawn(lambda counts: counts @ _CENTRES / counts.sum(1), seed)

    def _drawn(self, statistic, seed: int) -> Interval:
        value = float(statistic(self.counts.sum(0, keepdims=True))[0])
        n_blocks = int(self.blocks.max()) + 1
        if n_blocks < LEAST_CLUSTERS:
            return Interval(value, n=self.n_pairs)
        drawn = cluster_weights(np.arange(n_blocks), DRAWS, seed)
        first, second = self.blocks.T
        weights = np.where(first == second, drawn[:, first], drawn[:, first] * drawn[:, second])
        totals = weights @ self.counts
        values = statistic(totals[totals.sum(1) > 0])
        low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Interval(value, float(low), float(high), self.n_pairs)


_CENTRES = -1 + WIDTH * (np.arange(BINS) + 0.5)


def _quantiles(counts: np.ndarray, level: float) -> np.ndarray:
    """`(draws, BINS)` -> `(draws,)`: upper end of the first bin that reaches the level."""
    shares = counts.cumsum(1) / counts.sum(1, keepdims=True)
    return -1 + WIDTH * ((shares < level - 1e-12).sum(1) + 1)
