"""What chance alone gives at this n and d, and intervals by document.

A number means little without its chance level: anisotropy of pure noise is far above 1 / d, and intrinsic dimension is
biased low. A null evaluates the very same measure on rows without the structure asked about:

- `"isotropic"`: independent standard normal entries. For spectral measures.
- `"gaussian"`: normal rows with the cloud's mean and covariance. For neighbours, cells.
- `"shuffled"`: each column permuted by itself: the cloud's marginals, without dependence. For directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import torch

from ..errors import BadInput, UnknownName
from .estimate import Estimate
from .moments import Moments
from .student import tail, two_sided

if TYPE_CHECKING:
    from .cloud import PointCloud

Pairs = tuple[tuple[str, str], ...]  # (measure, convention)
Evaluate = Callable[..., list[Estimate]]  # evaluate(cloud, pairs, **options)

DRAWS = 9  # surrogates; bands and p are Student's with 8 degrees of freedom
BAND = 0.95
HALVES = 40
FEWEST_GROUPS = 4  # with fewer, random halves hardly differ


def marchenko_pastur_anisotropy(n: int, d: int) -> float:
    """Anisotropy of n independent rows of an isotropic Gaussian in d dimensions: `(1 + sqrt(d / n))^2 / d`.

    Source: the upper edge of the spectrum, Marchenko, Pastur (1967). Right to 2 % from n = 64 on.

    Example:
        >>> from hf_repgeo.measures.nulls import marchenko_pastur_anisotropy
        >>> round(marchenko_pastur_anisotropy(4096, 768), 5)
        0.00267
    """
    return (1 + math.sqrt(d / n)) ** 2 / d


# --- surrogates -----------------------------------------------------------------------------------------------------


def check_null(null: bool | str | None) -> None:
    """Checks `null`: `True` selects the kind that suits each measure, a name that kind.

    Raises:
        UnknownName: a kind that does not exist.
    """
    if isinstance(null, bool) or null is None:
        return
    if not isinstance(null, str) or null not in SURROGATES:
        raise UnknownName("null", null, ["True", "False", *SURROGATES])


def surrogates(cloud: PointCloud, kind: str, seed: int, draws: int) -> Iterator[torch.Tensor]:
    """Rows like the cloud's in number, columns, dtype and device, without the structure that `kind` takes away.

    Raises:
        UnknownName: a kind that does not exist.
    """
    if kind not in SURROGATES:
        raise UnknownName("null", kind, SURROGATES)
    draw = SURROGATES[kind](cloud)
    for number in range(draws):
        yield draw(torch.Generator().manual_seed(seed + number)).to(cloud.rows)


Draw = Callable[[torch.Generator], torch.Tensor]


def _isotropic(cloud: PointCloud) -> Draw:
    return lambda generator: torch.randn(cloud.n, cloud.d, generator=generator)


def _gaussian(cloud: PointCloud) -> Draw:
    """Normal rows whose covariance is the cloud's, shrunk: `(1 - z) S + z tr(S) / d I`.

    The eigenvalues of n rows drawn from the sample covariance S itself would be dispersed twice, and the rows would
    have fewer directions. Shrinkage undoes the first dispersion as far as one number can.
    """
    mean = cloud.rows.mean(0, dtype=torch.float64)
    squares, factor = _covariance(cloud, mean)
    trace, d = float(cloud.column_variances.sum()), cloud.d
    shrinkage = gaussian_shrinkage(cloud.n, d, trace, squares)
    factor = ((1 - shrinkage) ** 0.5 * factor).to(cloud.rows.dtype)
    level, mean = (shrinkage * trace / d) ** 0.5, mean.to(cloud.rows.dtype)

    def draw(generator: torch.Generator) -> torch.Tensor:
        mixture, noise = (_noise(cloud, width, generator) for width in (len(factor), d))
        return mixture @ factor + level * noise + mean

    return draw


def _covariance(cloud: PointCloud, mean: torch.Tensor) -> tuple[float, torch.Tensor]:
    """`tr S^2` of the covariance S, and a factor F with `F^T F = S`: for n <= d the centred rows over root n."""
    if cloud.n <= cloud.d:
        factor = (cloud.rows.to(torch.float64) - mean) / cloud.n**0.5  # (n, d)
        return float((factor @ factor.T).square().sum()), factor
    values, vectors = torch.linalg.eigh(cloud.moments.scatter / cloud.moments.count)
    return float(values.square().sum()), (vectors * values.clamp_min(0).sqrt()).T  # (d, d)


def _noise(cloud: PointCloud, width: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(cloud.n, width, generator=generator, dtype=cloud.rows.dtype).to(cloud.rows.device)


def gaussian_shrinkage(n: int, d: int, trace: float, squares: float) -> float:
    """How far the covariance S of n normal rows is best shrunk towards a multiple of the identity, in [0, 1].

    Linear shrinkage after Ledoit & Wolf with the optimum for normal rows, which needs traces only:
    `((1 - 2 / d) tr S^2 + tr^2 S) / ((n + 1 - 2 / d) (tr S^2 - tr^2 S / d))`. Ledoit and Wolf's own estimate takes
    fourth moments of the rows, and a handful of massive rows would make it 1.

    Args:
        n, d: rows and columns.
        trace: of S.
        squares: trace of S^2.

    Source: Ledoit, Wolf, "A well-conditioned estimator for large-dimensional covariance matrices" (2004); Chen,
    Wiesel, Eldar, Hero, "Shrinkage algorithms for MMSE covariance estimation" (2010), equation 23.
    """
    uneven = squares - trace**2 / d
    if d == 1 or uneven <= 0:
        return 0.0 if d == 1 else 1.0
    return min(1.0, ((1 - 2 / d) * squares + trace**2) / ((n + 1 - 2 / d) * uneven))


def _shuffled(cloud: PointCloud) -> Draw:
    def draw(generator: torch.Generator) -> torch.Tensor:
        order = torch.rand(cloud.n, cloud.d, generator=generator).argsort(0).to(cloud.rows.device)
        return cloud.rows.gather(0, order)

    return draw


SURROGATES = {"isotropic": _isotropic, "gaussian": _gaussian, "shuffled": _shuffled}


# --- chance beside a number -----------------------------------------------------------------------------------------


def with_null(
    cloud: PointCloud, estimates: list[Estimate], evaluate: Evaluate, kind: str, **options: Any
) -> list[Estimate]:
    """The estimates with the value that chance gives in their details, from `DRAWS` surrogates.

    `null`, the mean of the surrogates' values, and `null_sd`, their standard deviation; `null_low` and `null_high`,
    between which 95 of 100 further surrogates would fall; `z = (value - null) / (null_sd sqrt(1 + 1 / DRAWS))` and `p`,
    the share of surrogates that would be as far out on either side, by Student's law; `null_kind`, `null_draws`. Where
    all surrogates agree there is no `z` and no `p`.

    Args:
        cloud: the rows.
        estimates: the estimates of the cloud.
        evaluate: `evaluate(cloud, pairs, **options)` makes estimates.
        kind: of surrogate.
        options: of the measures.

    Cost: `DRAWS` times that of the measures; isotropic chance levels are cached for each n and d.
    """
    pairs = tuple((estimate.measure, estimate.convention) for estimate in estimates)
    if kind == "isotropic":
        like = (cloud.n, cloud.d, cloud.rows.dtype, cloud.rows.device, cloud.seed)
        stream = cloud.n_seen if cloud.streamed else None
        runs = _isotropic_runs(*like, stream, evaluate, pairs, tuple(sorted(options.items())))
    else:
        clouds = (_bare(rows, cloud.seed) for rows in surrogates(cloud, kind, cloud.seed + 1, DRAWS))
        runs = [_values(evaluate(one, pairs, **options)) for one in clouds]
    return [_noted(estimate, values, kind) for estimate, values in zip(estimates, zip(*runs), strict=True)]


@lru_cache(maxsize=64)
def _isotropic_runs(
    n: int,
    d: int,
    dtype: torch.dtype,
    device: torch.device,
    seed: int,
    stream: int | None,
    evaluate: Evaluate,
    pairs: Pairs,
    options: tuple[tuple[str, Any], ...],
) -> list[tuple[float | None, ...]]:
    generator = torch.Generator().manual_seed(seed + 1)
    runs = []
    for _ in range(DRAWS):
        cloud = _bare(torch.randn(n, d, generator=generator, dtype=dtype).to(device), seed)
        if stream:
            cloud.stream(_isotropic_moments(stream, d, generator))
        runs.append(_values(evaluate(cloud, pairs, **dict(options))))
    return runs


def _isotropic_moments(n: int, d: int, generator: torch.Generator) -> Moments:
    """Moments of n standard normal rows without drawing them: Bartlett's factor of their scatter (1933)."""
    factor = torch.randn(d, d, generator=generator, dtype=torch.float64).tril(-1)
    halves = (n - 1 - torch.arange(d, dtype=torch.float64)).clamp_min(0) / 2  # of the degrees of freedom
    factor += torch.diag((2 * torch._standard_gamma(halves.clamp_min(1e-9), generator)).sqrt())
    factor *= halves > 0  # n rows span n - 1 directions
    mean, nowhere = torch.zeros(d, dtype=torch.float64), torch.full((d,), torch.nan, dtype=torch.float64)
    return Moments(n, mean, factor @ factor.T, nowhere, 0)


