"""Intrinsic dimension from the distances of each row to its nearest neighbours.

TwoNN: Facco, d'Errico, Rodriguez, Laio, "Estimating the intrinsic dimension of datasets by a minimal neighborhood
information", Scientific Reports 7:12140 (2017). Where the density hardly changes over the two nearest neighbours, the
ratio of their distances `mu = r2 / r1` follows a Pareto law, `P(mu > t) = t^-d`, whatever the density is: `log mu` is
exponential with rate d.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch

from ..errors import UnknownName
from .ball import ball_dimension
from .cloud import PointCloud
from .conventions import BALL, FACCO, MLE, RAZZHIGAEV
from .estimate import Estimate, jackknife, missing
from .near_copies import without_near_copies
from .rounding import neighbor_loss

MINIMUM_ROWS = 20  # with fewer usable ratios no convention gives a value
SHARED_NEIGHBORS = 1.1  # true scatter over that of independent ratios: 0.9 to 1.3 over clouds and real rows
USED_SHARE = 0.9  # of the ratios, the smallest; a changing density affects the largest tenth most (Facco et al.)
AUTHORS_SHARE = 5  # the authors of "The Shape of Learning" use the smallest fifth
FEW_RATIOS = 50  # fewer, and the estimate scatters by more than a seventh
AUTHORS_EPSILON = 1e-8  # below it they call a distance zero, and a ratio one


# --- pure functions on the logarithms of the ratios -------------------------------------------------------------------


def two_nn_line(log_mu: torch.Tensor, kept: torch.Tensor | None = None) -> torch.Tensor:
    """TwoNN by a line through the origin: `-log(1 - F)` on `log mu`, for the smallest 90 % of N ratios, F = rank / N.

    Args:
        log_mu: `(N,)` float64, ascending.
        kept: `(g, N)` bool: g selections of the ratios to fit, each by itself. Default: all, once.

    Returns:
        `(g,)` float64 slopes; infinite or NaN where every ratio that is used is 1.

    Source: Facco et al. 2017, section "A Two Nearest Neighbors estimator", steps 1 to 6; discarding 10 %: ibidem.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures.dimension import two_nn_line
        >>> rank = torch.arange(1, 101, dtype=torch.float64)
        >>> log_mu = -torch.log1p(-rank.clamp(max=99) / 100) / 3  # quantiles of ratios in 3 dimensions
        >>> round(float(two_nn_line(log_mu)), 6)
        3.0
    """
    kept = _all(log_mu) if kept is None else kept
    n = kept.sum(1)
    return _slope(log_mu, kept, first=torch.zeros_like(n), last=(n * USED_SHARE).long())


def two_nn_authors(log_mu: torch.Tensor, removed: int, kept: torch.Tensor | None = None) -> torch.Tensor:
    """TwoNN as the authors of "The Shape of Learning" compute it: the smallest fifth of the ratios, and a shifted F.

    Ratios of 1 and rows with r1 = 0 are left out of the fit but counted in F: the i-th of the rest has
    `F = (i + removed) / N`. So copies among the rows raise the value, by much: the authors' code gives 62.5 for a
    manifold of dimension 10 in which one row in five has a copy.

    Args:
        log_mu: `(N,)` float64, ascending, the first `removed` of them to be left out of the fit.
        removed: how many are left out.
        kept: `(g, N)` bool, as in `two_nn_line`.

    Returns:
        `(g,)` float64.

    Source: github.com/AIRI-Institute/LLM-Microscope, restated; the paper (Razzhigaev et al. 2024, section 3.2) prints
    `1 - F` for `-log(1 - F)` and names no share.
    """
    kept = _all(log_mu) if kept is None else kept
    first = kept[:, :removed].sum(1)
    n_left = kept.sum(1) - first
    return _slope(log_mu, kept, first, last=first + torch.minimum(n_left // AUTHORS_SHARE, n_left - 1))


def two_nn_likelihood(log_mu: torch.Tensor) -> tuple[torch.Tensor, int]:
    """TwoNN by maximum likelihood, the largest 10 % of the N ratios censored; and how many were used; NaN of none.

    `d = (m - 1) / (sum_{i <= m} log mu_i + (N - m) log mu_m)` with m = 0.9 N: the m smallest values of an exponential
    law are seen, of the rest only that they are larger (type II censoring). m - 1 in place of m makes it unbiased; its
    standard error is d / sqrt(m).

    Args:
        log_mu: `(N,)` float64, ascending.

    Source: Epstein & Sobel, "Life testing" (1953), on Facco et al. 2017, equation 2.
    """
    n_used = int(len(log_mu) * USED_SHARE)
    if n_used < 1:  # one group has nearly all rows, and is left out
        return torch.full((), torch.nan, dtype=torch.float64), n_used
    exposure = log_mu[:n_used].sum() + (len(log_mu) - n_used) * log_mu[n_used - 1]
    return (n_used - 1) / exposure, n_used


def _all(log_mu: torch.Tensor) -> torch.Tensor:
    return torch.ones(1, len(log_mu), dtype=torch.bool, device=log_mu.device)


def _slope(log_mu: torch.Tensor, kept: torch.Tensor, first: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """Slope through the origin over the kept ratios of rank `first` < rank <= `last`, for each of g selections."""
    rank = kept.cumsum(1, dtype=log_mu.dtype)  # (g, N)
    used = kept & (rank > first[:, None]) & (rank <= last[:, None])
    y = -torch.log1p(-rank / kept.sum(1, keepdim=True)).masked_fill_(~used, 0.0)  # a masked rank may have F = 1
    return (y @ log_mu) / (used.to(log_mu.dtype) @ log_mu.square())


# --- the measure ------------------------------------------------------------------------------------------------------


def intrinsic_dimension(cloud: PointCloud, convention: str = FACCO) -> Estimate:
    """How many directions the cloud spreads in locally, seen at the scale of the two nearest neighbours (TwoNN).

    Each row's `mu = r2 / r1`, the ratio of the distances to its second and first neighbour, is drawn from
    `P(mu > t) = t^-d`. Distances are exact, and each distinct row counts once: copies of a row say nothing about
    dimension, and ruin the estimate in most other libraries.

    Report it as "TwoNN at n rows", not as "the dimension": boundaries and curvature lower it, by a tenth at d = 10 and
    by a third at d = 50 for some thousand rows.

    Args:
        cloud: at least 20 distinct rows.
        convention: `"facco"`, a line through the smallest 90 % of the ratios, as in the TwoNN paper and
            scikit-dimension; `"razzhigaev"`, the line through the smallest fifth, with the F of the code of "The Shape
            of Learning"; `"mle"`, maximum likelihood with the largest 10 % censored, the least noisy; `"ball"`, the k
            whose uniform ball of as many rows gives the value of `"mle"`, which removes most of the finite-sample bias
            if the rows are about as compact as a ball.

    Returns:
        Estimate: value > 0. `standard_error`: a delete-a-group jackknife over `cloud.folds` with the neighbours held
        fixed; for `"mle"` and `"ball"` that of the likelihood if rows have no groups. Both assume independent ratios; a
        tenth is added, since neighbours share neighbours. `details`:
        `n_used` ratios, the `used_share` they are, `n_ties` ratios of exactly 1, `mean_r1` and `mean_r2` in the units
        of the rows; `"ball"` adds its `reading` (the value of `"mle"`) and the `reference` shape, and its error is that
        of the reading times the slope of the reference curve.

        Where rows are copies in all but a few digits (`near_copies`), `value_without_near_copies` is the value when
        rows within `near_copies_radius` of each other count once.

        `None` for `no_spread` (all rows are equal), `too_few_distinct_rows` (fewer than 20), `all_ratios_one` (a grid),
        `underflow` (a row so large that the distances of others vanish beside it) and `beyond_reference` (`"ball"`: no
        ball of up to 16,384 dimensions reads so much). Warnings: `duplicates` (over 1 % of the rows are copies),
        `few_distinct_rows` (over half are), `near_copies`, `ties` (over 1 % of the ratios are 1), `few_ratios` (fewer
        than 50 are fitted), `rounding` (that of the rows' dtype makes up over 2 % of the squared distances),
        `differs_from_authors_code` (`"razzhigaev"` on rows with copies).

    Raises:
        UnknownName: no such convention.

    Cost: O(n^2 d), once for all conventions: the cloud's neighbours.

    Source: Facco et al. 2017; Razzhigaev et al. 2024, "The Shape of Learning", section 3.2; `"ball"`: this package,
    see `hf_repgeo.measures.ball`.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud, intrinsic_dimension
        >>> plane = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0)) @ torch.ones(2, 5).triu()
        >>> estimate = intrinsic_dimension(PointCloud(plane))
        >>> round(estimate.value, 1), estimate.se_method
        (2.0, 'jackknife(20 groups)')
    """
    if convention not in CONVENTIONS:
        raise UnknownName("convention of intrinsic_dimension", convention, CONVENTIONS)
    return without_near_copies(cloud, partial(_two_nn, convention=convention))


def _two_nn(cloud: PointCloud, convention: str) -> Estimate:
    counts = {"n": cloud.n, "n_distinct": cloud.n_distinct}
    if cloud.n_distinct < MINIMUM_ROWS:
        return missing("intrinsic_dimension", convention, too_few(cloud), **counts)
    r1, r2 = cloud.neighbors.distances[:, 0], cloud.neighbors.distances[:, 1]
    if not bool((r1 > 0).all()):
        return missing("intrinsic_dimension", convention, underflow(r1), **counts)
    log_mu, order = (r2 / r1).log().sort()
    details: dict[str, Any] = {
        "n_ties": int((log_mu == 0).sum()),
        "mean_r1": float(r1.mean()) * cloud.unit,
        "mean_r2": float(r2.mean()) * cloud.unit,
    }
    value, error, method, n_used, left_out = CONVENTIONS[convention](cloud, log_mu, order)
    details |= {"n_used": n_used, "used_share": n_used / len(log_mu)}
    if not 0 < value < float("inf"):
        reason = f"all_ratios_one: each of the {n_used} ratios r2 / r1 that would be used is 1, as on a grid"
        return missing("intrinsic_dimension", convention, reason, details=details, **counts)
    warnings = copies_warning(cloud, convention) + ties_warning(details["n_ties"], len(log_mu))
    warnings += few_ratios_warning(n_used) + neighbor_loss(cloud, r1)
    estimate = Estimate(
        "intrinsic_dimension",
        convention,
        value,
        error,
        method,
        warnings=warnings,
        details=details,
        left_out=left_out,
        **counts,
    )
    return as_ball(estimate) if convention == BALL else estimate


def as_ball(reading: Estimate) -> Estimate:
    """The dimension of the ball for which TwoNN's likelihood gives the same value."""
    n = reading.n_distinct or reading.n
    if reading.value is None:
        return reading
    details = reading.details | {"reading": reading.value, "reference": f"uniform ball, {n} rows"}
    found = ball_dimension(reading.value, n)
    if found is None:
        reason = f"beyond_reference: TwoNN reads {reading.value:.4g}, more than of {n} rows of any ball in the table"
        warnings = (reason, *reading.warnings)
        return replace(reading, value=None, standard_error=None, se_method=None, details=details, warnings=warnings)
    value, slope = found
    error = None if reading.standard_error is None else reading.standard_error * slope
    return replace(reading, value=value, standard_error=error, details=details)


