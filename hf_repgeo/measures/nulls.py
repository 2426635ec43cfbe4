"""What chance alone gives at this n and d, and intervals by document.

A number means little without its chance level: anisotropy of pure noise is far above 1 / d, patchiness of a Gaussian is
above 1, intrinsic dimension is biased low. A null evaluates the very same measure on rows without the structure asked
about:

- `"isotropic"`: independent standard normal entries. For spectral measures.
- `"gaussian"`: normal rows with the cloud's mean and covariance. For neighbours, cells.
- `"shuffled"`: each column permuted by itself: the cloud's marginals, without dependence. For directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from statistics import fmean, stdev
from typing import TYPE_CHECKING

import torch

from ..errors import UnknownName
from .estimate import Estimate

if TYPE_CHECKING:
    from .cloud import PointCloud

Evaluate = Callable[["PointCloud"], list[Estimate]]

REPEATS = 5
HALVES = 40


def marchenko_pastur_anisotropy(n: int, d: int) -> float:
    """Anisotropy of n independent rows of an isotropic Gaussian in d dimensions: `(1 + sqrt(d / n))^2 / d`.

    Source: the upper edge of the spectrum, Marchenko, Pastur (1967). Right to 2 % from n = 64 on.

    Example:
        >>> from hf_repgeo.measures.nulls import marchenko_pastur_anisotropy
        >>> round(marchenko_pastur_anisotropy(4096, 768), 5)
        0.00267
    """
    return (1 + math.sqrt(d / n)) ** 2 / d


def surrogate(cloud: PointCloud, kind: str, seed: int) -> torch.Tensor:
    """Rows like the cloud's in number, columns, dtype and device, without the structure that `kind` takes away.

    Raises:
        UnknownName: a kind that does not exist.
    """
    if kind not in SURROGATES:
        raise UnknownName("null", kind, SURROGATES)
    return SURROGATES[kind](cloud, torch.Generator().manual_seed(seed)).to(cloud.rows)


def _isotropic(cloud: PointCloud, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(cloud.n, cloud.d, generator=generator)


def _gaussian(cloud: PointCloud, generator: torch.Generator) -> torch.Tensor:
    """Random mixtures of the centred rows: their covariance is the cloud's, without forming a square root of it."""
    values, vectors = torch.linalg.eigh(cloud.moments.scatter / cloud.n)
    root = (vectors * values.clamp_min(0).sqrt()).to(cloud.rows.dtype)  # (d, d)
    noise = torch.randn(cloud.n, cloud.d, generator=generator, dtype=cloud.rows.dtype).to(cloud.rows.device)
    return noise @ root.T + cloud.moments.mean.to(cloud.rows.dtype)


def _shuffled(cloud: PointCloud, generator: torch.Generator) -> torch.Tensor:
    order = torch.rand(cloud.n, cloud.d, generator=generator).argsort(0).to(cloud.rows.device)
    return cloud.rows.gather(0, order)


SURROGATES = {"isotropic": _isotropic, "gaussian": _gaussian, "shuffled": _shuffled}


def with_null(cloud: PointCloud, estimates: list[Estimate], evaluate: Evaluate, kind: str) -> list[Estimate]:
    """The estimates with `null`, `null_sd` and `null_kind` in their details, from `REPEATS` surrogates.

    Args:
        cloud: the rows.
        estimates: what `evaluate` said of them.
        evaluate: a cloud to estimates, the same measures in the same order.
        kind: of surrogate.

    Cost: `REPEATS` times that of the measures; the isotropic one of a given n and d is remembered.
    """
    if kind == "isotropic":
        runs = _isotropic_runs(cloud.n, cloud.d, cloud.rows.dtype, cloud.rows.device, cloud.seed, evaluate)
    else:
        runs = [evaluate(_bare(surrogate(cloud, kind, cloud.seed + r + 1), cloud)) for r in range(REPEATS)]
    return [_noted(estimate, [run[place] for run in runs], kind) for place, estimate in enumerate(estimates)]


@lru_cache(maxsize=64)
def _isotropic_runs(n: int, d: int, dtype, device, seed: int, evaluate: Evaluate) -> list[list[Estimate]]:
    from .cloud import PointCloud

    generator = torch.Generator().manual_seed(seed + 1)
    draws = (torch.randn(n, d, generator=generator, dtype=dtype).to(device) for _ in range(REPEATS))
    return [evaluate(PointCloud(rows, jackknife=False, seed=seed)) for rows in draws]


def _bare(rows: torch.Tensor, like: PointCloud) -> PointCloud:
    from .cloud import PointCloud

    return PointCloud(rows, jackknife=False, seed=like.seed)


def _noted(estimate: Estimate, chance: list[Estimate], kind: str) -> Estimate:
    values = [run.value for run in chance]
    if None in values:
        return estimate
    null = {"null": fmean(values), "null_sd": stdev(values), "null_kind": kind}
    return replace(estimate, details=estimate.details | null)


def with_interval(
    cloud: PointCloud, estimates: list[Estimate], evaluate: Evaluate, level: float = 0.95
) -> list[Estimate]:
    """The estimates with `low`, `high` and `interval_level` in their details, by random halves of the documents.

    Half of the groups, drawn without replacement, differ from the whole by as much as the whole differs from the truth
    (variance n / m - 1 = 1 times its own), so the spread of `HALVES` such values needs no rescaling; and no row comes
    twice, as it does in a bootstrap, where copies would be removed from a neighbour search and crowd a cell. The mean
    of the halves is moved to the value, since many measures depend on n.

    Args:
        cloud: the rows; `groups` are the documents.
        estimates: what `evaluate` said of them.
        evaluate: a cloud to estimates.
        level: share of the truth's likely range.

    Cost: `HALVES` times that of the measures on half of the rows.

    Source: Wu, "On the asymptotic properties of the jackknife histogram" (1990); Politis, Romano, Wolf (1999).
    """
    groups, owner = torch.unique(cloud.groups, return_inverse=True)
    generator = torch.Generator().manual_seed(cloud.seed)
    runs = []
    for _ in range(HALVES if len(groups) > 3 else 0):
        half = torch.randperm(len(groups), generator=generator)[: len(groups) // 2].to(owner.device)
        keep = torch.isin(owner, half)
        runs.append(evaluate(_bare(cloud.rows[keep], cloud)))
    return [_bounded(estimate, [run[place].value for run in runs], level) for place, estimate in enumerate(estimates)]


def _bounded(estimate: Estimate, values: list[float | None], level: float) -> Estimate:
    if estimate.value is None or not values or None in values:
        return estimate
    centred = torch.tensor(values, dtype=torch.float64) - fmean(values) + estimate.value
    tail = (1 - level) / 2
    low, high = torch.quantile(centred, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return replace(estimate, details=estimate.details | {"low": low, "high": high, "interval_level": level})