def _bare(rows: torch.Tensor, seed: int) -> PointCloud:
    from .cloud import PointCloud

    return PointCloud(rows, jackknife=False, seed=seed)


def _values(estimates: list[Estimate]) -> tuple[float | None, ...]:
    return tuple(estimate.value for estimate in estimates)


def _noted(estimate: Estimate, values: tuple[float | None, ...], kind: str) -> Estimate:
    numbers = [value for value in values if value is not None]
    if estimate.value is None or len(numbers) < len(values):
        return estimate
    null = _chance(estimate.value, fmean(numbers), stdev(numbers), kind)
    return replace(estimate, details=estimate.details | null)


def _chance(value: float, mean: float, sd: float, kind: str, batches: int = 1) -> dict[str, Any]:
    """Chance for the mean over this many batches; `sd` is that of one batch's surrogates."""
    spread = sd * (1 / batches + 1 / DRAWS) ** 0.5
    reach = spread * tail(BAND, DRAWS - 1)
    null = {"null": mean, "null_sd": sd / batches**0.5, "null_low": mean - reach, "null_high": mean + reach}
    null |= {"null_kind": kind, "null_draws": DRAWS}
    if spread > 1e-12 * abs(mean):
        z = (value - mean) / spread
        null |= {"z": z, "p": two_sided(z, DRAWS - 1)}
    return null


