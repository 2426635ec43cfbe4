"""Pure mathematics on torch tensors: the table of all measures, and the functions behind it.

Each measure is a function `PointCloud -> Estimate`, which here also takes a matrix of rows. Pass the same cloud to
several measures, so that they share their work. `MEASURES` lists for each what it needs, its range, what leaves it
unchanged, and its source; tests use the same table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch

from ..errors import BadInput, UnknownName
from .cells import cell_count_divergence, cell_count_variance, patchiness
from .cloud import PointCloud
from .diagnostics import duplicate_share, massive_share, top_coordinate_share
from .dimension import intrinsic_dimension
from .direction import mean_cosine, partition_function, uniformity
from .estimate import FEWEST_GROUPS, Estimate, missing
from .hubs import antihub_share, hubness, local_dimension
from .inputs import check_count
from .moments import Moments
from .nulls import check_interval, check_null, with_interval, with_null
from .reconstruction import (
    cell_density_variance,
    reconstruction_error,
    reconstruction_error_range,
    reconstruction_error_skewness,
    within_cell_enrichment,
)
from .scales import gride, levina_bickel, scale_curve
from .spectral_shape import (
    early_enrichment,
    iso_score_star,
    power_law_exponent,
    rank_me,
    spectral_entropy,
    stable_rank,
    vasicek_mse,
)
from .spectrum import anisotropy, effective_rank, iso_score, participation_ratio
from .table import MEASURES, OPTIONS, SYNONYMS, Measure


def _of_rows(function: Callable[..., Estimate]) -> Callable[..., Estimate]:
    """The measure for callers who have rows and no cloud: a matrix becomes a cloud first."""

    @wraps(function)
    def measured(cloud: Any, *arguments: Any, **options: Any) -> Estimate:
        if not isinstance(cloud, PointCloud):
            cloud = PointCloud(cloud)
        with torch.no_grad():
            return function(cloud, *arguments, **options)

    return measured


globals().update({name: _of_rows(measure.function) for name, measure in MEASURES.items()})

__all__ = [
    "Estimate",
    "MEASURES",
    "Measure",
    "Moments",
    "PointCloud",
    "anisotropy",
    "antihub_share",
    "cell_count_divergence",
    "cell_count_variance",
    "cell_density_variance",
    "check_interval",
    "check_null",
    "check_options",
    "duplicate_share",
    "early_enrichment",
    "effective_rank",
    "evaluate_all",
    "gride",
    "hubness",
    "interval_of",
    "intrinsic_dimension",
    "iso_score",
    "iso_score_star",
    "levina_bickel",
    "local_dimension",
    "massive_share",
    "mean_cosine",
    "missing",
    "participation_ratio",
    "partition_function",
    "patchiness",
    "power_law_exponent",
    "rank_me",
    "reconstruction_error",
    "reconstruction_error_range",
    "reconstruction_error_skewness",
    "resolve",
    "scale_curve",
    "spectral_entropy",
    "stable_rank",
    "top_coordinate_share",
    "uniformity",
    "vasicek_mse",
    "with_chance",
    "within_cell_enrichment",
]


def resolve(measures: list[str] | tuple[str, ...] | str | None) -> list[tuple[str, str]]:
    """`(name, convention)` pairs from names such as `"anisotropy"` or `"intrinsic_dimension:mle"`.

    A bare name stands for all of its conventions, the default one first; `None` for the measures marked default in the
    table; `"all"` for every measure.

    Raises:
        UnknownName: a measure or convention that does not exist; the message lists those that do.
    """
    if measures is None:
        measures = [name for name, measure in MEASURES.items() if measure.default]
    if measures == "all":
        measures = list(MEASURES)
    if isinstance(measures, (list, tuple)) and not measures:
        raise BadInput("measures", came="no name", wanted="names of measures, None for the default ones, or 'all'")
    pairs: list[tuple[str, str]] = []
    for asked in measures if isinstance(measures, (list, tuple)) else [measures]:
        name, _, convention = str(asked).partition(":")
        if name not in MEASURES:
            raise UnknownName("measure", asked, MEASURES, SYNONYMS)
        known = MEASURES[name].conventions
        if convention and convention not in known:
            raise UnknownName(f"convention of {name}", convention, known)
        pairs += [(name, c) for c in ([convention] if convention else known)]
    return list(dict.fromkeys(pairs))


LEAST = {"k": 2, "n1": 1, "n2": 2, "codebooks": 1, "bits": 1, "quantizer_seeds": 1}  # options that are counts


def check_options(options: dict, pairs: list[tuple[str, str]] | None = None) -> None:
    """Every option must belong to some measure, to one of `pairs` if given, and be a count where a count is wanted.

    Raises:
        UnknownName: no measure has such an option.
        BadInput: none of the measures asked for has it, or it is not a count.
    """
    owners = {option: [m for m in MEASURES if option in MEASURES[m].takes] for option in OPTIONS}
    for option, value in options.items():
        if option not in owners:
            raise UnknownName("option", option, sorted(owners))
        if pairs is not None and not any(option in MEASURES[name].takes for name, _ in pairs):
            came = f"{value!r}, which none of the measures asked for takes"
            raise BadInput(option, came=came, wanted=f"no {option}, or one of {', '.join(owners[option])}")
        if option in LEAST and value is not None:
            check_count(option, value, LEAST[option])


def evaluate_all(cloud: PointCloud, pairs: Sequence[tuple[str, str]], **options: Any) -> list[Estimate]:
    """The estimates of `(name, convention)` pairs on one cloud, in the order asked; shared work is done once.

    Args:
        cloud: the rows.
        pairs: from `resolve`.
        options: passed to the measures that take them.
    """
    if sum(MEASURES[name].needs == "spectrum" for name, _ in pairs) > 1:
        cloud.spectrum  # noqa: B018  one decomposition then serves all, where anisotropy alone would not need it
    return [_evaluate(cloud, name, convention, options) for name, convention in pairs]


def _evaluate(cloud: PointCloud, name: str, convention: str, options: dict) -> Estimate:
    measure = MEASURES[name]
    arguments = {option: value for option, value in options.items() if option in measure.takes}
    if len(measure.conventions) > 1:
        arguments["convention"] = convention
    return _told_few_groups(cloud, measure, measure.function(cloud, **arguments))


def _told_few_groups(cloud: PointCloud, measure: Measure, estimate: Estimate) -> Estimate:
    few = cloud.n_groups < FEWEST_GROUPS and cloud.jackknife and not cloud.streamed
    if not few or measure.needs == "counts" or estimate.value is None:
        return estimate
    said = f"few_groups: no standard error from {cloud.n_groups} groups of rows; at least {FEWEST_GROUPS} are needed"
    return estimate.warned(said)


def interval_of(cloud: PointCloud, estimates: list[Estimate], level: float = 0.95, **options: Any) -> list[Estimate]:
    """The estimates with an interval in their details: `low`, `high`, `interval_level`; see `nulls.with_interval`."""
    return with_interval(cloud, estimates, evaluate_all, level, **options)


def with_chance(
    cloud: PointCloud, estimates: list[Estimate], null: bool | str = True, **options: Any
) -> list[Estimate]:
    """The estimates with the value that chance gives in their details: `null`, `p` ...; see `nulls.with_null`.

    Each measure is compared with the kind of surrogate that suits it: spectral measures with isotropic noise,
    neighbours and cells with a Gaussian of the same covariance, directions with shuffled columns. A name in place of
    `True` selects that kind for all of them.
    """
    check_null(null)
    kinds = [null if isinstance(null, str) else MEASURES[estimate.measure].null for estimate in estimates]
    known: dict[tuple[str, str], Estimate] = {}
    for kind in dict.fromkeys(kinds):
        part = [estimate for estimate, own in zip(estimates, kinds, strict=True) if own == kind]
        known |= {(one.measure, one.convention): one for one in with_null(cloud, part, evaluate_all, kind, **options)}
    return [known[estimate.measure, estimate.convention] for estimate in estimates]
