"""The small picture beside each measured number, as points `(x, y)` that the number is computed from."""

from __future__ import annotations

from typing import Any

import torch

from ..measures import PointCloud
from ..measures.cells import unanswerable
from ..measures.kernels.quantizers import complete_options

MAX_POINTS = 200
DIRECTIONS = 32
AXES = {
    "anisotropy": ("direction", "share of variance"),
    "intrinsic_dimension": ("log(r2 / r1)", "-log(1 - F)"),
    "patchiness": ("cell of the first codebook, fullest first", "rows in the cell"),
}
Points = list[tuple[float, float]]


def points_of(name: str, cloud: PointCloud, **options) -> Points:
    """The points that a measure's value comes from, at most 200; none if there is nothing to draw.

    Args:
        name: `"anisotropy"`: share of variance of each direction. `"intrinsic_dimension"`: TwoNN's cumulative law, a
            straight line from the origin whose slope is the dimension. `"patchiness"`: rows in each cell of the first
            codebook, fullest first; flat if rows fall evenly.
        cloud: the rows.
        options: `codebooks` and `bits` of patchiness.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud
        >>> from hf_repgeo.gradio_app.pictures import points_of
        >>> X = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> [(x, round(y, 6)) for x, y in points_of("anisotropy", PointCloud(X))]
        [(1, 0.9), (2, 0.1)]
    """
    return _POINTS[name](cloud, **options)


def _directions(cloud: PointCloud) -> Points:
    values = cloud.spectrum
    total = float(values.sum())
    return list(enumerate((values[:DIRECTIONS] / total).tolist(), 1)) if total > 0 else []


def _two_nn(cloud: PointCloud) -> Points:
    if cloud.n_distinct < 3:
        return []
    r1, r2 = cloud.neighbors.distances[:, 0], cloud.neighbors.distances[:, 1]
    log_mu = (r2 / r1).log().sort().values
    rank = torch.arange(1, len(log_mu) + 1, dtype=torch.float64)
    return _thinned(log_mu, -torch.log1p(-rank / (len(log_mu) + 1)))  # + 1: the last point stays finite


def _cells(cloud: PointCloud, **options: Any) -> Points:
    complete = complete_options(cloud.d, **options)
    if unanswerable(cloud, complete):
        return []
    counts = cloud.codes(**complete).counts[0]
    return _thinned(torch.arange(1, len(counts) + 1), counts.sort(descending=True).values)


def _thinned(x: torch.Tensor, y: torch.Tensor) -> Points:
    step = -(-len(x) // MAX_POINTS)
    return [(float(a), float(b)) for a, b in zip(x[::step], y[::step])]


_POINTS = {"anisotropy": _directions, "intrinsic_dimension": _two_nn, "patchiness": _cells}