# value, standard error, its method, ratios used, values of the jackknife
_Fitted = tuple[float, float | None, str | None, int, torch.Tensor | None]


def _by_line(cloud: PointCloud, log_mu: torch.Tensor, order: torch.Tensor) -> _Fitted:
    error, method, left_out = None, None, None
    if cloud.jackknife:
        left_out = two_nn_line(log_mu, folds_kept(cloud, order))
        error, method = shared_neighbors(*jackknife(left_out))
    return float(two_nn_line(log_mu)), error, method, int(len(log_mu) * USED_SHARE), left_out


def _by_authors(cloud: PointCloud, log_mu: torch.Tensor, order: torch.Tensor) -> _Fitted:
    removed = _removed_by_authors(cloud)[order]
    log_mu, order = _first(removed, log_mu), _first(removed, order)
    n_removed = int(removed.sum())
    value = float(two_nn_authors(log_mu, n_removed))
    error, method, left_out = None, None, None
    if cloud.jackknife:
        left_out = two_nn_authors(log_mu, n_removed, folds_kept(cloud, order))
        error, method = shared_neighbors(*jackknife(left_out))
    n_left = len(log_mu) - n_removed
    return value, error, method, max(0, min(n_left // AUTHORS_SHARE, n_left - 1)), left_out


def _by_likelihood(cloud: PointCloud, log_mu: torch.Tensor, order: torch.Tensor) -> _Fitted:
    value, n_used = two_nn_likelihood(log_mu)
    error: float | None = float(value) / n_used**0.5
    method: str | None = "likelihood"
    left_out: torch.Tensor | None = None
    if not cloud.rows_stand_alone:
        kept = folds_kept(cloud, order) if cloud.jackknife else ()
        left_out = torch.tensor([float(two_nn_likelihood(log_mu[fold])[0]) for fold in kept])
        error, method = jackknife(left_out)
    return float(value), *shared_neighbors(error, method), n_used, left_out


CONVENTIONS = {FACCO: _by_line, RAZZHIGAEV: _by_authors, MLE: _by_likelihood, BALL: _by_likelihood}


def shared_neighbors(error: float | None, method: str | None) -> tuple[float | None, str | None]:
    """The standard error of a dimension from neighbours: a tenth more than for independent ratios."""
    return (None if error is None else SHARED_NEIGHBORS * error), method


def folds_kept(cloud: PointCloud, order: torch.Tensor) -> torch.Tensor:
    """`(folds, n_distinct)` bool: the ratios, in the given order, that stay when each fold is left out."""
    folds = cloud.folds[cloud.distinct][order]
    return folds != torch.arange(int(cloud.folds.max()) + 1, device=folds.device)[:, None]


def _removed_by_authors(cloud: PointCloud) -> torch.Tensor:
    r1, r2 = cloud.neighbors.distances[:, 0], cloud.neighbors.distances[:, 1]
    mean = cloud.rows.mean(0)
    mean_norm = torch.cat([torch.linalg.vector_norm(rows - mean, dim=1) for rows in cloud.rows.split(2048)]).mean()
    return (r1 < AUTHORS_EPSILON * mean_norm) | (r2 / r1 <= 1 + AUTHORS_EPSILON)


def _first(marked: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The marked values before the others, each part in its own order."""
    return torch.cat([values[marked], values[~marked]])


def too_few(cloud: PointCloud, needed: int = MINIMUM_ROWS) -> str:
    if cloud.n_distinct == 1:
        return f"no_spread: all {cloud.n} rows are equal"
    return f"too_few_distinct_rows: {cloud.n_distinct} of {cloud.n} rows are distinct; at least {needed} are needed"


def underflow(distances: torch.Tensor) -> str:
    """Why distinct rows have no distance, as the warning of a missing value."""
    n_zero = int((distances == 0).sum())
    said = f"the distances of {n_zero} distinct rows to their nearest are too small for float64 beside the largest row"
    return f"underflow: {said}; leave out the rows that are that large"


def copies_warning(cloud: PointCloud, convention: str | None = None) -> tuple[str, ...]:
    copies, warnings = cloud.n - cloud.n_distinct, []
    if copies > 0.01 * cloud.n:
        warnings.append(f"duplicates: {copies} of {cloud.n} rows are copies of others; each distinct row counts once")
    if copies > 0.5 * cloud.n:
        warnings.append(f"few_distinct_rows: only {cloud.n_distinct} of {cloud.n} rows are distinct")
    if copies and convention == RAZZHIGAEV:
        warnings.append("differs_from_authors_code: their code lets copies raise the answer; here each counts once")
    return tuple(warnings)


def ties_warning(n_ties: int, n: int) -> tuple[str, ...]:
    if n_ties <= 0.01 * n:
        return ()
    return (f"ties: {n_ties} of {n} rows have two nearest neighbours at the same distance, as on a grid",)


def few_ratios_warning(n_used: int) -> tuple[str, ...]:
    if n_used >= FEW_RATIOS:
        return ()
    return (f"few_ratios: {n_used} ratios are fitted; the value scatters by about {max(1, n_used) ** -0.5:.0%}",)
