"""Curves over layers from reports, for `figures.curves_figure`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import BadInput
from ..measures import MEASURES
from ..report_table import ReportTable
from .figures import Curve, curves_figure

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

WITH, WITHOUT = "all", "sink_robust"
TOKENS = {
    "every token": "all",
    "without special tokens": "no_special",
    "without sinks": "sink_robust",
    "one of each type": "one_per_type",
}
WORDS = {policy: words for words, policy in TOKENS.items()}


def layer_rows(report: ReportTable, measure: str, tokens: str) -> dict[str, list[dict[str, Any]]]:
    """Stack -> rows of the default convention that have a value, in order of layers."""
    convention = MEASURES[measure].conventions[0]
    part = report.stream().select(measure=measure, convention=convention, tokens=tokens)
    rows = [row for row in part if row["value"] is not None and row["layer"] is not None]
    stacks = dict.fromkeys(row["stack"] for row in rows)
    return {s: sorted((r for r in rows if r["stack"] == s), key=lambda row: row["layer"]) for s in stacks}


def curve_of(name: str, rows: list[dict[str, Any]], **look: Any) -> Curve:
    """A curve through the values of these rows."""
    layers, values, errors, n = ([row[column] for row in rows] for column in ("layer", "value", "se", "n"))
    return Curve(name, layers, values, errors, n, **look)


def chance_of(name: str, rows: list[dict[str, Any]], place: int = 0) -> Curve | None:
    """The line that chance gives; `None` where it was not measured."""
    known = [row | {"value": row["details"]["null"], "se": None} for row in rows if "null" in row["details"]]
    return curve_of(name, known, place=place) if known else None


def measured_curves(reports: dict[str, ReportTable], measure: str, tokens: list[str]) -> tuple[list[Curve], list]:
    """The curves of a measure, and of what chance gives: one colour per model, one dash style per token policy."""
    curves, chances = [], []
    for place, (name, report) in enumerate(reports.items()):
        for style, policy in enumerate(tokens):
            stacks = layer_rows(report, measure, policy)
            for number, (stack, rows) in enumerate(stacks.items()):
                named = [name] * (len(reports) > 1 or len(tokens) == 1)
                title = ", ".join([*named, *[stack] * (len(stacks) > 1), *[WORDS[policy]] * (len(tokens) > 1)])
                curves.append(curve_of(title, rows, place=place, style=style + number))
        rows = next(iter(layer_rows(report, measure, tokens[0]).values()), [])
        chances.append(chance_of(f"chance, {name}" if len(reports) > 1 else "chance", rows, place))
    return curves, [chance for chance in chances if chance is not None]


def measure_figure(reports: dict[str, ReportTable], measure: str, tokens: list[str], height: int = 300) -> Figure:
    """One measure over the layers of one or several reports.

    Args:
        reports: by the name to show.
        measure: such as `"anisotropy"`.
        tokens: token policies to draw.
        height: in pixels.

    Raises:
        BadInput: no report has the measure.
    """
    curves, chances = measured_curves(reports, measure, tokens)
    if not curves:
        raise BadInput("reports", came=f"no value of {measure!r} for tokens {tokens}", wanted="measured layers")
    limits = (-0.03, 1.05) if MEASURES[measure].range == (0, 1) else None
    return curves_figure(curves, MEASURES[measure].unit, chance=chances, limits=limits, height=height)
