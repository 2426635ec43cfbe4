"""Standard errors of spectral measures: the jackknife, its second-order correction, and where it fails.

The jackknife of a function of the covariance holds the eigenvectors fixed, which is right to first order. Where the
spectrum is flat the function is near its extreme, the first order nearly vanishes, and the noise of the eigenvalues
remains. The variance of a statistic with a first-order part S1 and a second-order part S2 is S1 + S2, but its jackknife
expects S1 + 2 S2 (Efron & Stein, "The jackknife estimate of variance", Annals of Statistics 9, 1981); so S2, which is
known for normal rows, is subtracted. Rows of one document are alike and count as fewer (`design_effect`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from .estimate import jackknife
from .kernels.products import times_transposed

if TYPE_CHECKING:
    from .cloud import PointCloud

FLAT = 1.0  # second order over the jackknife's variance; 1/2 where there is no first order, above where neither holds
HEAVY = 10.0  # times the mean share of the variance: a group that other samples may not contain
MOST_PAIRS = 1024  # eigenvalues whose pairs are summed; of more, evenly spaced ones
Error = tuple[float | None, str | None, tuple[str, ...], torch.Tensor | None]


def spectral_error(cloud: PointCloud, function: Callable, counts_rank: bool) -> Error:
    """Standard error of `function` of the cloud's eigenvalues, its method, warnings, and the values of the jackknife.

    Args:
        cloud: at least two rows, not all equal.
        function: eigenvalues `(..., k)` to `(...,)`.
        counts_rank: whether weak directions move the function much. Then there is no error for n <= d, where the
            rows decide their number, and with documents as groups it is a lower bound (true scatter 1.1 to 1.6 times).
    """
    if counts_rank and cloud.n <= cloud.d:
        said = f"rank_limited: {cloud.n} rows cannot span {cloud.d} columns; the value counts rows and has no error"
        return None, None, (said,), None
    left_out = function(cloud.fold_spectra)
    error, method = jackknife(left_out)
    if not error or method is None:
        return error, method, (), left_out
    second = second_order_variance(function, cloud.spectrum, cloud.n) * cloud.once(design_effect) ** 2
    corrected = max(error**2 - second, error**2 / 2) ** 0.5
    if counts_rank and not cloud.rows_stand_alone:  # each document has its own weak directions, held fixed here
        return corrected, f"{method}, lower bound", (), left_out
    if second > FLAT * error**2:
        said = "flat_spectrum: leading directions are hardly told apart"
        return corrected, f"{method}, upper bound", (said,), left_out
    return corrected, *with_heavy_tails(cloud, method), left_out


def with_heavy_tails(cloud: PointCloud, method: str) -> tuple[str, tuple[str, ...]]:
    """The method of an error and its warnings, if one group of rows has far more of the variance than others."""
    if cloud.heaviest_group <= HEAVY:
        return method, ()
    what = "one row" if cloud.rows_stand_alone else "one group of rows"
    said = f"heavy_tails: {what} holds {cloud.heaviest_group:.0f} times the mean share of the variance"
    return f"{method}, lower bound", (f"{said}; the standard error is a lower bound",)


def design_effect(cloud: PointCloud) -> float:
    """How many times larger the variance of the covariance is for grouped rows than for independent ones, at least 1.

    The variances of all entries of the scatter matrix, summed: between the folds, of which each holds whole groups, and
    as they would be for normal rows, `((sum lambda)^2 + sum lambda^2) / n`. A fold's matrix has the Frobenius norm of
    its rows' inner products. O(n^2 d / folds).

    Source: Kish, "Survey Sampling" (1965), section 8.2, for a mean.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud
        >>> from hf_repgeo.measures.spectral_errors import design_effect
        >>> rows = torch.randn(500, 8, generator=torch.Generator().manual_seed(0)).repeat(4, 1)  # four of each
        >>> round(design_effect(PointCloud(rows, groups=torch.arange(2000) % 500)))
        4
    """
    if cloud.rows_stand_alone:
        return 1.0
    few = cloud.n <= cloud.d
    if cloud.origin and not few:  # the value for nearly the same rows is good enough
        return cloud.origin[0].once(design_effect)
    rows = cloud.rows - cloud.rows.mean(0)
    folds = int(cloud.folds.max()) + 1
    parts = (rows[cloud.folds == fold] for fold in range(folds))
    squares = sum(float(times_transposed(part, part).square().sum(dtype=torch.float64)) for part in parts)
    whole = float((cloud.spectrum * cloud.n if few else cloud.moments.scatter).square().sum())
    total = cloud.n * float(cloud.column_variances.sum())
    between = (squares - whole / folds) * folds / max(1, folds - 1)
    return max(1.0, between * cloud.n / (total**2 + whole))


def second_order_variance(function: Callable, eigenvalues: torch.Tensor, n: int) -> float:
    """Variance from the second-order term of a function of the covariance of n normal rows.

    `1 / n^2 sum_{j, k} g_jk^2 lambda_j^2 lambda_k^2`, with the divided differences `g_jk` of the function's slopes:
    the derivative rotates with the eigenvectors, and those of near eigenvalues mix.

    Args:
        function: differentiable, `(k,)` eigenvalues to `()`.
        eigenvalues: `(k,)` float64, descending.
        n: number of rows.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures.spectral_errors import second_order_variance
        >>> from hf_repgeo.measures.spectrum import participation_ratio_of
        >>> equal = torch.ones(50, dtype=torch.float64) - torch.arange(50) * 1e-6
        >>> round(second_order_variance(participation_ratio_of, equal, 1000) ** 0.5 * 1000 / 50, 2)    # 2 d / n
        1.98
    """
    values = eigenvalues[eigenvalues > 1e-12 * eigenvalues[0]].detach().clone().requires_grad_()
    with torch.enable_grad():
        (slopes,) = torch.autograd.grad(function(values), values)
    step = -(-len(values) // MOST_PAIRS)
    values, slopes = values.detach()[::step], slopes[::step]
    gaps = values[:, None] - values
    gaps.masked_fill_(gaps.abs() <= 1e-9 * values[0], torch.inf)  # equal eigenvalues mix into nothing new
    mixing = (slopes[:, None] - slopes).div_(gaps)
    return float(values.square() @ mixing.square_() @ values.square()) * step**2 / n**2
