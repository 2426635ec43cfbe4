"""Student's t distribution for whole degrees of freedom, in elementary functions.

Abramowitz & Stegun, "Handbook of Mathematical Functions" (1964), 26.7.3 and 26.7.4.
"""

from __future__ import annotations

import math


def central(t: float, freedom: int) -> float:
    """Probability of lying between -t and t, t >= 0.

    Example:
        >>> from hf_repgeo.measures.student import central
        >>> round(central(2.306, 8), 4)
        0.95
    """
    theta = math.atan(t / math.sqrt(freedom))
    cosine, sine = math.cos(theta), math.sin(theta)
    term = cosine if freedom % 2 else 1.0
    total = term if freedom > 1 else 0.0
    for j in range(3 if freedom % 2 else 2, freedom - 1, 2):
        term *= (j - 1) / j * cosine**2
        total += term
    return 2 / math.pi * (theta + sine * total) if freedom % 2 else sine * total


def two_sided(t: float, freedom: int) -> float:
    """Probability of lying as far from 0 as t or farther, on either side."""
    return min(1.0, max(0.0, 1 - central(abs(t), freedom)))


def tail(share: float, freedom: int) -> float:
    """The t between whose negative and itself `share` of the distribution lies, 0 < share < 1."""
    low, high = 0.0, 1.0
    while central(high, freedom) < share:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if central(middle, freedom) < share else (low, middle)
    return high
