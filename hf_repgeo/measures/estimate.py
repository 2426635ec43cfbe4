"""The result of a measure: a number with its standard error, or the reason why it is missing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch

FEWEST_GROUPS = 5  # with fewer there is no standard error


@dataclass(frozen=True)
class Estimate:
    """One number about one cloud.

    Attributes:
        measure: name in the table of measures, such as `"anisotropy"`.
        convention: which published variant, such as `"facco"`.
        value: the number, or `None` if it cannot be computed; then the first warning says why.
        standard_error: standard error of `value`, in its units, or `None` when there is none.
        se_method: how the standard error was computed, such as `"likelihood"` or `"jackknife(20 groups)"`.
        n: rows in the cloud.
        n_distinct: rows left when exact copies count once, or `None` where copies do not matter.
        warnings: `"code: sentence"` each; the code (before the colon) is stable and made for programs.
        details: further numbers that belong to the estimate, such as `n_used` or `reconstruction_error`.
        left_out: `(folds,)` float64: the value without each fold of the cloud's groups, where a jackknife was made.
    """

    measure: str
    convention: str
    value: float | None
    standard_error: float | None = None
    se_method: str | None = None
    n: int = 0
    n_distinct: int | None = None
    warnings: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    left_out: torch.Tensor | None = field(default=None, compare=False, repr=False)

    @property
    def codes(self) -> tuple[str, ...]:
        """The machine-readable part of each warning."""
        return tuple(warning.split(":", 1)[0] for warning in self.warnings)

    def warned(self, *warnings: str) -> Estimate:
        """The same estimate with more warnings after its own."""
        return replace(self, warnings=self.warnings + warnings)


def missing(measure: str, convention: str, reason: str, **fields: Any) -> Estimate:
    """An estimate without a value; `reason` is a `"code: sentence"` and becomes its first warning."""
    return Estimate(measure, convention, None, warnings=(reason,), **fields)


def jackknife(leave_one_out: torch.Tensor) -> tuple[float | None, str | None]:
    """Delete-a-group jackknife: standard error and its method from the `(g,)` values with one group left out each.

    `sqrt((g - 1) / g * sum_j (value_j - mean)^2)`; groups are folds of nearly equal size. `(None, None)` for fewer than
    `FEWEST_GROUPS`, whose spread is too uncertain, or when a value is missing.
    """
    g = len(leave_one_out)
    if g < FEWEST_GROUPS or not bool(torch.isfinite(leave_one_out).all()):
        return None, None
    return float(((g - 1) * leave_one_out.var(correction=0)).sqrt()), f"jackknife({g} groups)"
