"""Errors of differences of patchiness and the other measures of cells, from a bootstrap over documents.

A quantizer's cells move with the rows. Leaving a fold of documents out with the cells held fixed misses that. Fitting
them again for each fold left out magnifies the fit's own noise, which does not shrink with the number of rows; halves
of the documents have too little of it. Drawing the folds with replacement, the same ones for both clouds, and fitting
both again keeps the number of rows, and so both sources of error have their true proportion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..cloud import PointCloud
from ..estimate import FEWEST_GROUPS, Estimate
from ..table import MEASURES

DRAWS = 12


@dataclass(frozen=True)
class Scatter:
    """The scatter of a difference by chance.

    Attributes:
        standard_error: of the difference.
        draws: from which it was computed.
        freedom: its degrees of freedom.
    """

    standard_error: float
    draws: int
    freedom: int


def redrawn_scatter(
    first: PointCloud,
    second: PointCloud,
    measure: Callable[[PointCloud], list[Estimate]],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Scatter | None]:
    """The scatter by chance of the differences of measures between two clouds, by drawing documents with replacement.

    For measures of a quantizer's cells. Copies of a document would mislead measures of neighbours. Over samples of
    planted clouds the error was 0.9 to 1.1 times the true one where rows are clumped and 1.6 times where they are not.

    Args:
        first, second: clouds of the same documents, dealt to folds by the same seed.
        measure: maps a cloud to its estimates.
        draws: of the folds, the same for both clouds.
        seed: for the draws.

    Returns:
        list[Scatter | None]: one per measure; `None` for fewer than five folds, or if a drawn cloud has no value.

    Cost: that of measuring both clouds `draws` times.

    Source: Efron 1979, "Bootstrap methods: another look at the jackknife", of whole folds.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud, patchiness
        >>> from hf_repgeo.measures.pairs import redrawn_scatter
        >>> X = torch.randn(600, 4, generator=torch.Generator().manual_seed(0))
        >>> redrawn_scatter(PointCloud(X), PointCloud(2 * X), lambda cloud: [patchiness(cloud)])[0].standard_error
        0.0
    """
    count = int(first.folds.max()) + 1
    if count < FEWEST_GROUPS:
        return [None] * len(measure(first))
    members = [torch.nonzero(first.folds == fold)[:, 0] for fold in range(count)]
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(draws):
        drawn = torch.randint(count, (count,), generator=generator).tolist()
        found.append(_difference(first, second, torch.cat([members[fold] for fold in drawn]), measure))
    freedom = int(1 / (1 / (draws - 1) + 1 / (count - 1)))  # no more draws than folds make up for few folds
    errors = torch.stack(found).std(0).tolist()
    return [Scatter(error, draws, max(1, freedom)) if error == error else None for error in errors]


def scatter_of_cells(
    first: PointCloud,
    ones: list[Estimate],
    second: PointCloud,
    others: list[Estimate],
    evaluate: Callable[[PointCloud, list[tuple[str, str]]], list[Estimate]],
    seed: int = 0,
) -> list[Scatter | None]:
    """`redrawn_scatter` for the estimates of measures of cells that have a value in both clouds.

    Args:
        first, ones: a cloud and its estimates.
        second, others: the other cloud and the same measures' estimates.
        evaluate: `hf_repgeo.measures.evaluate_all`.
        seed: of the draws.

    Returns:
        list[Scatter | None]: one per estimate.
    """
    wanted = [None not in (one.value, other.value) and _is_of_cells(one) for one, other in zip(ones, others)]
    pairs = [(one.measure, one.convention) for one, needed in zip(ones, wanted) if needed]
    if not pairs:
        return [None] * len(ones)
    found = iter(redrawn_scatter(first, second, lambda cloud: evaluate(cloud, pairs), seed=seed))
    return [next(found) if needed else None for needed in wanted]


def _is_of_cells(estimate: Estimate) -> bool:
    return estimate.measure in MEASURES and MEASURES[estimate.measure].needs == "cells"


def _difference(first: PointCloud, second: PointCloud, rows: torch.Tensor, measure: Callable) -> torch.Tensor:
    """`(measures,)` values of the second minus those of the first, on the drawn rows; NaN where there is none."""
    values = []
    for cloud in (first, second):
        drawn = PointCloud(cloud.unscaled_rows[rows], jackknife=False, seed=cloud.seed)
        values.append([torch.nan if one.value is None else one.value for one in measure(drawn)])
    return torch.tensor(values[1], dtype=torch.float64) - torch.tensor(values[0], dtype=torch.float64)
