"""Three shares that tell whether a few rows, one coordinate or duplicates dominate the other measures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .conventions import BIT_EQUAL, NORM_OVER_5_MEDIANS, VARIANCE
from .estimate import Estimate, missing
from .rounding import variance_loss
from .spectrum import NO_SPREAD

if TYPE_CHECKING:
    from .cloud import PointCloud

MASSIVE_NORM = 5.0  # a row is massive when its norm exceeds this many times the median
ROGUE_SHARE = 0.5


def massive_share(cloud: PointCloud) -> Estimate:
    """Share of rows whose norm exceeds five times the median norm.

    Decoders keep such rows at the first position and a few delimiters; under one in a hundred of them can make
    anisotropy read 0.99 where the rest reads 0.1.

    Args:
        cloud: rows.

    Returns:
        Estimate: value in [0, 0.5); warns `massive_rows` when it is not 0.

    Cost: O(n d).

    Source: Sun et al., "Massive activations in large language models" (2024).

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud, massive_share
        >>> massive_share(PointCloud(torch.tensor([[1.0], [1.0], [2.0], [100.0]]))).value
        0.25
    """
    norms = cloud.norms
    count = int((norms > MASSIVE_NORM * norms.median()).sum())
    estimate = Estimate("massive_share", NORM_OVER_5_MEDIANS, count / cloud.n, n=cloud.n)
    if not count:
        return estimate
    return estimate.warned(
        f"massive_rows: {count} of {cloud.n} rows have a norm over {MASSIVE_NORM:g} times the median"
    )


def top_coordinate_share(cloud: PointCloud) -> Estimate:
    """Share of the variance that lies in the single most variable coordinate.

    `max_j var_j / sum_j var_j`. Near 1 / d when no coordinate stands out; rogue dimensions of language models take up
    to 0.95, and then cosine and anisotropy describe that coordinate alone.

    Args:
        cloud: rows.

    Returns:
        Estimate: value in [1 / d, 1]; `None` when all rows are equal (`no_spread`). Warns `rogue_coordinate` above one
        half.

    Cost: O(n d).

    Source: Timkey, van Schijndel, "All bark and no bite: rogue dimensions in transformer language models" (2021).

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud, top_coordinate_share
        >>> top_coordinate_share(PointCloud(torch.tensor([[3.0, 1.0], [-3.0, -1.0]]))).value
        0.9
    """
    variances = cloud.column_variances
    if cloud.n_distinct == 1 or not float(variances.sum()) > 0:  # rounding may move the mean of equal rows
        return missing("top_coordinate_share", VARIANCE, NO_SPREAD, n=cloud.n)
    share, coordinate = float(variances.max() / variances.sum()), int(variances.argmax())
    estimate = Estimate("top_coordinate_share", VARIANCE, share, n=cloud.n, details={"coordinate": coordinate})
    estimate = estimate.warned(*variance_loss(cloud))
    if share <= ROGUE_SHARE or cloud.d == 1:
        return estimate
    said = f"coordinate {coordinate} holds {share:.0%} of the variance; it dominates the other measures"
    return estimate.warned(f"rogue_coordinate: {said}")


def duplicate_share(cloud: PointCloud) -> Estimate:
    """Share of rows that equal an earlier row in every bit.

    Embedding layers of models with rotary positions hold one row per token type. Copies are left out before neighbours
    are searched; everything else counts them.

    Args:
        cloud: rows.

    Returns:
        Estimate: value in [0, 1).

    Cost: O(n d).

    Source: a count.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud, duplicate_share
        >>> duplicate_share(PointCloud(torch.tensor([[1.0], [2.0], [1.0], [1.0]]))).value
        0.5
    """
    return Estimate(
        "duplicate_share", BIT_EQUAL, 1 - cloud.n_distinct / cloud.n, n=cloud.n, n_distinct=cloud.n_distinct
    )
