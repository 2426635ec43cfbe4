"""k-means: Lloyd's iteration (IEEE Transactions on Information Theory 28, 1982), with a start and steps that need few.

Nearly all there is to pay is one product a round. The rows' own norms do not matter for which centroid is nearest: the
smallest of the scores `|c|^2 / 2 - x . c` names the cell.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from .products import CACHED_ROWS, ZERO, PackedDigits, packing_works, times_transposed

MAX_ITERATIONS = 25
TOLERANCE = 2.5e-3  # stop when a round lowers the squared error by less than this share
STEP = 1.8  # of the way to the mean; up to 2 the error cannot rise, and near 2 it falls in half as many rounds, further
SHRINKAGES = (1.0, 0.7, 0.5, 0.35, 0.25)
JUDGES = 512
POWER_STEPS = 3  # towards a piece's principal direction
ROUGH_WORK = 2**26  # rows x width x cells from which a rough round is worth its preparation
FAR = 4.0  # times the median of the rows' largest entries: beyond, a row is scored as it is in rough rounds too
BLOCK_SCORES = 2**19  # rows x cells scored at once: 2 MiB in float32, so that they stay in the cache


@dataclass(frozen=True)
class KMeans:
    """Centroids `(n_cells, width)`, the nearest of them for each row `(n,)` int64, the rounds it took, and the error.

    The error is the sum of squared distances in the last round, before each row went to the nearest once more.
    """

    centroids: torch.Tensor
    cells: torch.Tensor
    iterations: int
    error: float


def kmeans(
    rows: torch.Tensor, n_cells: int, generator: torch.Generator, centroids: torch.Tensor | None = None
) -> KMeans:
    """Cluster centred rows `(n, width)`, float32 or float64 on any device, `n >= n_cells`; O(n width n_cells) a round.

    The iteration begins at `centroids`, `(n_cells, width)`; without them at rows that are drawn (`_drawn_start`).

    A round assigns every row to its nearest centroid and moves every centroid `STEP` of the way to the mean of its
    rows. The last round, when the error stalls, moves them to the mean itself, and then finds the nearest exactly; the
    rounds before find it roughly where that is faster (`RoughRows`).
    """
    norms, rough = rows.square().sum(1), RoughRows.of(rows, n_cells)
    energy = float(norms.sum(dtype=torch.float64))
    if centroids is None:
        centroids = _drawn_start(rows, norms, rough, n_cells, generator)
    best, iteration = float("inf"), 1
    while True:
        cells = rough.nearest_centroids(centroids) if rough else nearest_centroids(rows, centroids)
        sums, counts = cell_sums(rows, cells, n_cells)
        means = sums / counts.clamp_min(1).to(rows.dtype)[:, None]
        error = energy - float((counts * means.double().square().sum(1)).sum())
        means, filled = _reseed_empty(rows, cells, means, counts, generator)
        if iteration >= MAX_ITERATIONS or (error > best * (1 - TOLERANCE) and not filled):
            return KMeans(means, nearest_centroids(rows, means), iteration, error)
        step = 1.0 if iteration == 1 else STEP  # the start's centroids are rows, far out: beyond the mean is as far
        centroids = torch.where(counts[:, None] > 0, torch.lerp(centroids, means, step), means)
        best, iteration = error, iteration + 1


def nearest_centroids(rows: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """The nearest centroid of each row, `(n,)` int64; on a tie the first. Memory O(`BLOCK_SCORES`)."""
    return torch.cat([argmin(scores) for scores in _scores(rows, centroids)])


def _scores(rows: torch.Tensor, centroids: torch.Tensor) -> Iterator[torch.Tensor]:
    """Blocks of half the squared distances less half the rows' squared norms, `(b, n_cells)` each."""
    opposite, halves = -centroids, centroids.square().sum(1) / 2
    block = max(1, BLOCK_SCORES // len(centroids))
    return (times_transposed(part, opposite).add_(halves) for part in rows.split(block))


@dataclass(frozen=True)
class RoughRows:
    """Rows in 8-bit integers: near enough to find their cells in early rounds, and several times as fast to multiply.

    Attributes:
        digits: `(n, width)` uint8, `rows / unit + 128`, rounded.
        unit: the largest entry over 127.
        far: positions of rows so long that the unit would be too coarse for the others.
        far_rows: these rows themselves.
    """

    digits: torch.Tensor
    unit: float
    far: torch.Tensor
    far_rows: torch.Tensor

    @classmethod
    def of(cls, rows: torch.Tensor, n_cells: int) -> RoughRows | None:
        """`None` where the rows are better multiplied as they are."""
        if rows.device.type != "cpu" or rows.dtype != torch.float32 or rows.numel() * n_cells < ROUGH_WORK:
            return None
        if not packing_works():
            return None
        peaks = _peaks(rows)
        near = peaks <= FAR * peaks.median()
        unit = max(float(peaks[near].max()) / 127, torch.finfo(torch.float32).tiny)
        digits = torch.empty(rows.shape, dtype=torch.uint8)
        for part, digit in zip(rows.split(CACHED_ROWS), digits.split(CACHED_ROWS), strict=True):
            digit.copy_((part / unit).round_().clamp_(-127, 127).add_(ZERO))
        far = torch.nonzero(~near)[:, 0]
        return cls(digits, unit, far, rows[far])

    def nearest_centroids(self, centroids: torch.Tensor) -> torch.Tensor:
        """A centroid that is nearest or hardly farther, for each row, `(n,)` int64."""
        cells = torch.cat([argmin(scores) for scores in self.scores(centroids)])
        if len(self.far):
            cells[self.far] = nearest_centroids(self.far_rows, centroids)
        return cells

    def lowest_scores(self, centroids: torch.Tensor) -> torch.Tensor:
        """The score of the nearest centroid of each row, roughly, `(n,)`."""
        lowest = torch.cat([scores.amin(1) for scores in self.scores(centroids)])
        if len(self.far):
            lowest[self.far] = _lowest_scores(self.far_rows, centroids)
        return lowest

    def scores(self, centroids: torch.Tensor) -> Iterator[torch.Tensor]:
        """About what `_scores` gives, but for the rows that lie far out."""
        units = (_peaks(centroids) / 127).clamp_min(torch.finfo(torch.float32).tiny)
        packed = PackedDigits.of((centroids / -units[:, None]).round_().to(torch.int8), units)
        halves, block = centroids.square().sum(1) / 2, max(1, BLOCK_SCORES // len(centroids))
        return (packed.times(part, self.unit, halves) for part in self.digits.split(block))


def _peaks(rows: torch.Tensor) -> torch.Tensor:
    """The largest absolute value of each row."""
    return torch.maximum(rows.amax(1), -rows.amin(1))


def argmin(scores: torch.Tensor) -> torch.Tensor:
    """Position of the smallest entry of each row, the first of equals, `(n,)` int64."""
    if scores.device.type == "cpu":  # numpy's argmin is vectorised and torch's is not: 8 times faster
        return torch.from_numpy(scores.numpy().argmin(1))
    return scores.argmin(1)


def cell_sums(rows: torch.Tensor, cells: torch.Tensor, n_cells: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of the rows in each cell `(n_cells, width)`, in a fixed order, and float64 counts `(n_cells,)`."""
    counts = torch.bincount(cells, minlength=n_cells).double()
    sums = rows.new_zeros(n_cells, rows.shape[1])
    if rows.device.type == "cpu":
        sums.index_add_(0, cells, rows)
    else:  # there index_add_ adds in any order, which no seed can fix; a product does not
        for part, own in zip(rows.split(16384), cells.split(16384), strict=True):
            sums += torch.nn.functional.one_hot(own, n_cells).to(rows.dtype).T @ part
    return sums, counts


def _drawn_start(rows, norms, rough: RoughRows | None, n_cells: int, generator: torch.Generator) -> torch.Tensor:
    """Centroids to begin with: rows far apart, drawn towards the middle as far as that serves the other rows.

    An eighth is drawn evenly from the rows, then their number doubles by draws in proportion to the squared distance to
    the nearest (k-means++, Arthur & Vassilvitskii, SODA 2007, a batch at a time): half the cost of a round.
    """
    seeds = torch.randperm(len(rows), generator=generator)[: max(1, n_cells // 8)].to(rows.device)
    distance, new = torch.full_like(norms, float("inf")), seeds
    while len(seeds) < n_cells:
        lowest = rough.lowest_scores(rows[new]) if rough else _lowest_scores(rows, rows[new])
        distance = torch.minimum(distance, norms + 2 * lowest)
        new = _drawn(distance.clamp_min(0), min(len(seeds), n_cells - len(seeds)), generator)
        seeds = torch.cat([seeds, new])
    return rows[seeds] * _best_shrinkage(rows, seeds, generator)


def split_start(rows: torch.Tensor, n_cells: int) -> torch.Tensor:
    """Centroids to begin with that owe nothing to chance or to the order of the rows, `(n_cells, width)`.

    Cells are cut in two at their mean, across their principal direction, those of large error first, half of all cells
    at a time; the means of the pieces are the centroids (PCA-Part: Su & Dy, "In search of deterministic methods for
    initializing k-means", Intelligent Data Analysis 11, 2007). About ten readings of the rows for each doubling.
    """
    pieces = [_Piece.of(rows, torch.zeros_like(rows[0]))]
    while len(pieces) < n_cells:
        errors = torch.stack([piece.error for piece in pieces])
        most = min(n_cells - len(pieces), -(-len(pieces) // 2) if len(pieces) > 4 else len(pieces))
        chosen = [i for i in torch.topk(errors, most).indices.tolist() if len(pieces[i].rows) > 1]
        halves = {i: pieces[i].halves() for i in chosen if float(errors[i]) > 0}
        if not halves:  # no two rows differ within a piece: fewer cells will do
            pieces += pieces[:1] * (n_cells - len(pieces))
            break
        whole = [piece for i, piece in enumerate(pieces) if i not in halves]
        pieces = whole + [half for pair in halves.values() for half in pair]
    return torch.stack([piece.mean for piece in pieces])


@dataclass(frozen=True)
class _Piece:
    """Rows less their mean, the mean, and the sum of their squares."""

    rows: torch.Tensor
    mean: torch.Tensor
    error: torch.Tensor

    @classmethod
    def of(cls, rows: torch.Tensor, origin: torch.Tensor) -> _Piece:
        mean = rows.mean(0)
        centred = rows - mean
        return cls(centred, origin + mean, centred.square().sum())

    def halves(self) -> list[_Piece]:
        """Both sides of the mean along the principal direction, about; the piece itself if all lie on one side."""
        along = self.rows[:, int(self.rows.square().sum(0).argmax())]
        for _ in range(POWER_STEPS):
            direction = along @ self.rows
            along = self.rows @ (direction / torch.linalg.vector_norm(direction).clamp_min(1e-30))
        beyond = along > 0
        sides = [self.rows[beyond], self.rows[~beyond]]
        if not (len(sides[0]) and len(sides[1])):
            return [_Piece(self.rows, self.mean, torch.zeros_like(self.error))]
        return [_Piece.of(side, self.mean) for side in sides]


def _best_shrinkage(rows: torch.Tensor, seeds: torch.Tensor, generator: torch.Generator) -> float:
    """The factor on the seeds that brings them nearest to rows that are no seeds, judged on at most `JUDGES` rows.

    A row is a poor centroid for others when columns are many: its own noise pushes them away, most rows end in the few
    cells with small centroids, and Lloyd's iteration never leaves that start. A plain Gaussian then looks patchy.
    """
    judges = torch.randperm(len(rows), generator=generator)[: JUDGES + len(seeds)].to(rows.device)
    judges = judges[~torch.isin(judges, seeds)][:JUDGES]
    if not len(judges):
        return 1.0
    half = rows[seeds].square().sum(1) / 2
    products = times_transposed(rows[judges], rows[seeds])
    costs = [float((s * s * half - s * products).amin(1).sum(dtype=torch.float64)) for s in SHRINKAGES]
    return SHRINKAGES[costs.index(min(costs))]


def _lowest_scores(rows: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    return torch.cat([scores.amin(1) for scores in _scores(rows, centroids)])


def _drawn(weights: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """`count` different positions drawn in proportion to `weights`; positions of weight zero only fill up."""
    chance = weights.double().cpu()
    chance = chance + chance.max() * 1e-12 + torch.finfo(torch.float64).tiny
    arrival = torch.empty_like(chance).exponential_(generator=generator) / chance  # the first to arrive are drawn
    return torch.topk(arrival, count, largest=False).indices.to(weights.device)


def _reseed_empty(rows, cells, means, counts, generator) -> tuple[torch.Tensor, bool]:
    """Empty cells restart at rows drawn in proportion to their squared error; also whether any could be filled."""
    empty = torch.nonzero(counts == 0)[:, 0]
    if not len(empty):
        return means, False
    errors = squared_errors(rows, means, cells)
    means[empty] = rows[_drawn(errors, len(empty), generator)]
    return means, bool((errors > 0).any())


def squared_errors(rows: torch.Tensor, centroids: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """Squared distance of each row to its centroid by direct difference, `(n,)` float64."""
    parts = zip(rows.split(1024), cells.split(1024), strict=True)
    return torch.cat([torch.linalg.vector_norm(part - centroids[own], dim=1) for part, own in parts]).double().square()
