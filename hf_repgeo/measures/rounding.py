"""The effect of rounding in stored rows: it is noise, and with an offset it can be as large as the spread.

A float of precision eps holds x to half of `ulp(x) = eps 2^floor(log2 |x|)`, so its rounding has the variance
ulp^2 / 12. float16 holds 1,000 to 0.25 and bfloat16 10 to 0.03: in a cloud of unit spread with such an offset, this
noise decides neighbours and small eigenvalues.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .cloud import PointCloud

SAMPLE = 256  # rows from which the noise is estimated
LOSS = 0.02  # relative change from which there is a warning
CLEAN = 1e-12  # share of the variance that changes no measure


def rounding_noise(cloud: PointCloud) -> float:
    """Expected squared length of a row's rounding error, in the units of `cloud.rows`; 0 where it changes no measure.

    Columns that do not vary are rounded in the same way in every row and have none. O(256 d).
    """
    if not cloud.given_dtype.is_floating_point:
        return 0.0
    sample = cloud.rows[:: -(-cloud.n // SAMPLE)].to(torch.float64)
    info = torch.finfo(cloud.given_dtype)
    least = info.tiny * info.eps / cloud.unit
    ulp = info.eps * torch.exp2(torch.frexp(sample).exponent - 1.0)
    ulp = torch.where(sample == 0, least, ulp.clamp_min(least))
    variances = sample.var(0, correction=0)
    noise = float(torch.minimum(ulp.square().mean(0) / 12, variances).sum())
    return noise if noise > CLEAN * float(variances.sum()) else 0.0


def spectral_loss(
    cloud: PointCloud, value: float, function: Callable, eigenvalues: torch.Tensor | None = None
) -> tuple[str, ...]:
    """A warning where a function of the eigenvalues (default: the covariance's) would differ by 2 % without noise.

    The noise adds its variance to every eigenvalue; those up to the edge of its own spectrum (Marchenko, Pastur 1967)
    are noise alone.
    """
    noise = cloud.once(rounding_noise)
    if not noise:
        return ()
    noise = noise / min(cloud.n_seen - 1, cloud.d)
    edge = noise * (1 + (cloud.d / cloud.n_seen) ** 0.5) ** 2
    values = cloud.spectrum if eigenvalues is None else eigenvalues
    clean = torch.where(values > edge, values - noise, 0.0)
    without = float(function(clean)) if float(clean.sum()) > 0 else math.nan
    if abs(without - value) <= LOSS * abs(value):
        return ()
    told = f"moves this number, about {without:.3g} without it" if math.isfinite(without) else "makes this number"
    return (f"rounding: {_of(cloud)} {told}; {CURE}",)


def variance_loss(cloud: PointCloud) -> tuple[str, ...]:
    """A warning where rounding makes up 2 % of the variance."""
    noise = cloud.once(rounding_noise)
    share = noise / float(cloud.column_variances.sum()) if noise else 0.0
    return (f"rounding: {_of(cloud)} makes up {min(share, 1):.0%} of the variance; {CURE}",) if share > LOSS else ()


def neighbor_loss(cloud: PointCloud, first: torch.Tensor) -> tuple[str, ...]:
    """A warning where rounding makes up 2 % of the squared distances `first` to the nearest neighbours, `(n,)`."""
    noise = cloud.once(rounding_noise)
    share = 2 * noise / max(float(first.median()) ** 2, sys.float_info.min) if noise else 0.0
    if share <= LOSS:
        return ()
    return (f"rounding: {_of(cloud)} makes up {min(share, 1):.0%} of the squared distances to neighbours; {CURE}",)


CURE = "collect in a wider dtype, or subtract the mean before rounding"


def _of(cloud: PointCloud) -> str:
    return f"rounding to {str(cloud.given_dtype).removeprefix('torch.')}"
