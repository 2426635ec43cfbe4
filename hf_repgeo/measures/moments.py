"""Moments: count, mean and scatter of rows in float64, mergeable, so that any split of the rows gives the same answer.

Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import torch

from .kernels.products import BLOCK_ROWS, gram


@dataclass(frozen=True)
class Moments:
    """What is kept of a stream of rows: enough for every spectral measure.

    `Moments.of(a) + Moments.of(b)` equals `Moments.of(torch.cat([a, b]))` up to float64 rounding, whatever offset the
    rows share: each block is centred by its own mean before it is multiplied.

    Attributes:
        count: number of rows.
        mean: `(d,)` float64.
        scatter: `(d, d)` float64, the sum of `(x - mean)(x - mean)^T`; divide by `count` for the covariance.
        unit_sum: `(d,)` float64, the sum of `x / |x|`, for the mean cosine; rows of zeros add nothing.
        zeros: number of rows that are all zeros.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import Moments
        >>> rows = torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, 3.0]])
        >>> moments = Moments.of(rows[:1]) + Moments.of(rows[1:])
        >>> moments.count, moments.mean.tolist(), moments.scatter.tolist()
        (3, [2.0, 1.0], [[2.0, 0.0], [0.0, 6.0]])
    """

    count: int
    mean: torch.Tensor
    scatter: torch.Tensor
    unit_sum: torch.Tensor
    zeros: int

    @classmethod
    def of(cls, rows: torch.Tensor) -> Moments:
        """Moments of `rows` (n, d), n >= 1, finite, of any floating dtype, in float64; O(n d^2) time, O(d^2) memory."""
        return reduce(add, map(cls._of_block, rows.split(BLOCK_ROWS)))

    @classmethod
    def _of_block(cls, block: torch.Tensor) -> Moments:
        wide = block.to(torch.float64)
        mean, (unit_sum, zeros) = wide.mean(0), _unit_sum(wide)
        centred = wide - mean if wide is block else wide.sub_(mean)  # a copy may be changed
        return cls(len(block), mean, gram(centred), unit_sum, zeros)

    def scaled(self, factor: float) -> Moments:
        """Moments of the rows times `factor`, which is positive."""
        return replace(self, mean=self.mean * factor, scatter=self.scatter * factor**2)

    def on(self, device: torch.device) -> Moments:
        """The same moments on a device."""
        places = {name: getattr(self, name).to(device) for name in ("mean", "scatter", "unit_sum")}
        return replace(self, **places)

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        step = other.mean - self.mean
        scatter = self.scatter + other.scatter + torch.outer(step, step) * (self.count * other.count / count)
        mean = self.mean + step * (other.count / count)
        return Moments(count, mean, scatter, self.unit_sum + other.unit_sum, self.zeros + other.zeros)

    def __sub__(self, other: Moments) -> Moments:
        """Moments of the rows that remain when those of `other` are taken away; loses digits when little remains."""
        count = self.count - other.count
        mean = (self.mean * self.count - other.mean * other.count) / count
        step = other.mean - mean
        scatter = self.scatter - other.scatter - torch.outer(step, step) * (count * other.count / self.count)
        return Moments(count, mean, scatter, self.unit_sum - other.unit_sum, self.zeros - other.zeros)


def _unit_sum(block: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Sum of the float64 rows over their norms, and the number of rows that are all zeros."""
    norms = torch.linalg.vector_norm(block, dim=1)
    zero = norms == 0
    return torch.where(zero, 0.0, 1 / norms) @ block, int(zero.sum())
