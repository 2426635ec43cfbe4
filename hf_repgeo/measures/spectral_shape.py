"""Further functions of the same eigenvalues: EEE, RankMe, stable rank, entropy, power law, IsoScore*; and VRM.

As in `spectrum.py`, functions ending in `_of` are differentiable, tensor to tensor; the others make an `Estimate`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import torch

from ..errors import UnknownName
from .conventions import AGRAWAL, AGRAWAL_CODE, CENTRED, GARRIDO, IDENTITY, MARBUT, MARBUT_CODE, VON_NEUMANN
from .estimate import Estimate, missing
from .rounding import spectral_loss, variance_loss
from .spectrum import NO_SPREAD, iso_score_of, spectral

if TYPE_CHECKING:
    from .cloud import PointCloud

POWER_LAW_RANKS = {AGRAWAL: (11, 50), AGRAWAL_CODE: (4, 100)}
RANK_ME_EPSILON = 1e-7
COPIES_SHARE = 0.01
SHRINKAGE = 0.2


# --- from eigenvalues to a number -----------------------------------------------------------------------------------


def early_enrichment_of(eigenvalues: torch.Tensor) -> torch.Tensor:
    """Area between the cumulative shares of the `(..., k)` eigenvalues, largest first, and the diagonal, over k / 2."""
    k = eigenvalues.shape[-1]
    ordered = eigenvalues.sort(-1, descending=True).values
    diagonal = torch.arange(1, k + 1, dtype=ordered.dtype, device=ordered.device) / k
    above = ordered.cumsum(-1) / ordered.sum(-1, keepdim=True) - diagonal
    return 2 / k * (above.sum(-1) - above[..., 0] / 2)


def stable_rank_of(eigenvalues: torch.Tensor) -> torch.Tensor:
    """Sum of the eigenvalues over the largest."""
    return eigenvalues.sum(-1) / eigenvalues.amax(-1)


def spectral_entropy_of(eigenvalues: torch.Tensor) -> torch.Tensor:
    """`-sum p log p` in nats, `p` the eigenvalues over their sum."""
    return torch.special.entr(eigenvalues / eigenvalues.sum(-1, keepdim=True)).sum(-1)


def power_law_exponent_of(eigenvalues: torch.Tensor, convention: str = AGRAWAL) -> torch.Tensor:
    """Minus the slope of log eigenvalue on log rank by least squares; `"agrawal_code"` weighs rank i by 1 / i."""
    first, last = POWER_LAW_RANKS[convention]
    ordered = eigenvalues.sort(-1, descending=True).values[..., first - 1 : last]
    rank = torch.arange(first, first + ordered.shape[-1], dtype=ordered.dtype, device=ordered.device)
    weight = 1 / rank if convention == AGRAWAL_CODE else torch.ones_like(rank)
    x = rank.log() - (weight * rank.log()).sum() / weight.sum()
    return -(ordered.log() * weight * x).sum(-1) / (weight * x.square()).sum()


def iso_score_star_of(eigenvalues: torch.Tensor, d: int, shrinkage: float = SHRINKAGE) -> torch.Tensor:
    """IsoScore of the covariance shrunk towards `trace / d` times the identity."""
    missing_ones = d - eigenvalues.shape[-1]
    full = torch.nn.functional.pad(eigenvalues, (0, missing_ones)) if missing_ones else eigenvalues
    return iso_score_of((1 - shrinkage) * full + shrinkage * full.mean(-1, keepdim=True), d)


# --- from a cloud to an estimate ------------------------------------------------------------------------------------


def early_enrichment(cloud: PointCloud) -> Estimate:
    """How much sooner the variance is used up than it would be by equal directions (eigenvalue early enrichment, EEE).

    The area between the cumulative share of the eigenvalues, largest first, and the diagonal, divided by k / 2, with
    `k = min(n, d)`: `(2 / k) (sum_i (C_i - i / k) - (C_1 - 1 / k) / 2)`. 0 when all eigenvalues are equal; a single
    direction gives `((k - 1) / k)^2`. (Beware of descriptions that have it the other way round.)

    Args:
        cloud: rows, n >= 2.

    Returns:
        Estimate: value in [0, 1); `None` when all rows are equal (`no_spread`).

    Cost: O(n d^2 + d^3), shared with all spectral measures.

    Source: Marbut, McKinney-Bock, Wheeler, "Reliable measures of spread in high dimensional latent spaces" (2023).

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud, early_enrichment
        >>> X = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> round(early_enrichment(PointCloud(X)).value, 6)
        0.2
    """
    return spectral(cloud, "early_enrichment", MARBUT, early_enrichment_of)


def rank_me(cloud: PointCloud) -> Estimate:
    """Effective rank with the mean left in (RankMe).

    `exp(-sum p_i log p_i)`, `p_i = sigma_i / sum sigma + 1e-7` with the singular values of the rows as they are, not
    centred: a shared offset counts as a direction and lowers it.

    Args:
        cloud: rows, n >= 2.

    Returns:
        Estimate: value in [1, min(n, d)], up to the 1e-7; `None` when all rows are zero (`no_spread`).

    Cost: one more O(d^3) beside the shared spectrum; with fewer rows than columns O(n^2 d).

    Source: Garrido et al., "RankMe" (2023), equation 1.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud, rank_me
        >>> round(rank_me(PointCloud(torch.eye(3))).value, 4)
        3.0
    """
    values = _raw_eigenvalues(cloud)
    if not float(values.sum()) > 0:
        return missing("rank_me", GARRIDO, "no_spread: all rows are zero", n=cloud.n)
    value = float(_rank_me_of(values))
    return Estimate(
        "rank_me", GARRIDO, value, n=cloud.n_seen, warnings=spectral_loss(cloud, value, _rank_me_of, values)
    )


def _rank_me_of(eigenvalues: torch.Tensor) -> torch.Tensor:
    """RankMe of the eigenvalues of X^T X, `(k,)` in any order; those below rounding count as 0."""
    least = eigenvalues.max() * len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps
    singular = torch.where(eigenvalues > least, eigenvalues, 0.0).sqrt()
    return torch.exp(torch.special.entr(singular / singular.sum() + RANK_ME_EPSILON).sum())


def _raw_eigenvalues(cloud: PointCloud) -> torch.Tensor:
    """Eigenvalues of X^T X / n, the mean left in, ascending, `(min(n, d),)` float64."""
    if cloud.n_seen < cloud.d and not cloud.streamed:
        return torch.linalg.svdvals(cloud.rows.to(torch.float64)).flip(0).square() / cloud.n
    mean, covariance = cloud.moments.mean, cloud.moments.scatter / cloud.n_seen
    values = torch.linalg.eigvalsh(covariance + torch.outer(mean, mean))
    return values[-min(cloud.n_seen, cloud.d) :].clamp_min(0)


def stable_rank(cloud: PointCloud) -> Estimate:
    """How many times the leading direction's variance the whole variance is: `sum lambda_i / lambda_1`.

    Args:
        cloud: rows, n >= 2.

    Returns:
        Estimate: value in [1, min(n - 1, d)], the inverse of anisotropy; `None` when all rows are equal (`no_spread`).

    Cost: O(n d^2 + d^3), shared with all spectral measures.

    Source: Rudelson, Vershynin, "Sampling from large matrices" (2007), on the centred rows.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud, stable_rank
        >>> X = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> round(stable_rank(PointCloud(X)).value, 6)
        1.111111
    """
    return spectral(cloud, "stable_rank", CENTRED, stable_rank_of, counts_rank=False)


def spectral_entropy(cloud: PointCloud) -> Estimate:
    """Entropy of the shares of variance, in nats: `-sum p_i log p_i`, `p_i = lambda_i / sum lambda`.

    Args:
        cloud: rows, n >= 2.

    Returns:
        Estimate: value in [0, log min(n - 1, d)]; `None` when all rows are equal (`no_spread`).

    Cost: O(n d^2 + d^3), shared with all spectral measures.

    Source: von Neumann's entropy of the trace-normalised covariance.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud, spectral_entropy
        >>> round(spectral_entropy(PointCloud(torch.cat([torch.eye(2), -torch.eye(2)]))).value, 6)
        0.693147
    """
    return spectral(cloud, "spectral_entropy", VON_NEUMANN, spectral_entropy_of)


def power_law_exponent(cloud: PointCloud, convention: str = AGRAWAL) -> Estimate:
    """How fast the eigenvalues fall: alpha in `lambda_i ~ i^(-alpha)` (alpha-ReQ).

    About 1 is the slowest fall at which a code can be smooth (Stringer et al. 2019); noise of n >> d rows gives 0. It
    does not tell whether a power law fits.

    Args:
        cloud: rows, more than 50 of them, with more than 50 columns; more than 100 for `"agrawal_code"`.
        convention: `"agrawal"`, a line through ranks 11 to 50; `"agrawal_code"`, the fit of the released code, ranks 4
            to 100 with the weight 1 / rank, in which the first ranks decide.

    Returns:
        Estimate: value >= 0; `None` (`too_few_eigenvalues`) when fewer than 50 (100) eigenvalues are above rounding.

    Raises:
        UnknownName: no such convention.

    Cost: O(n d^2 + d^3), shared with all spectral measures.

    Source: Agrawal et al., "alpha-ReQ" (2022), section 3; ranks as in Stringer et al. 2019, whose code has the weights.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures.spectral_shape import power_law_exponent_of
        >>> round(float(power_law_exponent_of(torch.arange(1.0, 101.0).double() ** -0.8)), 6)
        0.8
    """
    if convention not in POWER_LAW_RANKS:
        raise UnknownName("convention of power_law_exponent", convention, POWER_LAW_RANKS)
    positive, last = int((cloud.spectrum > 0).sum()), POWER_LAW_RANKS[convention][1]
    if positive < last:
        reason = f"too_few_eigenvalues: {positive} above rounding, where the fit needs {last}"
        return missing("power_law_exponent", convention, reason, n=cloud.n)
    return spectral(cloud, "power_law_exponent", convention, partial(power_law_exponent_of, convention=convention))


def iso_score_star(cloud: PointCloud) -> Estimate:
    """IsoScore of a covariance shrunk by a fifth towards the identity, stabler when rows are few.

    `IsoScore((1 - z) C + z trace(C) / d I)` with z = 0.2. The original shrinks towards the covariance of a larger
    sample; without one, it is replaced by the identity of equal trace, which raises the score.

    Args:
        cloud: rows, n >= 2.

    Returns:
        Estimate: value in [0, 1]; `None` when all rows are equal (`no_spread`) or d = 1 (`one_dimension`).

    Cost: O(n d^2 + d^3), shared with all spectral measures.

    Source: Rudman, Eickhoff, "Stable anisotropic regularization" (2024), definition 4.1.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud, iso_score_star
        >>> X = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> round(iso_score_star(PointCloud(X)).value, 6)
        0.418842
    """
    if cloud.d == 1:
        return missing("iso_score_star", IDENTITY, "one_dimension: one column cannot be uneven", n=cloud.n)
    return spectral(cloud, "iso_score_star", IDENTITY, lambda values: iso_score_star_of(values, cloud.d))


# --- VRM ------------------------------------------------------------------------------------------------------------


def vasicek_mse(cloud: PointCloud, convention: str = MARBUT) -> Estimate:
    """How far the spread along each principal axis is from a standard normal's (Vasicek ratio mean squared error, VRM).

    Principal coordinates are scaled to total variance d. The differential entropy H_j of each gives the ratio
    `r_j = exp(H_j) / sqrt(2 pi e)`, which is 1 for a standard normal; the value is `mean_j (1 - r_j)^2`. The original
    scales by the variance of a random normal sample, this by its expectation, which makes the value deterministic.

    Args:
        cloud: rows, n >= 11.
        convention: `"marbut"`, the mean over the min(n, d) axes that exist; `"marbut_code"`, their sum over d, as
            in the released code. They are the same from n = d on; below, the code's is smaller by n / d.

    Returns:
        Estimate: value >= 0; `None` when all rows are equal (`no_spread`) or n < 11 (`too_few_rows`). Warns
        `duplicates`: the entropy of copies is minus infinity, or what rounding makes of it.

    Raises:
        UnknownName: no such convention.

    Cost: O(n d^2 + d^3 + d n log n), memory for the principal coordinates.

    Source: Marbut, McKinney-Bock, Wheeler, "Reliable measures of spread in high dimensional latent spaces" (2023); the
    entropy by Vasicek (1976) for n > 1000, corrected at the ends by Ebrahimi et al. (1994) below.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud, vasicek_mse
        >>> X = torch.randn(5000, 4, generator=torch.Generator().manual_seed(0))
        >>> vasicek_mse(PointCloud(X)).value < 0.002
        True
    """
    if convention not in (MARBUT, MARBUT_CODE):
        raise UnknownName("convention of vasicek_mse", convention, (MARBUT, MARBUT_CODE))
    if cloud.n < 11:
        return missing("vasicek_mse", convention, f"too_few_rows: {cloud.n}, where 11 are needed", n=cloud.n)
    if not float(cloud.spectrum.sum()) > 0:
        return missing("vasicek_mse", convention, NO_SPREAD, n=cloud.n)
    squares = (1 - cloud.once(_entropy_ratios)).square()
    value = squares.mean() if convention == MARBUT else squares.sum() / cloud.d
    warnings = variance_loss(cloud)
    if cloud.n_distinct < (1 - COPIES_SHARE) * cloud.n:
        said = f"{cloud.n - cloud.n_distinct} of {cloud.n} rows are copies, between which the entropy sees no spacing"
        warnings += (f"duplicates: {said}",)
    return Estimate("vasicek_mse", convention, float(value), n=cloud.n, warnings=warnings)


def _entropy_ratios(cloud: PointCloud) -> torch.Tensor:
    """`exp(H_j) / sqrt(2 pi e)` along each principal axis, `(min(n, d),)`; the rows scaled to total variance d."""
    scale, normal = math.sqrt(cloud.d / float(cloud.spectrum.sum())), 0.5 * math.log(2 * math.pi * math.e)
    blocks = _principal_coordinates(cloud)
    return torch.cat([(differential_entropy(block * scale) - normal).exp() for block in blocks])


def _principal_coordinates(cloud: PointCloud) -> Iterator[torch.Tensor]:
    """Columns of the rows' principal coordinates in float64, up to 64 at a time."""
    rows = cloud.rows.to(torch.float64) - cloud.moments.mean
    vectors = torch.linalg.svd(rows, full_matrices=False).Vh.T if cloud.n <= cloud.d else _eigenvectors(cloud)
    return (rows @ block for block in vectors.split(64, dim=1))


def _eigenvectors(cloud: PointCloud) -> torch.Tensor:
    return torch.linalg.eigh(cloud.moments.scatter).eigenvectors


def differential_entropy(columns: torch.Tensor) -> torch.Tensor:
    """Entropy of each column of `(n, k)` from its spacings, in nats, `(k,)`; -inf where values repeat."""
    n = len(columns)
    m = int(math.sqrt(n) + 0.5)
    ordered = columns.sort(0).values
    padded = torch.cat([ordered[:1].expand(m, -1), ordered, ordered[-1:].expand(m, -1)])
    spacing = padded[2 * m :] - padded[: -2 * m]
    weight = torch.full((n,), 2.0, dtype=columns.dtype, device=columns.device)
    if n <= 1000:
        ends = 1 + torch.arange(m, dtype=columns.dtype, device=columns.device) / m
        weight[:m], weight[-m:] = ends, ends.flip(0)
    return (n / (weight[:, None] * m) * spacing).log().mean(0)
