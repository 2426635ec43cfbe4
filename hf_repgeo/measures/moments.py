"""Moments: count, mean and scatter of rows in float64, mergeable, so that any split of the rows gives the same answer.

Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import torch

from .kernels.products import BLOCK_ROWS, CACHED_ROWS, digit_gram, digits_work, gram

DIGIT_ROWS = 2**14  # at once in fixed point
DIGIT_MINIMUM = (1024, 128)  # rows and columns; below, float64 is as fast
SAMPLE = 17  # every so many rows give the centre; a prime keeps out of step with what repeats
LONG = 8  # times the median distance from the centre: such rows would cost the others their last digits
SAFE_PEAK = (2.0**-40, 2.0**40)  # of what centring leaves, so that its squares are float32 numbers


@dataclass(frozen=True)
class Moments:
    """What a stream of rows leaves behind: enough for every spectral measure.

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
    def of(cls, rows: torch.Tensor, *, leading: bool = False) -> Moments:
        """Moments of `rows` (n, d), n >= 1, finite, of any floating dtype. O(n d^2) time, O(d^2) memory beside a block.

        In float64; but many rows of at most 32 bits, on a processor with fast 8-bit products, are multiplied in fixed
        point (`digit_gram`): the moments are then those of rows that differ from the given ones by a float32 rounding.

        Args:
            rows: the rows.
            leading: whether the scatter's largest eigenvalue and trace are all that is wanted: they come sooner, right
                to 1e-8, and its small eigenvalues are wrong.
        """
        if _suits_digits(rows):
            return reduce(add, (cls._of_digits(part, leading) for part in rows.split(DIGIT_ROWS)))
        return cls._of_float64(rows)

    @classmethod
    def _of_float64(cls, rows: torch.Tensor) -> Moments:
        return reduce(add, map(cls._of_block, rows.split(BLOCK_ROWS)))

    @classmethod
    def _of_block(cls, block: torch.Tensor) -> Moments:
        block = block.to(torch.float64)
        mean, (unit_sum, zeros) = block.mean(0), _unit_sum(block)
        return cls(len(block), mean, gram(block - mean), unit_sum, zeros)

    @classmethod
    def _of_digits(cls, rows: torch.Tensor, leading: bool) -> Moments:
        survey = _Survey.of(rows, directions=not leading)
        if not SAFE_PEAK[0] < float(survey.peaks.max()) < SAFE_PEAK[1]:
            return cls._of_float64(rows)
        long = survey.distances > LONG * survey.distances.median()
        if bool(long.any()):
            return cls._of_digits(rows[~long], leading) + cls._of_float64(rows[long])
        total, scatter = digit_gram(rows, survey.centre, survey.peaks, leading=leading)
        step = total / len(rows)  # from the centre to the mean
        scatter -= torch.outer(step, total)
        return cls(len(rows), survey.centre + step, scatter, survey.unit_sum, survey.zeros)

    def scaled(self, factor: float) -> Moments:
        """Moments of the rows times `factor`, which is positive."""
        return replace(self, mean=self.mean * factor, scatter=self.scatter * factor**2)

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


def _suits_digits(rows: torch.Tensor) -> bool:
    if rows.dtype == torch.float64 or rows.device.type != "cpu":
        return False
    return rows.shape[0] >= DIGIT_MINIMUM[0] and rows.shape[1] >= DIGIT_MINIMUM[1] and digits_work()


def _round_mean(rows: torch.Tensor) -> torch.Tensor:
    """Near the mean and of few digits, so that subtracting it rounds nothing; in a constant column its very value."""
    first = rows[0].to(torch.float32)
    sample = rows[::SAMPLE] - first
    grid = torch.exp2(torch.floor(torch.log2(sample.abs().amax(0).clamp_min(2.0**-80)))) / 32
    return (first + sample.mean(0)).div_(grid).round_().mul_(grid)


def _unit_sum(block: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Sum of the float64 rows over their norms, and how many have none because they are zeros."""
    norms = torch.linalg.vector_norm(block, dim=1)
    zero = norms == 0
    return torch.where(zero, 0.0, 1 / norms) @ block, int(zero.sum())


@dataclass(frozen=True)
class _Survey:
    """What fixed point needs to know about the rows beforehand and what it does not tell, from one reading of them."""

    centre: torch.Tensor  # (d,), near the mean
    distances: torch.Tensor  # (n,), of the rows from the centre
    peaks: torch.Tensor  # (d,), largest absolute value of each column of `rows - centre`
    unit_sum: torch.Tensor  # as in `Moments`; NaN where the directions are not asked for
    zeros: int

    @classmethod
    def of(cls, rows: torch.Tensor, directions: bool = True) -> _Survey:
        centre = _round_mean(rows)
        distances, highest, lowest, unit_sum, zeros = [], [], [], torch.zeros_like(centre, dtype=torch.float64), 0
        for block in rows.split(CACHED_ROWS):
            centred = block - centre
            distances.append(torch.linalg.vector_norm(centred, dim=1))
            highest.append(centred.amax(0))
            lowest.append(centred.amin(0))
            block_sum, block_zeros = _unit_sum(block.to(torch.float64)) if directions else (torch.nan, 0)
            unit_sum, zeros = unit_sum + block_sum, zeros + block_zeros
        peaks = torch.maximum(torch.stack(highest).amax(0), -torch.stack(lowest).amin(0))
        return cls(centre, torch.cat(distances), peaks, unit_sum, zeros)
