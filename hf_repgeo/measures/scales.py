"""Intrinsic dimension at larger scales: more neighbours (Levina-Bickel, Gride), fewer rows (decimation)."""

from __future__ import annotations

from functools import partial
from statistics import fmean
from typing import Any, NamedTuple

import torch

from ..errors import BadInput, UnknownName
from .cloud import PointCloud, first_occurrences
from .conventions import DENTI, FACCO, LEVINA, MACKAY
from .dimension import (
    MINIMUM_ROWS,
    copies_warning,
    folds_kept,
    intrinsic_dimension,
    shared_neighbors,
    ties_warning,
    too_few,
    underflow,
)
from .estimate import Estimate, jackknife, missing
from .inputs import check_count
from .kernels.neighbors import nearest
from .near_copies import without_near_copies
from .rounding import neighbor_loss

CONVENTIONS = (MACKAY, LEVINA)
LARGEST_RATIOS = 1.2  # scatter over documents / jackknife, where the largest ratios count: 1.0 to 1.4 in five layers
DECIDING_SHARE = 0.1  # of a mean over rows


def levina_bickel_of(distances: torch.Tensor, convention: str = MACKAY) -> torch.Tensor:
    """Maximum likelihood dimension from the distances to the k nearest neighbours, tensor to tensor, differentiable.

    With `m_i = sum_{j < k} log(T_ik / T_ij) / (k - 1)`: `1 / mean(m_i)` for `"mackay"`, `mean(1 / m_i)` for `"levina"`.

    Args:
        distances: `(n, k)` ascending, positive, k >= 2.
        convention: `"mackay"` or `"levina"`.

    Returns:
        0-d tensor, > 0; infinite when all distances of each row are equal.

    Source: Levina & Bickel, "Maximum likelihood estimation of intrinsic dimension" (2004), equation 8; MacKay &
    Ghahramani, "Comments on ..." (2005): the likelihood of all rows together averages inverses.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures.scales import levina_bickel_of
        >>> round(float(levina_bickel_of(torch.tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0]]))), 4)  # 2 / log 8
        0.9618
    """
    inverse = _inverse_dimension(distances)
    return 1 / inverse.mean() if convention == MACKAY else (1 / inverse).mean()


def _inverse_dimension(distances: torch.Tensor) -> torch.Tensor:
    logs = distances.log()
    return logs[:, -1] - logs[:, :-1].mean(1)


def levina_bickel_loss(rows: torch.Tensor, k: int = 20) -> torch.Tensor:
    """The Levina-Bickel dimension (MacKay & Ghahramani's average) of a batch, with a gradient; add it to a loss.

    Which rows are neighbours is decided exactly and held fixed; the gradient flows through their distances. Copies of
    rows are left out.

    Args:
        rows: `(n, d)` floating point, more than k of them distinct.
        k: neighbours of each row.

    Returns:
        0-d tensor.

    Raises:
        TooFewRows: k or fewer distinct rows.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures.scales import levina_bickel_loss
        >>> rows = torch.rand(200, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
        >>> levina_bickel_loss(rows).backward()
        >>> bool(torch.isfinite(rows.grad).all())
        True
    """
    fixed = rows.detach().to(torch.promote_types(rows.dtype, torch.float32))
    distinct = first_occurrences(fixed)
    neighbors = nearest(fixed[distinct], k).indices
    rows = rows[distinct].to(fixed.dtype)
    return levina_bickel_of(torch.linalg.vector_norm(rows[:, None] - rows[neighbors], dim=2))


def levina_bickel(cloud: PointCloud, k: int = 20, convention: str = MACKAY) -> Estimate:
    """Intrinsic dimension from k neighbours: less noisy than TwoNN, at a larger scale, more biased by curvature.

    Args:
        cloud: more than k and at least 20 distinct rows; each counts once.
        k: neighbours of each row, at least 2.
        convention: `"mackay"`, the likelihood of all rows together; `"levina"`, the mean of each row's estimate.

    Returns:
        Estimate: value > 0, with a jackknife error over `cloud.folds`, neighbours held fixed. Neighbourhoods overlap,
        so the true error is larger: by a tenth at k = 5, a third at k = 20. `None` as in `intrinsic_dimension`. Warns
        `one_row_decides` where one row makes up a tenth of the mean (`"levina"`).

    Raises:
        UnknownName: no such convention.
        BadInput: k is not a whole number of at least 2.

    Cost: O(n^2 d); memory n x d x k for a block of rows.

    Source: Levina & Bickel 2004, equation 8; MacKay & Ghahramani 2005.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud
        >>> from hf_repgeo.measures.scales import levina_bickel
        >>> plane = torch.rand(5000, 2, generator=torch.Generator().manual_seed(0)) @ torch.ones(2, 5).triu()
        >>> round(levina_bickel(PointCloud(plane)).value, 1)
        2.0
    """
    if convention not in CONVENTIONS:
        raise UnknownName("convention of levina_bickel", convention, CONVENTIONS)
    check_count("k", k, 2)
    return without_near_copies(cloud, partial(_levina_bickel, k=k, convention=convention))


