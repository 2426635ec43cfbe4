"""What the eigenvalues of the covariance say: anisotropy, effective rank, participation ratio, IsoScore.

The functions ending in `_of` map eigenvalues to a number, tensor to tensor, and are differentiable; the others take a
`PointCloud` and answer with an `Estimate`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from .estimate import Estimate, missing
from .products import BLOCK_ROWS, times_transposed

if TYPE_CHECKING:
    from .cloud import PointCloud

NO_SPREAD = "no_spread: all rows are equal, so there is no variance to share out"
LANCZOS_STEPS = 60
LANCZOS_TOLERANCE = 1e-10


# --- from eigenvalues to a number -----------------------------------------------------------------------------------


def anisotropy_of(eigenvalues: torch.Tensor) -> torch.Tensor:
    """Largest eigenvalue over the sum of all, for `(..., k)` eigenvalues in any order."""
    return eigenvalues.amax(-1) / eigenvalues.sum(-1)


def effective_rank_of(eigenvalues: torch.Tensor) -> torch.Tensor:
    """`exp(H(p))`, `p` the singular values (square roots of the eigenvalues) over their sum."""
    singular = torch.where(eigenvalues > 0, eigenvalues, 1).sqrt() * (eigenvalues > 0)
    p = singular / singular.sum(-1, keepdim=True)
    return torch.exp(torch.special.entr(p).sum(-1))


def participation_ratio_of(eigenvalues: torch.Tensor) -> torch.Tensor:
    """`(sum of eigenvalues)^2 / sum of squared eigenvalues`."""
    return eigenvalues.sum(-1).square() / eigenvalues.square().sum(-1)


def iso_score_of(eigenvalues: torch.Tensor, d: int) -> torch.Tensor:
    """`(participation ratio - 1) / (d - 1)`, to which the definition of IsoScore reduces; `d` is the hidden size."""
    return (participation_ratio_of(eigenvalues) - 1) / (d - 1)


# --- from a cloud to an estimate ------------------------------------------------------------------------------------


def anisotropy(cloud: PointCloud) -> Estimate:
    """Share of the variance that lies along one direction.

    `sigma_1^2 / sum_i sigma_i^2` with the singular values of the centred rows. Near 1 when all representations lie
    along one line through their mean, `1 / d` when no direction is preferred; n independent rows of an isotropic
    Gaussian give about `(1 + sqrt(d / n))^2 / d`. A handful of rows with a huge norm is enough to bring it close to 1:
    look at the token policies before reading it as a property of the whole cloud.

    Args:
        cloud: rows, n >= 2.

    Returns:
        Estimate: value in [1 / min(n - 1, d), 1]; exact to about 1e-9. The standard error leaves out one group of rows
        at a time with the leading direction held fixed. Value `None` when all rows are equal (`no_spread`).

    Cost: a dozen products of the rows with a vector (Lanczos), O(n d); none if the spectrum is there already.

    Source: Razzhigaev et al., "The Shape of Learning" (2024), section 3.1.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud, anisotropy
        >>> X = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> anisotropy(PointCloud(X)).value
        0.9
    """
    estimate = _leading_direction(cloud)
    if estimate is None:  # a flat spectrum or no spread at all: the full decomposition decides
        return _spectral(cloud, "anisotropy", "razzhigaev", anisotropy_of)
    if "spectrum" in cloud.__dict__:
        return replace(estimate, value=float(anisotropy_of(cloud.spectrum)))
    return estimate


def effective_rank(cloud: PointCloud) -> Estimate:
    """How many directions carry the cloud, counted by entropy.

    `exp(-sum_i p_i log p_i)`, `p_i = sigma_i / sum_j sigma_j` with the singular values of the centred rows. It is k
    when k directions share the spread equally, and weighs small directions more than the participation ratio does.

    Args:
        cloud: rows, n >= 2.

    Returns:
        Estimate: value in [1, min(n - 1, d)]; `None` when all rows are equal (`no_spread`). Singular values under
        about 1e-7 of the largest, which are rounding in float32 rows, count as zero.

    Cost: O(n d^2 + d^3), shared with all spectral measures.

    Source: Roy, Vetterli, "The effective rank" (2007), definition 1.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud, effective_rank
        >>> round(effective_rank(PointCloud(torch.cat([torch.eye(3), -torch.eye(3)]))).value, 6)
        3.0
    """
    return _spectral(cloud, "effective_rank", "roy_vetterli", effective_rank_of)


def participation_ratio(cloud: PointCloud) -> Estimate:
    """How many directions carry the variance.

    `(sum lambda_i)^2 / sum lambda_i^2` with the eigenvalues of the covariance.

    Args:
        cloud: rows, n >= 2.

    Returns:
        Estimate: value in [1, min(n - 1, d)]; `None` when all rows are equal (`no_spread`).

    Cost: O(n d^2 + d^3), shared with all spectral measures.

    Source: Gao et al., "A theory of multineuronal dimensionality" (2017), equation 5.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud, participation_ratio
        >>> X = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> round(participation_ratio(PointCloud(X)).value, 6)
        1.219512
    """
    return _spectral(cloud, "participation_ratio", "eigenvalues", participation_ratio_of)


def iso_score(cloud: PointCloud) -> Estimate:
    """How evenly the variance is spread over all d directions.

    IsoScore: the distance of the normalised eigenvalues from the all-ones vector, rescaled; it equals
    `(participation ratio - 1) / (d - 1)`. 1 means the same variance in every direction, 0 a single direction. It falls
    with too few rows: an isotropic Gaussian with n = d scores about one half.

    Args:
        cloud: rows, n >= 2.

    Returns:
        Estimate: value in [0, 1]; `None` when all rows are equal (`no_spread`) or d = 1 (`one_dimension`). Warns
        `rank_limited` when n <= d.

    Cost: O(n d^2 + d^3), shared with all spectral measures.

    Source: Rudman et al., "IsoScore" (2022), algorithm 1.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud, iso_score
        >>> round(iso_score(PointCloud(torch.cat([torch.eye(3), -torch.eye(3)]))).value, 6)
        1.0
    """
    if cloud.d == 1:
        return missing("iso_score", "rudman", "one_dimension: one column has nothing to be even about", n=cloud.n)
    estimate = _spectral(cloud, "iso_score", "rudman", lambda eigenvalues: iso_score_of(eigenvalues, cloud.d))
    return estimate if estimate.value is None or cloud.n > cloud.d else estimate.warned(_rank_limited(cloud))


def _rank_limited(cloud: PointCloud) -> str:
    return f"rank_limited: {cloud.n} rows cannot spread over {cloud.d} columns"


def _spectral(cloud: PointCloud, measure: str, convention: str, function: Callable) -> Estimate:
    """`function` of the cloud's eigenvalues, with its jackknife standard error."""
    if not float(cloud.spectrum.sum()) > 0:
        return missing(measure, convention, NO_SPREAD, n=cloud.n)
    error, method = None, None
    if cloud.jackknife:
        error, method = jackknife(function(cloud.fold_spectra))
    return Estimate(measure, convention, float(function(cloud.spectrum)), error, method, n=cloud.n)


