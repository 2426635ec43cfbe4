"""Whether a report holds when it is measured again."""

from .again import TOLERANCES, Verification, compare_reports, verify_report

__all__ = ["TOLERANCES", "Verification", "compare_reports", "verify_report"]
