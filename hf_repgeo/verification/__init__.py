"""Checks whether measuring again reproduces a report."""

from .again import TOLERANCES, Verification, compare_reports, verify_report

__all__ = ["TOLERANCES", "Verification", "compare_reports", "verify_report"]
