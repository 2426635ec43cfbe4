"""Did a measure move from one cloud to the other? Paired differences, with a test over documents and layers.

Both clouds hold the same tokens of the same documents. A document mostly changes a measure in both of them alike, so
the difference is known far better than either value. The jackknife leaves a fold of documents out
of both clouds at once, which gives each fold's own share in the difference (its pseudo-value). If the measure did not
move, these shares are as often above zero as below: flipping their signs at random gives the distribution of the
difference by chance. All layers are flipped alike, and the largest studentised difference over the layers says what the
search through them finds by chance (Westfall & Young 1993, "Resampling-Based Multiple Testing", section 2.6).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import sqrt

import torch

from ..averages import scaled_deviations
from ..estimate import FEWEST_GROUPS, Estimate, missing
from ..student import tail, two_sided
from .redrawn import Scatter

LEVEL = 0.95
FLIPS = 9_999
ALL_FLIPS = 12  # folds up to which every pattern of signs is tried


def paired_differences(
    first: Sequence[Estimate],
    second: Sequence[Estimate],
    *,
    scatter: Sequence[Scatter | None] | None = None,
    seed: int = 0,
    flips: int = FLIPS,
) -> list[Estimate]:
    """The difference of one measure between two clouds, for several layers at once.

    Args:
        first: of one measure and convention, one estimate per layer, each of a cloud with groups.
        second: the same of the other clouds, whose rows are of the same groups and dealt by the same seed.
        scatter: for each layer, that of `redrawn_scatter`; used where the measure has no jackknife over documents.
        seed: of the flips of signs.
        flips: how many, where there are more than 12 folds; with fewer all of them are tried.

    Returns:
        list[Estimate]: for each layer the second value minus the first, with its standard error (jackknife over the
        documents, leaving them out of both) and in the details `first`, `second`, `low` and `high` (95 % interval by
        Student's t), `p` (that this layer did not move) and `p_corrected` (that none of the layers moved, for a
        difference as large as this one). A value that is missing in either cloud is missing. Where a measure has no
        jackknife, the error is that of `scatter`, p is Student's and `p_corrected` Holm's; without `scatter` the
        difference has no error and `no_paired_error` says so.

    Cost: flips x folds x layers, milliseconds.

    Source: Westfall & Young 1993, section 2.6; for images of the brain Nichols & Holmes 2002, "Nonparametric
    permutation tests for functional neuroimaging".

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud, anisotropy
        >>> from hf_repgeo.measures.pairs import paired_differences
        >>> X = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
        >>> wide = X * torch.tensor([3.0] + [1.0] * 7)
        >>> [found] = paired_differences([anisotropy(PointCloud(X))], [anisotropy(PointCloud(wide))])
        >>> found.value > 0.3, found.details["p_corrected"] < 0.001
        (True, True)
    """
    found = [_difference(*layer) for layer in zip(first, second, scatter or [None] * len(first), strict=True)]
    tested = {place: shares for place, (_, shares) in enumerate(found) if shares is not None}
    if tested:
        single, corrected = sign_flip_test(torch.stack(list(tested.values())), seed=seed, flips=flips)
        for place, p, p_corrected in zip(tested, single.tolist(), corrected.tolist(), strict=True):
            found[place][0].details.update(p=p, p_corrected=p_corrected)
    return _corrected_by_holm([estimate for estimate, _ in found])


def _corrected_by_holm(found: list[Estimate]) -> list[Estimate]:
    """Adds `p_corrected` where only `p` is known: Holm 1979, for the search through these layers."""
    single = sorted((one for one in found if {"p", "p_corrected"} & set(one.details) == {"p"}), key=_p)
    highest = 0.0
    for place, one in enumerate(single):
        highest = max(highest, min(1.0, (len(single) - place) * _p(one)))
        one.details["p_corrected"] = highest
    return found


def _p(estimate: Estimate) -> float:
    return estimate.details["p"]


def sign_flip_test(shares: torch.Tensor, *, seed: int = 0, flips: int = FLIPS) -> tuple[torch.Tensor, torch.Tensor]:
    """Two-sided p of every row's mean, alone and corrected for the number of rows.

    Args:
        shares: `(layers, folds)` float64, the pseudo-value of each fold.
        seed, flips: as in `paired_differences`.

    Returns:
        Two `(layers,)` tensors: p of each layer, and p of the largest |t| over layers being as large as this layer's.
    """
    folds = shares.shape[1]
    if folds <= ALL_FLIPS:
        signs = torch.tensor(list(product((1.0, -1.0), repeat=folds)), dtype=torch.float64)
    else:
        drawn = torch.randint(2, (flips, folds), generator=torch.Generator().manual_seed(seed))
        signs = torch.cat([torch.ones(1, folds, dtype=torch.float64), 2.0 * drawn - 1])  # the first: as it is
    means = signs @ shares.T / folds  # (flips, layers)
    spread = (shares.square().mean(1) - means.square()).clamp_min(0).sqrt()
    t = torch.where(means == 0, 0.0, means.abs() / spread)
    seen = t[0] * (1 - 1e-9)  # equal up to rounding counts as equal
    return (t >= seen).double().mean(0), (t.amax(1, keepdim=True) >= seen).double().mean(0)


def _difference(first: Estimate, second: Estimate, scatter: Scatter | None) -> tuple[Estimate, torch.Tensor | None]:
    """The difference, and each fold's share in it where both have a jackknife."""
    name, convention = first.measure, first.convention
    if first.value is None or second.value is None:
        reasons = next(one.warnings for one in (first, second) if one.value is None)
        return missing(name, convention, reasons[0], n=first.n), None
    value = second.value - first.value
    details = {"first": first.value, "second": second.value}
    warnings = tuple(dict.fromkeys(first.warnings + second.warnings))
    shares = _shares(first, second)
    if shares is None and scatter is not None and (scatter.standard_error > 0 or value == 0):
        error, method = scatter.standard_error, f"{scatter.draws} draws of documents"
        t = value / error if error else 0.0
        details |= _interval(value, error, scatter.freedom) | {"p": two_sided(t, scatter.freedom)}
        warnings = tuple(said for said in warnings if not said.startswith("moving_cells:"))  # this error includes it
        return Estimate(name, convention, value, error, method, first.n, None, warnings, details), None
    if shares is None:
        said = f"no_paired_error: {name} has no jackknife over the same documents in both, or fewer than 5 of them"
        return Estimate(name, convention, value, n=first.n, warnings=(*warnings, said), details=details), None
    folds = len(shares)
    error = float(shares.std()) / sqrt(folds)
    details |= _interval(value, error, folds - 1)
    method = f"paired jackknife({folds} groups)"
    return Estimate(name, convention, value, error, method, first.n, None, warnings, details), shares


def _interval(value: float, error: float, freedom: int) -> dict[str, float]:
    reach = tail(LEVEL, freedom) * error
    return {"low": value - reach, "high": value + reach, "interval_level": LEVEL}


def _shares(first: Estimate, second: Estimate) -> torch.Tensor | None:
    """Pseudo-values of the difference, `(folds,)` float64, whose mean is the difference itself."""
    if first.left_out is None or second.left_out is None or len(first.left_out) != len(second.left_out):
        return None
    folds = len(first.left_out)
    if folds < FEWEST_GROUPS or first.standard_error is None or second.standard_error is None:
        return None
    assert first.value is not None and second.value is not None
    deviations = scaled_deviations(second) - scaled_deviations(first)
    return second.value - first.value - (folds - 1) * deviations
