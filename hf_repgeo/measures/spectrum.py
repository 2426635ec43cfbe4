"""Measures of the covariance's eigenvalues: anisotropy, effective rank, participation ratio, IsoScore.

The functions ending in `_of` map eigenvalues to a number, tensor to tensor, and are differentiable; the others take a
`PointCloud` and return an `Estimate`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from ..errors import BadInput
from .conventions import EIGENVALUES, RAZZHIGAEV, ROY_VETTERLI, RUDMAN
from .eigen import fold_sums, lanczos, leading_share, well_centred
from .estimate import Estimate, jackknife, missing
from .rounding import spectral_loss, variance_loss
from .spectral_errors import spectral_error, with_heavy_tails

if TYPE_CHECKING:
    from .cloud import PointCloud
    from .moments import Moments

ROUNDING = 1e-6  # of the squares: what may remain of equal rows when their mean is subtracted
NO_SPREAD = "no_spread: all rows are equal, so there is no variance to share out"


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
        Estimate: value in [1 / min(n - 1, d), 1]; right to about 1e-9, in rows of at most 32 bits to about 1e-7. The
        standard error leaves out one group of rows at a time with the leading direction held fixed. Value `None` when
        all rows are equal (`no_spread`).

    Cost: a dozen products of the rows with a vector (Lanczos), O(n d); none if the spectrum is there already.

    Source: Razzhigaev et al., "The Shape of Learning" (2024), section 3.1.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud, anisotropy
        >>> X = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> anisotropy(PointCloud(X)).value
        0.9
    """
    if not cloud.streamed and "spectrum" not in cloud.__dict__:
        estimate = _leading_direction(cloud)
        if estimate is not None:  # else the spectrum is flat or there is no spread: the full decomposition decides
            return estimate.warned(*variance_loss(cloud))
    return spectral(cloud, "anisotropy", RAZZHIGAEV, anisotropy_of, counts_rank=False)


def anisotropy_of_moments(moments: Moments, argument: str = "moments") -> Estimate:
    """Anisotropy from the moments of rows alone.

    Args:
        moments: of at least two rows.
        argument: the name of the rows in error messages.

    Returns:
        Estimate: as that of `anisotropy`, without a standard error, which would need the rows.

    Raises:
        BadInput: the rows' squares overflow.

    Cost: a dozen products of the scatter with a vector (Lanczos), O(d^2).

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import Moments
        >>> from hf_repgeo.measures.spectrum import anisotropy_of_moments
        >>> X = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> anisotropy_of_moments(Moments.of(X)).value
        0.9
    """
    total = float(moments.scatter.trace())
    if not total < float("inf"):
        raise BadInput(argument, came="rows whose squares overflow", wanted="smaller numbers", cure="Divide them.")
    rounding = moments.count * float(moments.mean.square().sum()) * torch.finfo(torch.float64).eps ** 2
    if total <= 4 * rounding:
        return missing("anisotropy", RAZZHIGAEV, NO_SPREAD, n=moments.count)
    return Estimate("anisotropy", RAZZHIGAEV, leading_share(moments.scatter), n=moments.count)


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
    return spectral(cloud, "effective_rank", ROY_VETTERLI, effective_rank_of)


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
    return spectral(cloud, "participation_ratio", EIGENVALUES, participation_ratio_of, counts_rank=False)


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
        return missing("iso_score", RUDMAN, "one_dimension: one column has nothing to be even about", n=cloud.n_seen)
    estimate = spectral(cloud, "iso_score", RUDMAN, lambda values: iso_score_of(values, cloud.d), counts_rank=False)
    return estimate if estimate.value is None or cloud.n_seen > cloud.d else estimate.warned(_rank_limited(cloud))


def _rank_limited(cloud: PointCloud) -> str:
    return f"rank_limited: {cloud.n_seen} rows cannot spread over {cloud.d} columns"


def spectral(
    cloud: PointCloud, measure: str, convention: str, function: Callable, counts_rank: bool = True
) -> Estimate:
    """`function` of the cloud's eigenvalues, with its standard error; `counts_rank` as in `spectral_error`."""
    if not float(cloud.spectrum.sum()) > 0:
        return missing(measure, convention, NO_SPREAD, n=cloud.n_seen)
    error: float | None = None
    method: str | None = None
    doubts: tuple[str, ...] = ()
    left_out: torch.Tensor | None = None
    if cloud.jackknife and not cloud.streamed:  # a stream's error would need all of its rows
        error, method, doubts, left_out = spectral_error(cloud, function, counts_rank)
    value = float(function(cloud.spectrum))
    warnings = spectral_loss(cloud, value, function) + doubts
    return Estimate(measure, convention, value, error, method, n=cloud.n_seen, warnings=warnings, left_out=left_out)


def _leading_direction(cloud: PointCloud) -> Estimate | None:
    """Anisotropy by Lanczos, or `None` when that does not converge."""
    rows, mean, norms = well_centred(cloud.rows)
    squares = sum(block.square().sum(0).to(torch.float64) for block in rows.split(512))  # by column: like sizes add up
    total = float((squares - len(rows) * mean.square()).sum())
    direction = lanczos(rows, mean) if total > ROUNDING * float(squares.sum()) else None
    if direction is None:
        return None
    along = (rows @ direction.to(rows.dtype)).to(torch.float64)
    along = along - along.mean()
    error: float | None = None
    method: str | None = None
    doubts: tuple[str, ...] = ()
    left_out: torch.Tensor | None = None
    if cloud.jackknife:
        left_out = _fold_anisotropy(cloud.folds, along, norms, rows, mean)
        error, method = jackknife(left_out)
    if error and method is not None:
        method, doubts = with_heavy_tails(cloud, method)
    value = float(along.square().sum()) / total
    return Estimate("anisotropy", RAZZHIGAEV, value, error, method, n=cloud.n, warnings=doubts, left_out=left_out)


def _fold_anisotropy(
    folds: torch.Tensor, along: torch.Tensor, norms: torch.Tensor, rows: torch.Tensor, mean: torch.Tensor
) -> torch.Tensor:
    """Anisotropy with one fold left out each, `(folds,)`, the leading direction held fixed."""
    sums, squares, counts = fold_sums(folds, [along[:, None]])
    remaining = len(along) - counts
    top = squares.sum() - squares[:, 0] - sums[:, 0].square() / remaining
    fold_sum, fold_norms = (
        torch.zeros(len(counts), *v.shape[1:], dtype=v.dtype, device=v.device) for v in (rows, norms)
    )
    fold_sum = fold_sum.index_add_(0, folds, rows).to(torch.float64)  # (folds, d)
    fold_norms = fold_norms.index_add_(0, folds, norms) - 2 * fold_sum @ mean + counts * mean.square().sum()
    drift = (fold_sum - counts[:, None] * mean).square().sum(1) / remaining
    return top / (fold_norms.sum() - fold_norms - drift)