def _levina_bickel(cloud: PointCloud, k: int, convention: str) -> Estimate:
    counts = {"n": cloud.n, "n_distinct": cloud.n_distinct}
    if cloud.n_distinct < max(MINIMUM_ROWS, k + 1):
        return missing("levina_bickel", convention, too_few(cloud, max(MINIMUM_ROWS, k + 1)), **counts)
    distances = _neighbor_distances(cloud, k)
    if not bool((distances[:, 0] > 0).all()):
        return missing("levina_bickel", convention, underflow(distances[:, 0]), **counts)
    value = float(levina_bickel_of(distances, convention))
    if not 0 < value < float("inf"):
        reason = f"all_ratios_one: the {k} nearest neighbours of a row are all at one distance, as on a grid"
        return missing("levina_bickel", convention, reason, **counts)
    kept = folds_kept(cloud, torch.arange(cloud.n_distinct, device=distances.device)).to(torch.float64)
    inverse = _inverse_dimension(distances)
    one_out = kept.sum(1) / (kept @ inverse) if convention == MACKAY else (kept @ (1 / inverse)) / kept.sum(1)
    error, method = jackknife(one_out) if cloud.jackknife else (None, None)
    return Estimate(
        "levina_bickel",
        convention,
        value,
        error,
        method,
        warnings=copies_warning(cloud) + neighbor_loss(cloud, distances[:, 0]) + _decided(inverse, convention),
        details={"k": k},
        left_out=one_out if cloud.jackknife else None,
        **counts,
    )


def _decided(inverse: torch.Tensor, convention: str) -> tuple[str, ...]:
    """A warning where one row makes up much of the mean: far from all others, it sees them at one distance."""
    share = float((1 / inverse).max() / (1 / inverse).sum()) if convention == LEVINA else 0.0
    if share <= DECIDING_SHARE:
        return ()
    return (f"one_row_decides: one of {len(inverse)} rows, far from all others, makes up {share:.0%} of the mean",)


def gride(cloud: PointCloud, n1: int = 1, n2: int = 2) -> Estimate:
    """Generalised ratios: the dimension at the scale of the n1-th and n2-th neighbour, by maximum likelihood.

    `mu = r_n2 / r_n1` has the density `d (mu^d - 1)^(n2 - n1 - 1) / (B(n2 - n1, n1) mu^((n2 - 1) d + 1))`.
    n1 = 1, 2, 4 ... with n2 = 2 n1 shows how the dimension depends on scale without thinning the rows. (1, 2) is TwoNN.

    Args:
        cloud: more than n2 and at least 20 distinct rows; each counts once.
        n1, n2: orders of the two neighbours, 1 <= n1 < n2.

    Returns:
        Estimate: value > 0; standard error from the observed Fisher information (`"likelihood"`), or over groups of
        rows by jackknife, plus a fifth, since the largest ratios differ most between documents. Both assume independent
        ratios, and a tenth is added. Ratios of 1 are left out (`n_ties` in the details). `None` as in
        `intrinsic_dimension`.

    Raises:
        BadInput: not 1 <= n1 < n2.

    Cost: O(n^2 d).

    Source: Denti, Doimo, Laio, Mira, "The generalized ratios intrinsic dimension estimator", Scientific Reports
    12:20005 (2022), the likelihood of a single pair (n1, n2); (N - 1) / d in place of N / d in the score, which makes
    (1, 2) unbiased.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud
        >>> from hf_repgeo.measures.scales import gride
        >>> plane = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0)) @ torch.ones(2, 5).triu()
        >>> round(gride(PointCloud(plane), 8, 16).value, 1)
        2.0
    """
    check_count("n1", n1, 1)
    check_count("n2", n2, 2)
    if not 1 <= n1 < n2:
        raise BadInput("n1", came=f"n1 = {n1}, n2 = {n2}", wanted="1 <= n1 < n2")
    return without_near_copies(cloud, partial(_gride, n1=n1, n2=n2))


def _gride(cloud: PointCloud, n1: int, n2: int) -> Estimate:
    fields: dict[str, Any] = {"n": cloud.n, "n_distinct": cloud.n_distinct, "details": {"n1": n1, "n2": n2}}
    if cloud.n_distinct < max(MINIMUM_ROWS, n2 + 1):
        return missing("gride", DENTI, too_few(cloud, max(MINIMUM_ROWS, n2 + 1)), **fields)
    distances = _neighbor_distances(cloud, n2)
    if not bool((distances[:, 0] > 0).all()):
        return missing("gride", DENTI, underflow(distances[:, 0]), **fields)
    log_mu = (distances[:, n2 - 1] / distances[:, n1 - 1]).log()
    n_ties = int((log_mu == 0).sum())
    fields["details"] |= {"n_ties": n_ties, "mean_distance": float(distances[:, n2 - 1].mean()) * cloud.unit}
    if len(log_mu) - n_ties < 2:
        reason = f"all_ratios_one: neighbours {n1} and {n2} of each row are at one distance, as on a grid"
        return missing("gride", DENTI, reason, **fields)
    value, alone = _generalised_ratios(log_mu[log_mu > 0], n1, n2)
    error: float | None = alone
    method: str | None = "likelihood"
    left_out: torch.Tensor | None = None
    if not cloud.rows_stand_alone:
        left_out = _gride_left_out(cloud, log_mu, n1, n2)
        error, method = jackknife(left_out)
        error = None if error is None else LARGEST_RATIOS * error
    error, method = shared_neighbors(error, method)
    warnings = copies_warning(cloud) + ties_warning(n_ties, len(log_mu)) + neighbor_loss(cloud, distances[:, 0])
    return Estimate("gride", DENTI, value, error, method, warnings=warnings, left_out=left_out, **fields)


