"""k-means: Lloyd's iteration (IEEE Trans. Information Theory 28, 1982), with a start and steps that need few rounds.

Nearly all of the cost is one product per round. The rows' own norms do not matter for which centroid is nearest:
the smallest of the scores `|c|^2 / 2 - x . c` names the cell.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import nlargest

import numpy as np
import torch

from .products import numpy_as_pytorch, times_transposed
from .switch import fast

MAX_ITERATIONS = 25
TOLERANCE = 2.5e-3  # stop when a round lowers the squared error by less than this share
STEP = 1.8  # over-relaxed step to the mean: below 2 the error cannot rise; near 2 it needs about half the rounds
ROUNDING = 16  # times eps: an error of a cell below this share of its energy may be rounding
POWER_STEPS = 3  # towards a piece's principal direction
BLOCK_SCORES = 2**19  # rows x cells scored at once: 2 MiB in float32, so that they stay in the cache

Array = np.ndarray | torch.Tensor


@dataclass(frozen=True)
class KMeans:
    """Centroids `(n_cells, width)`, the nearest of them for each row `(n,)` int64, the rounds it took, and the error.

    The error is the sum of squared distances in the last round, before the last assignment of rows to `cells`.
    """

    centroids: torch.Tensor
    cells: torch.Tensor
    iterations: int
    error: float


def kmeans(rows: torch.Tensor, n_cells: int, centroids: torch.Tensor | None = None) -> KMeans:
    """Cluster centred rows `(n, width)`, float32 or float64 on any device, `n >= n_cells`; O(n width n_cells) a round.

    The iteration begins at `centroids`, `(n_cells, width)`; without them at the pieces of `split_start`. It uses no
    random numbers: the same rows in the same order give the same cells.

    A round assigns every row to its nearest centroid and moves every centroid towards the mean of its rows, by `STEP`
    times the distance. A cell's error is quadratic around that mean, so a step below twice the distance cannot raise
    it; and a step beyond the mean anticipates where the next rounds would move it. The last round, when the error
    stalls, moves the centroids to the means themselves.
    """
    squares = torch.cat([part.double().square().sum(1, keepdim=True) for part in rows.split(1024)])
    centroids = split_start(rows, n_cells) if centroids is None else centroids
    best, iteration = float("inf"), 1
    while True:
        cells = nearest_centroids(rows, centroids)
        sums, counts = cell_sums(rows, cells, n_cells)
        means = sums / counts.clamp_min(1).to(rows.dtype)[:, None]
        error = _squared_error(squares, cells, means, counts)
        means, filled = _fill_empty(rows, cells, means, counts)
        if iteration >= MAX_ITERATIONS or (error >= best * (1 - TOLERANCE) and not filled):
            return KMeans(means, nearest_centroids(rows, means), iteration, error)
        centroids = torch.where(counts[:, None] > 0, torch.lerp(centroids, means, STEP), means)
        best, iteration = error, iteration + 1


def _squared_error(squares: torch.Tensor, cells: torch.Tensor, means: torch.Tensor, counts: torch.Tensor) -> float:
    """Sum of the squared distances of rows to the mean of their cell, from the rows' squared norms `(n, 1)`.

    The error of a cell is the difference of two sums, which are large if the cell lies far out. A difference that may
    be rounding alone counts as 0: it would hide the progress of the other cells.
    """
    energies = cell_sums(squares, cells, len(means))[0][:, 0]
    errors = energies - counts * means.double().square().sum(1)
    return float(torch.where(errors > ROUNDING * torch.finfo(means.dtype).eps * energies, errors, 0.0).sum())


def nearest_centroids(rows: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """The nearest centroid of each row, `(n,)` int64; on a tie the first. Memory O(`BLOCK_SCORES`)."""
    return torch.cat([argmin(scores) for scores in _scores(rows, centroids)])


def _scores(rows: torch.Tensor, centroids: torch.Tensor) -> Iterator[torch.Tensor]:
    """Blocks of half the squared distances less half the rows' squared norms, `(b, n_cells)` each."""
    opposite, halves = -centroids, centroids.square().sum(1) / 2
    block = max(1, BLOCK_SCORES // len(centroids))
    return (times_transposed(part, opposite).add_(halves) for part in rows.split(block))


def argmin(scores: torch.Tensor) -> torch.Tensor:
    """Position of the smallest entry of each row, the first of equals, `(n,)` int64."""
    if scores.device.type == "cpu" and fast():  # numpy's argmin is vectorised and torch's is not: 8 times faster
        return torch.from_numpy(scores.numpy().argmin(1))
    return scores.argmin(1)


def cell_sums(rows: torch.Tensor, cells: torch.Tensor, n_cells: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of the rows in each cell `(n_cells, width)`, in a fixed order, and float64 counts `(n_cells,)`."""
    counts = torch.bincount(cells, minlength=n_cells).double()
    sums = rows.new_zeros(n_cells, rows.shape[1])
    if rows.device.type == "cpu":
        sums.index_add_(0, cells, rows)
    else:  # on a GPU index_add_ adds in an order that changes from run to run; a matrix product does not
        for part, own in zip(rows.split(16384), cells.split(16384), strict=True):
            sums += torch.nn.functional.one_hot(own, n_cells).to(rows.dtype).T @ part
    return sums, counts


def split_start(rows: torch.Tensor, n_cells: int) -> torch.Tensor:
    """Initial centroids without random numbers, whatever the order of the rows, `(n_cells, width)`.

    Cells are cut in two at their mean, across their principal direction, those of large error first, half of all cells
    at a time; the means of the pieces are the centroids (PCA-Part: Su & Dy, "In search of deterministic methods for
    initializing k-means", Intelligent Data Analysis 11, 2007). Each doubling reads the rows about ten times.
    """
    with numpy_as_pytorch(threads=1):  # the products are too small for more
        pieces = [_whole(rows)]
        while len(pieces) < n_cells:
            errors = [piece.error for piece in pieces]
            most = min(n_cells - len(pieces), -(-len(pieces) // 2) if len(pieces) > 4 else len(pieces))
            chosen = nlargest(most, range(len(pieces)), key=errors.__getitem__)
            halves = {i: pieces[i].halves() for i in chosen if errors[i] > 0}
            if not halves:  # the rows of each piece are equal: a centroid occurs several times
                pieces += pieces[:1] * (n_cells - len(pieces))
                break
            whole = [piece for i, piece in enumerate(pieces) if i not in halves]
            pieces = whole + [half for pair in halves.values() for half in pair]
    return torch.stack([torch.as_tensor(piece.mean) for piece in pieces])


def _whole(rows: torch.Tensor) -> _Piece:
    """All rows as one piece; the caller's are not written to.

    Most pieces are so small that the time goes into calling functions: on a CPU numpy's take half as long as PyTorch's.
    """
    given = rows.clone(), rows.new_zeros(rows.shape[1]), rows.new_ones(len(rows))
    return _Piece(*(part.numpy() for part in given) if rows.device.type == "cpu" and fast() else given)


class _Piece:
    """Some of the rows, and their mean; numpy arrays or tensors.

    The mean is subtracted when `error` is asked for: the last pieces do not need it.
    """

    __slots__ = ("_energies", "_error", "_offset", "_ones", "_rows", "mean")

    def __init__(self, rows: Array, origin: Array, ones: Array):
        """`rows` are relative to `origin` and may be written to; `ones` are at least as many."""
        self._rows, self._ones = rows, ones[: len(rows)]
        self._offset = self._ones @ rows / len(rows)
        self.mean = origin + self._offset
        self._error: float | None = None

    @property
    def error(self) -> float:
        """Sum of all squares of the rows minus their mean; zero where they cannot be split."""
        if self._error is None:
            torch.as_tensor(self._rows).sub_(torch.as_tensor(self._offset))  # in place, and twice as fast as numpy's
            self._energies = self._ones @ (self._rows * self._rows)  # of each column
            self._error = float(self._energies.sum()) if len(self._rows) > 1 else 0.0
        return self._error

    def halves(self) -> list[_Piece]:
        """The rows on either side of the mean along the principal direction; the piece itself if all lie on one side.

        Power iteration on the coordinates `along` that direction, from the column of largest variance; a few steps
        suffice, since only the signs are used. Division by the error, which no eigenvalue exceeds, keeps them in range.
        """
        if not self.error > 0:
            return [self]
        rows, scale = self._rows, 1 / max(self.error, torch.finfo(torch.float32).tiny)
        along = rows[:, int(self._energies.argmax())]
        for _ in range(POWER_STEPS):
            along = rows @ (along @ rows * scale)
        side = along > 0
        if not 0 < int(side.sum()) < len(rows):
            self._error = 0.0
            return [self]
        return [_Piece(rows[own], self.mean, self._ones) for own in (side, ~side)]


def _fill_empty(
    rows: torch.Tensor, cells: torch.Tensor, means: torch.Tensor, counts: torch.Tensor
) -> tuple[torch.Tensor, bool]:
    """Means after each empty cell took half of the rows of a cell of large error, and whether any cell was filled."""
    empty = torch.nonzero(counts == 0)[:, 0]
    if not len(empty):
        return means, False
    errors = squared_errors(rows, means, cells)
    by_cell = torch.zeros(len(means), dtype=errors.dtype, device=errors.device).index_add_(0, cells, errors)
    worst = [k for k in by_cell.topk(min(len(empty), len(means))).indices.tolist() if float(by_cell[k]) > 0]
    for cell, place in zip(worst, empty.tolist()):
        with numpy_as_pytorch(threads=1):
            halves = _whole(rows[cells == cell]).halves()
        means[cell], means[place] = (torch.as_tensor(half.mean) for half in (halves[0], halves[-1]))
    return means, bool(worst)


def squared_errors(rows: torch.Tensor, centroids: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """Squared distance of each row to its centroid by direct difference, `(n,)` float64."""
    parts = zip(rows.split(1024), cells.split(1024), strict=True)
    return torch.cat([torch.linalg.vector_norm(part - centroids[own], dim=1) for part, own in parts]).double().square()
