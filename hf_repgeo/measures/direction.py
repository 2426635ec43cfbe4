"""Measures of the rows' directions: mean cosine, partition function, uniformity."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from .conventions import MU, OFF_DIAGONAL, WANG
from .estimate import Estimate, jackknife, missing
from .kernels.kmeans import cell_sums
from .kernels.products import BLOCK_ROWS, times_transposed
from .rounding import variance_loss

if TYPE_CHECKING:
    from .cloud import PointCloud

NEAR = 0.05  # mean squared distance from the mean direction


def mean_cosine_of(rows: torch.Tensor) -> torch.Tensor:
    """Mean cosine over all pairs of different rows, tensor to tensor; `(n, d)`, no row of zeros."""
    n = len(rows)
    unit_sum = (rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)).sum(0)
    return (unit_sum.square().sum() - n) / (n * (n - 1))


def mean_cosine(cloud: PointCloud) -> Estimate:
    """How much the rows point the same way, seen from the origin.

    The mean of `cos(x_i, x_j)` over all pairs of different rows, by the closed form `(|sum_i u_i|^2 - n) / (n (n - 1))`
    with the unit rows u_i: all pairs, none sampled. 0 for directions without preference, near 1 when the rows share a
    common offset. Unlike anisotropy it is not centred, so the two can disagree completely.

    Args:
        cloud: rows, n >= 2.

    Returns:
        Estimate: value in [-1 / (n - 1), 1]; `None` (`zero_rows`) when a row is all zeros and has no direction.

    Cost: O(n d).

    Source: Ethayarajh, "How contextual are contextualized word representations?" (2019), section 3.3.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud, mean_cosine
        >>> round(mean_cosine(PointCloud(torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]]))).value, 6)
        0.471405
    """
    norms = cloud.norms
    zeros = cloud.moments.zeros if cloud.streamed else int((norms == 0).sum())
    if zeros:
        reason = f"zero_rows: {zeros} of {cloud.n_seen} rows are all zeros and have no direction"
        return missing("mean_cosine", OFF_DIAGONAL, reason, n=cloud.n_seen)
    unit_sum = cloud.moments.unit_sum if cloud.streamed else _unit_sum(cloud.rows, norms)
    value = _pair_mean(unit_sum, torch.tensor(float(cloud.n_seen)))
    error, method, left_out = None, None, None
    if cloud.jackknife and not cloud.streamed:
        unit_rows = cloud.rows / norms[:, None].to(cloud.rows.dtype)
        sums, counts = cell_sums(unit_rows, cloud.folds, int(cloud.folds.max()) + 1)
        left_out = _pair_mean(unit_sum - sums, cloud.n - counts)
        error, method = jackknife(left_out)
        if error:
            error = max(error**2 - _second_order_variance(sums.to(torch.float64), counts), error**2 / 2) ** 0.5
    loss = variance_loss(cloud)  # of what the cosine lacks to 1, where rows share an offset
    return Estimate("mean_cosine", OFF_DIAGONAL, float(value), error, method, cloud.n_seen, None, loss, {}, left_out)


def _second_order_variance(sums: torch.Tensor, counts: torch.Tensor) -> float:
    """`2 tr(C^2) / n^2`, C the covariance of unit rows, from the sums of the jackknife's folds, `(folds, d)`.

    Without a preferred direction this is the whole variance, and the jackknife counts it twice (see `spectral_errors`).
    Sums of two folds are independent, so their squared product has the mean `n_g n_h tr(C^2)`.
    """
    n, folds = counts.sum(), len(counts)
    apart = sums - counts[:, None] * sums.sum(0) / n
    squared = (apart @ apart.T).square() / torch.outer(counts, counts)
    trace = (squared.sum() - squared.diagonal().sum()) / (folds * (folds - 1)) if folds > 1 else squared.sum()
    return float(2 * trace / n**2)


def _unit_sum(rows: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    """Sum of the unit rows, `(d,)` float64."""
    parts = zip(rows.split(512), norms.split(512))  # small blocks, whose float64 copies stay in the cache
    return sum((1 / lengths) @ part.to(torch.float64) for part, lengths in parts)


def _pair_mean(unit_sum: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    return (unit_sum.square().sum(-1) - n) / (n * (n - 1))


def partition_function_of(rows: torch.Tensor) -> torch.Tensor:
    """`min_c Z(c) / max_c Z(c)`, `Z(c) = sum_i exp<c, x_i>`, over plus and minus the eigenvectors of `rows^T rows`."""
    scaled = rows / rows.detach().abs().amax()  # so that squares neither vanish nor overflow
    vectors = torch.linalg.eigh(scaled.T @ scaled).eigenvectors  # columns; the gradient wants distinct eigenvalues
    products = rows @ vectors
    log_z = torch.cat([products.logsumexp(0), (-products).logsumexp(0)])
    return (log_z.amin() - log_z.amax()).exp()


def partition_function(cloud: PointCloud) -> Estimate:
    """Whether a softmax treats all directions alike (isotropy I(V)).

    `min_c Z(c) / max_c Z(c)` with `Z(c) = sum_i exp<c, x_i>` over the unit eigenvectors c of X^T X and their opposites,
    in logarithms, so that nothing overflows. It depends on the rows' scale; on long rows it is 0 to any digit.

    Args:
        cloud: rows, n >= 2.

    Returns:
        Estimate: value in [0, 1], 1 for perfect isotropy; `details["log"]` is its logarithm, which stays readable.

    Cost: O(n d^2 + d^3); with fewer rows than columns O(n^2 d).

    Source: Mu, Viswanath, "All-but-the-top" (2018), equation 2; Arora et al. (2016).

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud, partition_function
        >>> partition_function(PointCloud(torch.cat([torch.eye(3), -torch.eye(3)]))).value
        1.0
    """
    products = _products(cloud) * cloud.unit
    log_z = torch.cat([products.logsumexp(0), (-products).logsumexp(0)])
    if cloud.n < cloud.d:  # directions orthogonal to all rows, where Z is n
        log_z = torch.cat([log_z, log_z.new_tensor([math.log(cloud.n)])])
    log = float(log_z.amin() - log_z.amax())
    return Estimate("partition_function", MU, math.exp(log), n=cloud.n, details={"log": log})


def _products(cloud: PointCloud) -> torch.Tensor:
    """Inner products of the rows with those eigenvectors of X^T X that they span, `(n, min(n, d))` float64."""
    rows = cloud.rows.to(torch.float64)
    if cloud.n < cloud.d:
        left, singular, _ = torch.linalg.svd(rows, full_matrices=False)
        return left * singular
    gram_matrix = cloud.moments.scatter + cloud.n * torch.outer(cloud.moments.mean, cloud.moments.mean)
    return rows @ torch.linalg.eigh(gram_matrix).eigenvectors


def uniformity_of(rows: torch.Tensor, temperature: float = 2.0) -> torch.Tensor:
    """`log mean exp(-t |u_i - u_j|^2)` over all pairs of different unit rows, tensor to tensor."""
    unit = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    squared = torch.nn.functional.pdist(unit).square()
    return (-temperature * squared).logsumexp(0) - math.log(len(squared))


def uniformity(cloud: PointCloud) -> Estimate:
    """How evenly the rows' directions cover the sphere.

    `log mean_{i < j} exp(-2 |u_i - u_j|^2)` with the unit rows u_i, over all pairs. 0 when all directions coincide; -4
    is about the smallest value in high dimension (all pairs at right angles).

    Args:
        cloud: rows, n >= 2.

    Returns:
        Estimate: value in [-8, 0]; `None` (`zero_rows`) when a row is all zeros and has no direction.

    Cost: O(n^2 d), in blocks.

    Source: Wang, Isola, "Understanding contrastive representation learning" (2020), equation 2, with t = 2.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud, uniformity
        >>> round(uniformity(PointCloud(torch.eye(5))).value, 6)
        -4.0
    """
    norms = cloud.norms[:, None]
    if bool((norms == 0).any()):
        reason = f"zero_rows: {int((norms == 0).sum())} of {cloud.n} rows are all zeros and have no direction"
        return missing("uniformity", WANG, reason, n=cloud.n)
    value = _log_mean_kernel(_centred_units(cloud.rows, norms))
    return Estimate("uniformity", WANG, value, n=cloud.n, warnings=variance_loss(cloud))


def _centred_units(rows: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    """Unit rows minus their mean, in the rows' dtype, so that a common direction costs distances no precision."""
    mean = _unit_sum(rows, norms[:, 0]) / len(rows)
    blocks = zip(rows.split(BLOCK_ROWS), norms.split(BLOCK_ROWS), strict=True)
    return torch.cat([(block.to(torch.float64) / lengths - mean).to(rows.dtype) for block, lengths in blocks])


def _log_mean_kernel(units: torch.Tensor) -> float:
    """`log mean exp(-2 |u - v|^2)` over pairs of different rows; of near rows by expm1, to keep digits."""
    n, squares = len(units), units.square().sum(1)
    near = float(squares.mean()) < NEAR
    total, blocks = 0.0, list(zip(units.split(BLOCK_ROWS), squares.split(BLOCK_ROWS), strict=True))
    for i, (a, a_squares) in enumerate(blocks):
        for j, (b, b_squares) in enumerate(blocks[i:]):
            exponent = 4 * times_transposed(a, b) - 2 * a_squares[:, None] - 2 * b_squares
            kernel = exponent.clamp_max_(0).expm1_() if near else exponent.clamp_max_(0).exp_()
            if j == 0:
                kernel.fill_diagonal_(0)
            total += float(kernel.sum(dtype=torch.float64)) * (1 if j == 0 else 2)
    mean = total / (n * (n - 1))
    return math.log1p(mean) if near else math.log(mean)