def _gride_left_out(cloud: PointCloud, log_mu: torch.Tensor, n1: int, n2: int) -> torch.Tensor:
    """The value without each fold of the groups, `(folds,)`; none without a jackknife."""
    kept = folds_kept(cloud, torch.arange(len(log_mu), device=log_mu.device)) if cloud.jackknife else ()
    left = [log_mu[fold & (log_mu > 0)] for fold in kept]
    return torch.tensor([_generalised_ratios(part, n1, n2)[0] for part in left])


def _generalised_ratios(log_mu: torch.Tensor, n1: int, n2: int) -> tuple[float, float]:
    """The root of the score, which falls from infinity to below 0, by bisection; and 1 / sqrt(information) there."""
    n, between, total = len(log_mu), n2 - n1 - 1, float(log_mu.sum())

    def score(d: float) -> float:
        return (n - 1) / d - (n2 - 1) * total + between * float((-log_mu / torch.expm1(-d * log_mu)).sum())

    low, high = 0.0, 1.0
    while score(high) > 0:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if score(middle) > 0 else (low, middle)
    curvature = (log_mu / (2 * torch.sinh(high * log_mu / 2))).square().sum()
    return high, float((n / high**2 + between * curvature) ** -0.5)


class ScalePoint(NamedTuple):
    """TwoNN at one scale: subsets of `n` rows, whose first neighbours are `mean_distance` away on average."""

    n: int
    value: float
    standard_error: float | None
    mean_distance: float


def scale_curve(cloud: PointCloud, convention: str = FACCO, smallest: int = 256) -> list[ScalePoint]:
    """TwoNN by decimation: of all rows, their halves, quarters ...: the fewer the rows, the larger the scale.

    A dimension that does not depend on n is a property of the data; one that falls as n grows is noise at small
    scales, one that rises with n is curvature or a boundary.

    Args:
        cloud: rows; copies are left out first.
        convention: as in `intrinsic_dimension`.
        smallest: parts are halved as long as they keep this many rows.

    Returns:
        One point per scale, all rows first: the mean over the disjoint parts, and its standard error (the spread of the
        parts over the root of their number; for all rows that of the estimate). Empty when there is no estimate.

    Cost: at most twice that of one neighbour search.

    Source: Facco et al. 2017, section "ID estimation on data sets affected by noise": block analysis.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud
        >>> from hf_repgeo.measures.scales import scale_curve
        >>> cube = torch.rand(2048, 3, generator=torch.Generator().manual_seed(0))
        >>> [point.n for point in scale_curve(PointCloud(cube))]
        [2048, 1024, 512, 256]
    """
    if cloud.n_distinct < MINIMUM_ROWS:
        return []
    generator = torch.Generator().manual_seed(cloud.seed)
    parts = [cloud.subset(cloud.distinct)]
    points: list[ScalePoint] = []
    while True:
        estimates = [intrinsic_dimension(part, convention) for part in parts]
        estimates = [estimate for estimate in estimates if estimate.value is not None]
        if not estimates:
            return points
        points.append(_scale_point(parts[-1].n, estimates))
        if parts[-1].n < 2 * smallest:
            return points
        parts = [half for part in parts for half in _halves(part, generator)]


def _scale_point(n: int, estimates: list[Estimate]) -> ScalePoint:
    values = torch.tensor([estimate.value for estimate in estimates], dtype=torch.float64)
    error = float(values.std()) / len(values) ** 0.5 if len(values) > 1 else estimates[0].standard_error
    mean_distance = fmean(estimate.details["mean_r1"] for estimate in estimates)
    return ScalePoint(n, float(values.mean()), error, mean_distance)


def _halves(part: PointCloud, generator: torch.Generator) -> list[PointCloud]:
    order = torch.randperm(part.n, generator=generator).to(part.rows.device)
    return [part.subset(half) for half in order[: part.n // 2 * 2].chunk(2)]


def _neighbor_distances(cloud: PointCloud, k: int) -> torch.Tensor:
    """`(n_distinct, k)`; from the cloud's own search if that found enough neighbours."""
    neighbors = cloud.neighbors if k <= 2 else nearest(cloud.distinct_rows, k)
    return neighbors.distances[:, :k]
