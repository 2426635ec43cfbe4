"""The eigenvalues of the covariance: all of them in float64, with one fold left out, or the leading one alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from .kernels.kmeans import cell_sums
from .kernels.products import BLOCK_ROWS, eigvalsh, gram, times_transposed
from .moments import Moments

LANCZOS_STEPS = 60
LANCZOS_TOLERANCE = 1e-10


def eigenvalues(rows: torch.Tensor, scatter: torch.Tensor | None, count: int) -> torch.Tensor:
    """Eigenvalues of the covariance, descending, `(min(n, d),)` float64; those below rounding are exactly 0.

    Args:
        rows: `(n, d)`.
        scatter: `(d, d)` float64 scatter of all `count` rows; `None` where the rows are all, and fewer than columns.
        count: number of rows that the covariance describes.
    """
    matrix = _dual_gram(rows) if scatter is None else scatter
    values = eigvalsh(matrix).flip(0) / count
    eps = torch.finfo(torch.float64).eps
    rounding = (8 * eps * rows[0].to(torch.float64)).square().sum()  # of the mean, which remains where rows are equal
    floor = torch.maximum(values[0] * len(values) * eps, rounding)
    return torch.where(values > floor, values, 0.0)


def _dual_gram(rows: torch.Tensor) -> torch.Tensor:
    """Inner products of the centred rows, `(n, n)`: the same eigenvalues as the scatter, for n <= d."""
    rows = rows.to(torch.float64)
    return gram((rows - rows.mean(0)).T)


def fold_spectra(folds: torch.Tensor, coordinates: Iterable[torch.Tensor]) -> torch.Tensor:
    """Eigenvalues with one fold left out each, the eigenvectors held fixed, `(folds, min(n, d))` float64.

    With the full cloud's eigenvectors v_i, the leave-one-out eigenvalue is the variance of the remaining rows along
    v_i: its derivative is exact, so the jackknife is right to first order, at the cost of one product.

    Args:
        folds: `(n,)` fold of each row; -1 for a row that is no part of the cloud.
        coordinates: blocks of the rows' coordinates in the eigenbasis.
    """
    sums, squares, counts = fold_sums(folds, coordinates)
    remaining = (counts.sum() - counts)[:, None]
    variance = (squares.sum(0) - squares) / remaining - ((sums.sum(0) - sums) / remaining).square()
    return variance.clamp_min(0)


def principal_coordinates(rows: torch.Tensor, moments: Moments | None) -> Iterator[torch.Tensor]:
    """Coordinates of the rows in the eigenbasis, blocks of `(b, min(n, d))`; float32 is enough for an error.

    Args:
        rows: `(n, d)`.
        moments: of the cloud; `None` where there are no more rows than columns.
    """
    if moments is None:
        centred = (rows - rows.mean(0)).to(torch.float32)
        products = times_transposed(centred, centred)
        total = products.trace().clamp_min(torch.finfo(torch.float32).tiny)
        values, vectors = torch.linalg.eigh(products / total)
        yield vectors * (values.clamp_min(0) * total).sqrt()
        return
    scatter = moments.scatter
    basis = torch.linalg.eigh((scatter / scatter.diagonal().sum()).to(torch.float32)).eigenvectors.T.contiguous()
    mean = moments.mean.to(rows.dtype)
    for block in rows.split(BLOCK_ROWS):
        yield times_transposed((block - mean).to(torch.float32), basis)


def fold_sums(folds: torch.Tensor, blocks: Iterable[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Per fold but -1: sum and sum of squares of the blocks' `(n, k)` values, and number of rows, in float64."""
    slots, start = int(folds.max()) + 2, 0  # the first is that of fold -1
    sums = squares = torch.zeros((), dtype=torch.float64, device=folds.device)
    counts = torch.zeros((), dtype=torch.int64, device=folds.device)
    for block in blocks:
        own = folds[start : start + len(block)] + 1
        block_sums, block_counts = cell_sums(block, own, slots)
        sums, counts = sums + block_sums.to(torch.float64), counts + block_counts
        squares = squares + cell_sums(block.square(), own, slots)[0].to(torch.float64)
        start += len(block)
    return sums[1:], squares[1:], counts[1:]


