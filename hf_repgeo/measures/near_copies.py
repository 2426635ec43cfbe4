"""Rows that are copies in all but a few digits: finds them by their distances, and measures without them.

Exact copies are left out before neighbours are searched. Near-copies, such as one sentence padded to two lengths, are
not, and each gives a ratio r2 / r1 that is huge for no other reason: 2 % of them take Gride from 10 to 2, and
a few in thousands move it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch

from .estimate import Estimate

if TYPE_CHECKING:
    from .cloud import PointCloud

NEAR = 1e-3  # of the usual distance to the second neighbour; by chance about 1e-3^d of the rows are so near
SAMPLE = 256  # rows from which the usual distance is estimated
MOVED = 0.02  # relative change of the value from which near-copies give a warning


class NearCopies(NamedTuple):
    """How many rows have a near-copy, within which radius (in the cloud's own units), and the cloud without them."""

    count: int  # type: ignore[assignment]  # tuple.count is not called
    radius: float
    others: PointCloud


def find_near_copies(cloud: PointCloud) -> NearCopies | None:
    """The near-copies among a cloud's distinct rows, or `None` where there are none."""
    distances, rows = cloud.neighbors.distances, cloud.distinct_rows
    usual = max(float(distances[:, 1].median()), _pair_distance(rows) / len(rows))
    radius = NEAR * usual
    count = int((distances[:, 0] <= radius).sum())
    if not count:
        return None
    return NearCopies(count, radius, thinned(cloud, radius))


def _pair_distance(rows: torch.Tensor) -> float:
    """The median distance between rows, about: over their number it is that of neighbours on a line.

    It finds near-copies even if most rows have two of them, so that the second neighbour is one as well.
    """
    sample = rows[:: -(-len(rows) // SAMPLE)].to(torch.float64)
    shifts = (1, len(sample) // 3, len(sample) // 2 + 1)
    return float(torch.cat([(sample - sample.roll(shift, 0)).norm(dim=1) for shift in shifts]).median())


def thinned(cloud: PointCloud, radius: float) -> PointCloud:
    """The distinct rows; of rows within `radius` of each other only the first.

    Every round drops the rows whose nearest neighbour is within `radius` and comes earlier; of a mutual pair one
    remains.
    """
    part = cloud.subset(cloud.distinct)
    while part.n > 3:
        nearest, distance = part.neighbors.indices[:, 0], part.neighbors.distances[:, 0]
        here = torch.arange(part.n, device=nearest.device)
        dropped = (distance * (part.unit / cloud.unit) <= radius) & (nearest < here)
        if not bool(dropped.any()):
            break
        part = part.subset(here[~dropped])
    return part


def without_near_copies(cloud: PointCloud, measure: Callable[[PointCloud], Estimate]) -> Estimate:
    """`measure` of the cloud; if near-copies change it, with a warning, and the value without them in the details."""
    estimate = measure(cloud)
    near = cloud.once(find_near_copies) if estimate.value is not None else None
    if near is None:
        return estimate
    count, radius, others = near
    alone, radius = measure(others).value, radius * cloud.unit
    if alone is not None and estimate.value is not None and abs(alone - estimate.value) <= MOVED * alone:
        return estimate
    said = f"near_copies: {count} of {cloud.n_distinct} rows lie within {radius:.2g} of another, a thousandth of"
    said += " the usual distance, and they move the value" + (f"; without them it is {alone:.4g}" if alone else "")
    details = {"near_copies": count, "near_copies_radius": radius, "n_without_near_copies": others.n}
    if alone is not None:
        details["value_without_near_copies"] = alone
    return replace(estimate, details=estimate.details | details).warned(said)