def jackknife(leave_one_out: torch.Tensor) -> tuple[float | None, str | None]:
    """Delete-a-group jackknife: standard error and its method from the `(g,)` values with one group left out each.

    `sqrt((g - 1) / g * sum_j (value_j - mean)^2)`; groups are folds of nearly equal size. `(None, None)` for g < 2 or
    when a value cannot be had.
    """
    g = len(leave_one_out)
    if g < 2 or not bool(torch.isfinite(leave_one_out).all()):
        return None, None
    return float(((g - 1) * leave_one_out.var(correction=0)).sqrt()), f"jackknife({g} groups)"


# --- eigenvalues ----------------------------------------------------------------------------------------------------


def eigenvalues(cloud: PointCloud) -> torch.Tensor:
    """Eigenvalues of the covariance, descending, `(min(n, d),)` float64; those below rounding are exactly 0."""
    matrix = _dual_gram(cloud) if cloud.n <= cloud.d else cloud.moments.scatter
    values = torch.linalg.eigvalsh(matrix).flip(0) / cloud.n
    floor = values[0] * len(values) * torch.finfo(torch.float64).eps
    return torch.where(values > floor, values, 0.0)


def _dual_gram(cloud: PointCloud) -> torch.Tensor:
    """Inner products of the centred rows, `(n, n)`: the same eigenvalues as the scatter, for n <= d."""
    rows = cloud.rows.to(torch.float64)
    rows = rows - rows.mean(0)
    return rows @ rows.T


def fold_spectra(cloud: PointCloud) -> torch.Tensor:
    """Eigenvalues with one fold left out each, the eigenvectors held fixed, `(folds, min(n, d))` float64.

    With the full cloud's eigenvectors v_i, the leave-one-out eigenvalue is the variance of the remaining rows along
    v_i: the derivative is exact, so the jackknife it serves is right to first order, at the cost of one product.
    """
    sums, squares, counts = _fold_sums(cloud.folds, scores(cloud))
    remaining = cloud.n - counts[:, None]
    variance = (squares.sum(0) - squares) / remaining - ((sums.sum(0) - sums) / remaining).square()
    return variance.clamp_min(0)


def scores(cloud: PointCloud) -> Iterator[torch.Tensor]:
    """Coordinates of the rows in the eigenbasis, blocks of `(b, min(n, d))`; float32 is enough for an error.

    A subset takes them from the cloud it was cut from: a nearby basis serves as well.
    """
    if cloud.origin:
        whole, keep = cloud.origin
        yield whole.scores[keep]
        return
    if cloud.n <= cloud.d:
        values, vectors = torch.linalg.eigh(_dual_gram(cloud))
        yield vectors * values.clamp_min(0).sqrt()
        return
    scatter = cloud.moments.scatter
    basis = torch.linalg.eigh((scatter / scatter.diagonal().sum()).to(torch.float32)).eigenvectors.T.contiguous()
    mean = cloud.moments.mean.to(cloud.rows.dtype)
    for block in cloud.rows.split(BLOCK_ROWS):
        yield times_transposed((block - mean).to(torch.float32), basis)