# --- the leading direction alone ------------------------------------------------------------------------------------


def well_centred(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows, the mean still to subtract, squared norms; the rows are centred already if the offset costs precision."""
    mean, norms = _mean(rows), _squared_norms(rows)
    if float(mean.square().sum()) > 0.5 * float(norms.median()):
        rows = rows - mean.to(rows.dtype)
        mean, norms = _mean(rows), _squared_norms(rows)
    return rows, mean, norms


def _mean(rows: torch.Tensor) -> torch.Tensor:
    """Mean row, `(d,)` float64; float32 sums are short enough to lose no digit that matters."""
    return sum(block.sum(0).to(torch.float64) for block in rows.split(512)) / len(rows)


def _squared_norms(rows: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(rows, dim=1).to(torch.float64).square()


def lanczos(rows: torch.Tensor, mean: torch.Tensor) -> torch.Tensor | None:
    """Leading principal direction of `rows - mean`, `(d,)` float64 unit vector, or `None` if it does not converge.

    Lanczos iteration on the scatter matrix with full reorthogonalisation; the matrix itself is never formed.
    """
    mean = mean.to(rows.dtype)
    basis, diagonal, off_diagonal = [_first_guess(rows, mean)], [], []
    for _ in range(min(LANCZOS_STEPS, rows.shape[1])):
        image = _scatter_times(rows, mean, basis[-1])
        diagonal.append(float(image @ basis[-1]))
        stacked = torch.stack(basis)  # (steps, d)
        for _ in range(2):  # a single pass loses orthogonality when rounding in the float32 products is large
            image = image - stacked.T @ (stacked @ image)
        off_diagonal.append(float(image.norm()))
        ritz, weights = _tridiagonal_eigh(diagonal, off_diagonal[:-1])
        if _converged(ritz, off_diagonal[-1] * abs(float(weights[-1]))):
            direction = stacked.T @ weights.to(rows.device)
            return direction / direction.norm()
        basis.append(image / off_diagonal[-1])
    return None


def leading_share(scatter: torch.Tensor) -> float:
    """Largest eigenvalue over the sum of all, of a scatter matrix `(d, d)` in float64 that is not zero."""
    matrix = scatter / scatter.trace()
    direction = lanczos(matrix, torch.zeros_like(matrix[0]))  # its scatter is its square, with the same directions
    if direction is None:
        return float(eigvalsh(matrix)[-1])
    return float(direction @ matrix @ direction)


def _first_guess(rows: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """A unit vector to start from: the leading direction of every sixteenth row, or a random one."""
    if len(rows) > 4096:
        direction = lanczos(rows[::16].contiguous(), mean)
        if direction is not None:
            return direction
    start = torch.randn(rows.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (start / start.norm()).to(rows.device)


def _scatter_times(rows: torch.Tensor, mean: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """`(rows - mean)^T (rows - mean) vector`, which reads the rows twice."""
    vector = vector.to(rows.dtype)
    along = rows @ vector - mean @ vector
    return (along @ rows - along.sum() * mean).to(torch.float64)


def _tridiagonal_eigh(diagonal: list[float], off_diagonal: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ascending eigenvalues of the symmetric tridiagonal matrix, and the eigenvector of the largest."""
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    if off_diagonal:
        side = torch.diag(torch.tensor(off_diagonal, dtype=torch.float64), 1)
        matrix = matrix + side + side.T
    values, vectors = torch.linalg.eigh(matrix)
    return values, vectors[:, -1]


def _converged(ritz: torch.Tensor, residual: float) -> bool:
    """Whether the largest Ritz value is within tolerance: its error is at most residual^2 / gap."""
    top = float(ritz[-1])
    if residual <= LANCZOS_TOLERANCE * top:
        return True
    gap = top - float(ritz[-2]) if len(ritz) > 1 else 0.0
    return gap > 0.01 * top and residual**2 <= LANCZOS_TOLERANCE * top * gap
