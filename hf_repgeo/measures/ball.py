"""TwoNN without its finite-sample bias, by comparison with a shape whose dimension is known: the uniform ball.

TwoNN assumes that the density is constant around each row. Of n rows in k dimensions most lie near a boundary, so its
value is too small: 16.3 for 2,500 rows of a 20-dimensional ball. For a ball of any dimension and any n this value is
known without simulation; the curve `reading(k, n)` is a file of this package, which `benchmarks/ball_curve.py` computes
by quadrature. Its inverse turns a value of TwoNN into the k whose ball would give the same.
"""

from __future__ import annotations

import csv
from functools import lru_cache
from pathlib import Path

import numpy as np

CURVE = Path(__file__).parent.parent / "data" / "ball_readings.csv"


def ball_dimension(reading: float, n: int) -> tuple[float, float] | None:
    """The k whose uniform k-ball of n rows reads `reading` under TwoNN's likelihood, and `dk / dreading`.

    Readings below that of a ball of dimension 1 keep its factor, which is nearly 1. n beyond 2^20 counts as 2^20.

    Args:
        reading: what TwoNN reads, > 0.
        n: distinct rows, at least 16.

    Returns:
        `(k, slope)`, or `None` where the reading exceeds that of a ball of 16,384 dimensions.

    Example:
        >>> from hf_repgeo.measures.ball import ball_dimension
        >>> k, slope = ball_dimension(16.3, n=2500)
        >>> round(k, 1), round(slope, 2)
        (20.0, 1.5)
    """
    dimensions, readings = _column(n)
    if reading <= readings[0]:
        factor = dimensions[0] / readings[0]
        return reading * factor, factor
    if reading > readings[-1]:
        return None
    k = float(np.exp(np.interp(np.log(reading), np.log(readings), np.log(dimensions))))
    slope = float(np.interp(reading, readings, np.gradient(dimensions, readings)))
    return k, slope


def _column(n: int) -> tuple[np.ndarray, np.ndarray]:
    """The dimensions k, and what n rows of their balls read, `(57,)` each."""
    rows, dimensions, table = _curve()
    place = np.interp(np.log2(n), np.log2(rows), np.arange(len(rows)))
    left = min(int(place), len(rows) - 2)
    share = place - left
    return dimensions, np.exp((1 - share) * np.log(table[:, left]) + share * np.log(table[:, left + 1]))


@lru_cache(maxsize=1)
def _curve() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of rows `(17,)`, dimensions `(57,)` and readings `(57, 17)`."""
    with CURVE.open(newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file)
    table = np.array(lines, dtype=np.float64)
    return np.array(header[1:], dtype=np.float64), table[:, 0], table[:, 1:]
