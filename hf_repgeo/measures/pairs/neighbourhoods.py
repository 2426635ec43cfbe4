"""Do the two clouds have the same neighbours? Overlap of neighbourhoods, information imbalance."""

from __future__ import annotations

from typing import Any

import torch

from ..cloud import first_occurrences
from ..estimate import Estimate, jackknife, missing
from ..kernels.neighbors import nearest
from .pair import CloudPair

NEIGHBOURS = 10
BLOCK_ROWS = 1024


def neighbourhood_overlap(pair: CloudPair, *, k: int = NEIGHBOURS) -> Estimate:
    """Share of a row's k nearest neighbours that it keeps from one cloud to the other, on average over rows.

    `mean_i |N_X(i) & N_Y(i)| / k`, neighbours by Euclidean distance, exactly. Rows that are copies of an earlier row in
    either cloud are left out of both.

    Args:
        pair: the two clouds.
        k: neighbours of each row.

    Returns:
        Estimate: 0 to 1; unrelated clouds give `k / (n - 1)`, in the details as `chance`. Standard error by groups, the
        neighbours held fixed.

    Cost: two neighbour searches of `n^2 d` flops.

    Source: Huh et al. 2024, "The Platonic Representation Hypothesis", section 2 (mutual nearest neighbours).

    Example:
        >>> import torch
        >>> from hf_repgeo.measures.pairs import CloudPair, neighbourhood_overlap
        >>> X = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
        >>> neighbourhood_overlap(CloudPair(X, 2 * X)).value
        1.0
    """
    keep = distinct_pairs(pair)
    if len(keep) < k + 2:
        reason = f"too_few_distinct_rows: {len(keep)} pairs of distinct rows for {k} neighbours of each"
        return missing("neighbourhood_overlap", "mutual", reason, n=pair.n)
    found = [nearest(cloud.rows[keep], k).indices for cloud in (pair.x, pair.y)]
    shared = (found[0][:, :, None] == found[1][:, None, :]).sum((1, 2)).to(torch.float64) / k
    details = {"k": k, "chance": k / (len(keep) - 1), "n_used": len(keep)}
    return _mean_estimate("neighbourhood_overlap", "mutual", shared, pair, keep, details)


def information_imbalance(pair: CloudPair) -> Estimate:
    """How little X's distances say about Y's: which rank in Y has a row's nearest neighbour in X?

    `Delta(X -> Y) = 2 / n * mean_i rank_Y(i, nearest neighbour of i in X)`. Not symmetric: the details hold the other
    direction as `reverse`. Where `Delta(X -> Y)` is small and the reverse large, X holds what Y holds and more.

    Args:
        pair: the two clouds.

    Returns:
        Estimate: near 0 (`2 / n`) where X's nearest neighbours are Y's too; 1 where X says nothing about Y. Standard
        error by groups, the neighbours held fixed.

    Cost: one neighbour search of `n^2 d` flops in each cloud and as many flops in float64 for the ranks.

    Source: Glielmo et al. 2022, "Ranking the information content of distance measures", equation 2.
    """
    keep = distinct_pairs(pair)
    if len(keep) < 4:
        reason = f"too_few_distinct_rows: {len(keep)} pairs of distinct rows, where ranks need 4"
        return missing("information_imbalance", "glielmo", reason, n=pair.n)
    x, y = (cloud.rows[keep] for cloud in (pair.x, pair.y))
    forward = 2 / len(keep) * ranks(y, nearest(x, 1).indices[:, 0])
    reverse = 2 / len(keep) * ranks(x, nearest(y, 1).indices[:, 0])
    details = {"reverse": float(reverse.mean()), "chance": 1.0, "n_used": len(keep)}
    return _mean_estimate("information_imbalance", "glielmo", forward, pair, keep, details)


def distinct_pairs(pair: CloudPair) -> torch.Tensor:
    """Positions of the pairs whose rows equal no earlier row in either cloud, ascending."""
    first = [torch.zeros(pair.n, dtype=torch.bool, device=pair.x.rows.device) for _ in range(2)]
    for mask, cloud in zip(first, (pair.x, pair.y), strict=True):
        mask[first_occurrences(cloud.rows)] = True
    return torch.nonzero(first[0] & first[1])[:, 0]


def ranks(rows: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """1 + how many rows are nearer to row i than row `others[i]` is, `(n,)` float64."""
    rows = rows.to(torch.float64)
    rows = rows - rows.mean(0)
    norms = rows.square().sum(1)
    found = []
    for block in torch.arange(len(rows), device=rows.device).split(BLOCK_ROWS):
        distances = norms - 2 * rows[block] @ rows.T  # squared, without the block's own norms
        limit = distances.gather(1, others[block, None])
        distances[torch.arange(len(block), device=rows.device), block] = torch.inf
        found.append((distances < limit).sum(1) + 1)
    return torch.cat(found).to(torch.float64)


def _mean_estimate(
    name: str, convention: str, values: torch.Tensor, pair: CloudPair, keep: torch.Tensor, details: dict[str, Any]
) -> Estimate:
    """The mean over rows, with the standard error of leaving out one fold each."""
    error, method = None, None
    if pair.jackknife:
        folds = pair.folds[keep]
        sums = torch.zeros(int(folds.max()) + 1, dtype=torch.float64, device=values.device).index_add_(0, folds, values)
        rest = len(values) - torch.bincount(folds, minlength=len(sums))
        error, method = jackknife((values.sum() - sums) / rest)
    fewer = f"duplicates: {pair.n - len(keep)} pairs of rows are copies and left out"
    warnings = (fewer,) if len(keep) < 0.99 * pair.n else ()
    value = float(values.mean())
    return Estimate(name, convention, value, error, method, pair.n, len(keep), warnings, details)
