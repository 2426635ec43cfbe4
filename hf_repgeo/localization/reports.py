"""Localisations as a `GeometryReport`: for the terminal, JSON, Parquet, pandas and the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..report import GeometryReport
from .ablation import Localization

INDEX = "locality_index"


def localization_report(found: Mapping[str, Mapping[str, Localization]], source: str) -> GeometryReport:
    """One row for each property of each table of embeddings: the locality index, and that of shuffled dimensions.

    Args:
        found: table of embeddings, such as `"all dimensions"` -> property -> what was localised.
        source: of the embeddings.

    Returns:
        GeometryReport: rows with `stack` the property, `tokens` the table, `convention` the ablation, and in `details`
        score, verdict, `null`, `null_low`, `null_high`. The effects of single regions are in
        `provenance["localization"]`.

    Example:
        >>> from hf_repgeo.localization.reports import localization_report
        >>> from hf_repgeo.localization.ablation import Localization
        >>> one = Localization(-0.2, None, "mean", [], 0.9, 0.1, 0.0, 0.2, 100, "localised")
        >>> report = localization_report({"all dimensions": {"subject": one}}, "planted")
        >>> report.value("locality_index", stack="subject"), report.rows[0]["details"]["verdict"]
        (0.9, 'localised')
    """
    content = {name: {prop: one.as_dict() for prop, one in of_table.items()} for name, of_table in found.items()}
    report = GeometryReport(provenance={"source": source, "localization": content})
    for name, of_table in found.items():
        for prop, one in of_table.items():
            no_index = () if one.index is not None else (f"no_index: {one.verdict}",)
            columns = {"stack": prop, "tokens": name, "measure": INDEX, "convention": one.how, "protocol": "whole"}
            report.add(**columns, value=one.index, warnings=no_index, details=_details(one))
    return report


def _details(one: Localization) -> dict[str, Any]:
    beside = {"null": one.null_mean, "null_low": one.null_low, "null_high": one.null_high, "p": one.p_value}
    details: dict[str, Any] = {
        "score": one.score,
        "verdict": one.verdict,
        "n_null": one.n_null,
        "null_kind": "shuffled dimensions",
    }
    return details | {name: value for name, value in beside.items() if value is not None}
