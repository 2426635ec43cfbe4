"""What the directions of the rows say: mean cosine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .estimate import Estimate, missing
from .products import BLOCK_ROWS
from .spectrum import jackknife

if TYPE_CHECKING:
    from .cloud import PointCloud


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
    norms = torch.linalg.vector_norm(cloud.rows, dim=1).to(torch.float64)
    zeros = int((norms == 0).sum())
    if zeros:
        reason = f"zero_rows: {zeros} of {cloud.n} rows are all zeros and have no direction"
        return missing("mean_cosine", "off_diagonal", reason, n=cloud.n)
    sums, counts = _unit_sums(cloud, norms)
    value = _pair_mean(sums.sum(0), torch.tensor(float(cloud.n)))
    error, method = None, None
    if cloud.jackknife:
        error, method = jackknife(_pair_mean(sums.sum(0) - sums, cloud.n - counts))
    return Estimate("mean_cosine", "off_diagonal", float(value), error, method, n=cloud.n)


def _unit_sums(cloud: PointCloud, norms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of the unit rows of each fold, `(folds, d)`, and their numbers, in float64."""
    member = torch.nn.functional.one_hot(cloud.folds).T.to(torch.float64)  # (folds, n)
    weights = member / norms
    blocks = zip(weights.split(BLOCK_ROWS, dim=1), cloud.rows.split(BLOCK_ROWS))
    return sum(weight @ rows.to(torch.float64) for weight, rows in blocks), member.sum(1)


def _pair_mean(unit_sum: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    return (unit_sum.square().sum(-1) - n) / (n * (n - 1))