def chance_of_mean(estimates: Sequence[Estimate]) -> dict[str, Any]:
    """`null`, `p` ... of the mean over batches, from the chance level of each batch; empty if one batch has none.

    By chance the rows of different batches are independent, so the standard deviation of the mean of B batches is that
    of one batch over the root of B. The level itself is only known as well as from one batch, since all batches draw
    their surrogates from the same random numbers. Hence `z = (value - null) / (sd sqrt(1 / B + 1 / DRAWS))`, sd that of
    one batch.

    Args:
        estimates: of each batch, with a value, from `with_null`.
    """
    if any("null" not in estimate.details for estimate in estimates):
        return {}
    sd = fmean(estimate.details["null_sd"] ** 2 for estimate in estimates) ** 0.5
    value = fmean(estimate.value for estimate in estimates if estimate.value is not None)
    null = fmean(estimate.details["null"] for estimate in estimates)
    return _chance(value, null, sd, estimates[0].details["null_kind"], len(estimates))


# --- intervals ------------------------------------------------------------------------------------------------------


def check_interval(level: float | None) -> None:
    """Raises:
    BadInput: not a share between 0 and 1.
    """
    if level is None:
        return
    if isinstance(level, bool) or not isinstance(level, (int, float)) or not 0 < level < 1:
        cure = "95 % is interval=0.95."
        raise BadInput("interval", came=repr(level), wanted="a share between 0 and 1, or None", cure=cure)


def with_interval(
    cloud: PointCloud, estimates: list[Estimate], evaluate: Evaluate, level: float = 0.95, **options: Any
) -> list[Estimate]:
    """The estimates with `low`, `high` and `interval_level` in their details, by random halves of the documents.

    Half of the groups, drawn without replacement, differ from the whole by as much as the whole differs from the truth
    (variance n / m - 1 = 1 times its own), so the spread of `HALVES` such values needs no rescaling. And no row comes
    twice, as in a bootstrap, where copies would be removed from a neighbour search and crowd a cell. The halves' values
    are shifted so that their mean is the value, since many measures depend on n.

    Args:
        cloud: the rows; `groups` are the documents. With fewer than four there is no interval, and a warning says so.
        estimates: the estimates of the cloud.
        evaluate: `evaluate(cloud, pairs, **options)` makes estimates.
        level: probability that the interval holds the true value, in (0, 1).
        options: of the measures.

    Cost: `HALVES` times that of the measures on half of the rows.

    Source: Wu, "On the asymptotic properties of the jackknife histogram" (1990); Politis, Romano, Wolf (1999).
    """
    pairs = tuple((estimate.measure, estimate.convention) for estimate in estimates)
    groups, owner = torch.unique(cloud.groups, return_inverse=True)
    if len(groups) < FEWEST_GROUPS:
        said = f"too_few_groups: no interval from {len(groups)} groups of rows; at least {FEWEST_GROUPS} are needed"
        return [estimate.warned(said) for estimate in estimates]
    generator = torch.Generator().manual_seed(cloud.seed)
    runs = []
    for _ in range(HALVES):
        half = torch.randperm(len(groups), generator=generator)[: len(groups) // 2].to(owner.device)
        part = _bare(cloud.rows[torch.isin(owner, half)], cloud.seed)
        runs.append(_values(evaluate(part, pairs, **options)))
    return [_bounded(estimate, values, level) for estimate, values in zip(estimates, zip(*runs), strict=True)]


def _bounded(estimate: Estimate, values: tuple[float | None, ...], level: float) -> Estimate:
    numbers = [value for value in values if value is not None]
    if estimate.value is None or len(numbers) < len(values):
        return estimate
    centred = torch.tensor(numbers, dtype=torch.float64) - fmean(numbers) + estimate.value
    tail = (1 - level) / 2
    low, high = torch.quantile(centred, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return replace(estimate, details=estimate.details | {"low": low, "high": high, "interval_level": level})
