"""Which rows are whose neighbours: hubs and antihubs, and the dimension around each row.

In many dimensions neighbourhoods are uneven: a few rows, the hubs, are among the nearest neighbours of very many, and
some, the antihubs, of none (Radovanović et al. 2010). Standard errors hold the neighbours fixed and leave out folds of
the rows that are counted. Searching again without each fold would double the error of rows without groups; with fixed
neighbours the true scatter over the error is 0.8 to 1.3, the worst for rows in tight clumps of one document each.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from .cloud import PointCloud
from .conventions import AMSALEG, RADOVANOVIC
from .dimension import MINIMUM_ROWS, copies_warning, too_few, underflow
from .estimate import Estimate, jackknife, missing
from .inputs import check_count
from .kernels.neighbors import Neighbors, nearest
from .near_copies import without_near_copies
from .rounding import neighbor_loss

HUB_NEIGHBORS = 10
LOCAL_NEIGHBORS = 20
MEDIAN_OF_GAMMA = 1 / 3  # the median of a gamma variable of shape a is a - 1/3, up to 0.03 / a


def neighbor_counts(indices: torch.Tensor, n: int) -> torch.Tensor:
    """How many rows have each row among their nearest neighbours, `(n,)` float64.

    Args:
        indices: `(m, k)` neighbours of each row.
        n: how many rows there are.
    """
    return torch.bincount(indices.flatten(), minlength=n).to(torch.float64)


def skewness_of(counts: torch.Tensor) -> torch.Tensor:
    """`mean(c^3) / mean(c^2)^1.5` of the centred counts; 0 where all are equal."""
    centred = counts - counts.mean()
    variance = centred.square().mean()
    return torch.where(variance > 0, centred.pow(3).mean() / variance.clamp_min(1e-300).pow(1.5), 0.0)


def local_dimensions_of(distances: torch.Tensor) -> torch.Tensor:
    """The dimension around each row, `(n,)`, from the distances to its k nearest neighbours, `(n, k)` ascending.

    `(k - 4/3) / sum_{j < k} log(r_k / r_j)`: the sum is a gamma variable of shape k - 1 over the dimension, so that
    this estimate is as often too large as too small.
    """
    logs = distances.log()
    total = (logs[:, -1:] - logs[:, :-1]).sum(1)
    return (distances.shape[1] - 1 - MEDIAN_OF_GAMMA) / total


def hubness(cloud: PointCloud, k: int = HUB_NEIGHBORS) -> Estimate:
    """How uneven neighbourhoods are: the skewness of `N_k`, the number of rows that have a row as a near neighbour.

    Args:
        cloud: more than k and at least 20 distinct rows; each counts once.
        k: neighbours of each row.

    Returns:
        Estimate: 0 if every row is equally often a neighbour, larger if a few rows, the hubs, are neighbours of very
        many. It grows with the dimension until rows are too few for it, so compare it with its chance level
        (`null=True`: a Gaussian of the same covariance). `largest` in the details: neighbourhoods of the largest hub.
        Standard error by leaving out groups, neighbours held fixed. `None` as in `intrinsic_dimension`.

    Raises:
        BadInput: k is not a whole number of at least 2.

    Cost: O(n^2 d).

    Source: Radovanović, Nanopoulos & Ivanović, "Hubs in space: popular nearest neighbors in high-dimensional data",
    JMLR 11 (2010), section 2.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud, hubness
        >>> g = torch.Generator().manual_seed(0)
        >>> flat, high = torch.randn(500, 2, generator=g), torch.randn(500, 100, generator=g)
        >>> hubness(PointCloud(flat)).value < 1 < 3 < hubness(PointCloud(high)).value
        True
    """
    return _of_counts("hubness", cloud, k, skewness_of)


def antihub_share(cloud: PointCloud, k: int = HUB_NEIGHBORS) -> Estimate:
    """Share of rows that are among the k nearest neighbours of no other row: a search never finds them.

    Args:
        cloud: more than k and at least 20 distinct rows; each counts once.
        k: neighbours of each row.

    Returns:
        Estimate: 0 to 1. Standard error by leaving out groups, neighbours held fixed. `None` as in
        `intrinsic_dimension`.

    Raises:
        BadInput: k is not a whole number of at least 2.

    Cost: that of `hubness`, shared with it.

    Source: Radovanović et al. 2010 ("antihubs").

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud, antihub_share
        >>> antihub_share(PointCloud(torch.rand(400, 1, generator=torch.Generator().manual_seed(0)))).value
        0.0
    """
    return _of_counts("antihub_share", cloud, k, lambda counts: (counts == 0).double().mean())


def local_dimension(cloud: PointCloud, k: int = LOCAL_NEIGHBORS) -> Estimate:
    """The dimension around a typical row: the median over rows of each row's own estimate from k neighbours.

    Where tokens differ in their local dimension, one number for a cloud hides it: the details hold the quartiles
    (`lower`, `upper`), and `hf_repgeo.measures.hubs.local_dimensions_of` gives the value of each row.

    Args:
        cloud: more than k and at least 20 distinct rows; each counts once.
        k: neighbours of each row.

    Returns:
        Estimate: value > 0. Standard error by leaving out groups, neighbours held fixed. `None` as in
        `intrinsic_dimension`.

    Raises:
        BadInput: k is not a whole number of at least 2.

    Cost: O(n^2 d).

    Source: Amsaleg et al., "Estimating local intrinsic dimensionality", KDD 2015 (maximum likelihood); the constant
    that makes it median-unbiased is this package's.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud, local_dimension
        >>> plane = torch.rand(3000, 2, generator=torch.Generator().manual_seed(0)) @ torch.ones(2, 5).triu()
        >>> round(local_dimension(PointCloud(plane)).value, 1)
        2.0
    """
    check_count("k", k, 2)
    return without_near_copies(cloud, partial(_local_dimension, k=k))


def _local_dimension(cloud: PointCloud, k: int) -> Estimate:
    counts: dict[str, Any] = {"n": cloud.n, "n_distinct": cloud.n_distinct}
    if cloud.n_distinct < max(MINIMUM_ROWS, k + 1):
        return missing("local_dimension", AMSALEG, too_few(cloud, max(MINIMUM_ROWS, k + 1)), **counts)
    found = _searched(cloud, k)
    if not bool((found.distances[:, 0] > 0).all()):
        return missing("local_dimension", AMSALEG, underflow(found.distances[:, 0]), **counts)
    local = local_dimensions_of(found.distances[:, :k])
    lower, value, upper = torch.quantile(local, local.new_tensor([0.25, 0.5, 0.75])).tolist()
    if not 0 < value < float("inf"):
        reason = f"all_ratios_one: the {k} nearest neighbours of half of the rows are at one distance, as on a grid"
        return missing("local_dimension", AMSALEG, reason, **counts)
    error, method, left_out = _leave_out(cloud, local, torch.median)
    fields: dict[str, Any] = {"details": {"k": k, "lower": lower, "upper": upper if upper < float("inf") else None}}
    fields |= {"warnings": copies_warning(cloud) + neighbor_loss(cloud, found.distances[:, 0]), "left_out": left_out}
    return Estimate("local_dimension", AMSALEG, value, error, method, **counts, **fields)


def _of_counts(name: str, cloud: PointCloud, k: int, function: Callable[[torch.Tensor], torch.Tensor]) -> Estimate:
    check_count("k", k, 2)
    n = cloud.n_distinct
    fields: dict[str, Any] = {"n": cloud.n, "n_distinct": n}
    if n < max(MINIMUM_ROWS, k + 1):
        return missing(name, RADOVANOVIC, too_few(cloud, max(MINIMUM_ROWS, k + 1)), **fields)
    found = _searched(cloud, k)
    if not bool((found.distances[:, 0] > 0).all()):
        return missing(name, RADOVANOVIC, underflow(found.distances[:, 0]), **fields)
    counts = neighbor_counts(found.indices[:, :k], n)
    error, method, left_out = _leave_out(cloud, counts, function)
    fields |= {"details": {"k": k, "largest": int(counts.max())}, "warnings": copies_warning(cloud)}
    return Estimate(name, RADOVANOVIC, float(function(counts)), error, method, left_out=left_out, **fields)


def _searched(cloud: PointCloud, k: int) -> Neighbors:
    """At least the k nearest distinct rows; all three measures share one search."""
    found = cloud.once(_searched_by_default)
    return found if found.distances.shape[1] >= k else nearest(cloud.distinct_rows, k)


def _searched_by_default(cloud: PointCloud) -> Neighbors:
    return nearest(cloud.distinct_rows, min(LOCAL_NEIGHBORS, cloud.n_distinct - 1))


def _leave_out(
    cloud: PointCloud, values: torch.Tensor, function: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[float | None, str | None, torch.Tensor | None]:
    """Standard error, its method, and the function's values without each fold of the distinct rows' values."""
    if not cloud.jackknife:
        return None, None, None
    folds = cloud.folds[cloud.distinct]
    found = [function(values[folds != fold]) for fold in range(int(cloud.folds.max()) + 1)]
    left_out = torch.stack(found).to("cpu", torch.float64)
    return *jackknife(left_out), left_out