def _fold_sums(folds: torch.Tensor, blocks: Iterable[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Per fold: sum and sum of squares of the blocks' `(n, k)` values, and number of rows, in float64."""
    member = torch.nn.functional.one_hot(folds).T  # (folds, n)
    sums, squares, start = 0, 0, 0
    for block in blocks:
        part = member[:, start : start + len(block)].to(block.dtype)
        sums = sums + (part @ block).to(torch.float64)
        squares = squares + (part @ block.square()).to(torch.float64)
        start += len(block)
    return sums, squares, member.sum(1).to(torch.float64)


# --- the leading direction alone ------------------------------------------------------------------------------------


def _leading_direction(cloud: PointCloud) -> Estimate | None:
    """Anisotropy by Lanczos, or `None` when that does not converge."""
    rows, mean, norms = _well_centred(cloud.rows)
    squares = sum(block.square().sum(0).to(torch.float64) for block in rows.split(512))  # by column: like sizes add up
    total = float((squares - len(rows) * mean.square()).sum())
    direction = lanczos(rows, mean) if total > 0 else None
    if direction is None:
        return None
    along = (rows @ direction.to(rows.dtype)).to(torch.float64)
    along = along - along.mean()
    error, method = None, None
    if cloud.jackknife:
        error, method = jackknife(_fold_anisotropy(cloud.folds, along, norms, rows, mean))
    value = float(along.square().sum()) / total
    return Estimate("anisotropy", "razzhigaev", value, error, method, n=cloud.n)


def _well_centred(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows, the mean still to be subtracted, squared norms: a centred copy only where the offset would cost digits."""
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
        for _ in range(2):  # once loses orthogonality when rounding in the float32 products is large
            image = image - stacked.T @ (stacked @ image)
        off_diagonal.append(float(image.norm()))
        ritz, weights = _tridiagonal_eigh(diagonal, off_diagonal[:-1])
        if _converged(ritz, off_diagonal[-1] * abs(float(weights[-1]))):
            direction = stacked.T @ weights.to(rows.device)
            return direction / direction.norm()
        basis.append(image / off_diagonal[-1])
    return None


def _first_guess(rows: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """A unit vector to start from: the leading direction of every sixteenth row, or a random one."""
    if len(rows) > 4096:
        direction = lanczos(rows[::16].contiguous(), mean)
        if direction is not None:
            return direction
    start = torch.randn(rows.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (start / start.norm()).to(rows.device)


def _scatter_times(rows: torch.Tensor, mean: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """`(rows - mean)^T (rows - mean) vector` in two readings of the rows."""
    vector = vector.to(rows.dtype)
    along = rows @ vector - mean @ vector
    return (along @ rows - along.sum() * mean).to(torch.float64)


def _tridiagonal_eigh(diagonal: list[float], off_diagonal: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ascending eigenvalues of the symmetric tridiagonal matrix, and the eigenvector of the largest."""
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    side = torch.diag(torch.tensor(off_diagonal, dtype=torch.float64), 1) if off_diagonal else 0
    values, vectors = torch.linalg.eigh(matrix + side + (side.T if off_diagonal else 0))
    return values, vectors[:, -1]


def _converged(ritz: torch.Tensor, residual: float) -> bool:
    """Whether the largest Ritz value is within tolerance: its error is at most residual^2 / gap."""
    top = float(ritz[-1])
    if residual <= LANCZOS_TOLERANCE * top:
        return True
    gap = top - float(ritz[-2]) if len(ritz) > 1 else 0.0
    return gap > 0.01 * top and residual**2 <= LANCZOS_TOLERANCE * top * gap


def _fold_anisotropy(folds, along, norms, rows, mean) -> torch.Tensor:
    """Anisotropy with one fold left out each, `(folds,)`, the leading direction held fixed."""
    sums, squares, counts = _fold_sums(folds, [along[:, None]])
    remaining = len(along) - counts
    top = squares.sum() - squares[:, 0] - sums[:, 0].square() / remaining
    fold_sum, fold_norms = (
        torch.zeros(len(counts), *v.shape[1:], dtype=v.dtype, device=v.device) for v in (rows, norms)
    )
    fold_sum = fold_sum.index_add_(0, folds, rows).to(torch.float64)  # (folds, d)
    fold_norms = fold_norms.index_add_(0, folds, norms) - 2 * fold_sum @ mean + counts * mean.square().sum()
    drift = (fold_sum - counts[:, None] * mean).square().sum(1) / remaining
    return top / (fold_norms.sum() - fold_norms - drift)
