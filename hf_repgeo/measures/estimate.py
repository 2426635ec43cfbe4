"""What a measure answers: a number, how far to trust it, and why it is missing when it is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Estimate:
    """One number about one cloud.

    Attributes:
        measure: name in the table of measures, such as `"anisotropy"`.
        convention: which published variant, such as `"facco"`.
        value: the number, or `None` when it cannot be had; then the first warning says why.
        standard_error: standard error of `value`, in its units, or `None` when there is none.
        se_method: how the standard error was had, such as `"likelihood"` or `"jackknife(20 groups)"`.
        n: rows in the cloud.
        n_distinct: rows left when exact copies count once, or `None` where copies do not matter.
        warnings: `"code: sentence"` each; the code (before the colon) is stable and made for programs.
        details: further numbers that belong to the estimate, such as `n_used` or `reconstruction_error`.
    """

    measure: str
    convention: str
    value: float | None
    standard_error: float | None = None
    se_method: str | None = None
    n: int = 0
    n_distinct: int | None = None
    warnings: tuple[str, ...] = ()
    details: dict[str, float | int | str] = field(default_factory=dict)

    @property
    def codes(self) -> tuple[str, ...]:
        """The machine-readable part of each warning."""
        return tuple(warning.split(":", 1)[0] for warning in self.warnings)

    def warned(self, *warnings: str) -> Estimate:
        """The same estimate with more warnings behind its own."""
        return replace(self, warnings=self.warnings + warnings)


def missing(measure: str, convention: str, reason: str, **fields) -> Estimate:
    """An estimate without a value; `reason` is a `"code: sentence"` and becomes its first warning."""
    return Estimate(measure, convention, None, warnings=(reason,), **fields)
