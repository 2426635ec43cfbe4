"""Verdicts as a `GeometryReport`, and as a figure."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from io import BytesIO
from typing import Any

from matplotlib.figure import Figure

from ..plots.glyphs import drawable
from ..report import GeometryReport
from ..report_table import ReportTable
from ..report_text import number, without_folders
from .verdict import Interval, Where

KEY = "where"  # of the provenance
TITLES = ("property", "verdict", "accuracy", "chance", "dimensions", "rotated", "random share", "neighbours", "rank")


@dataclass(repr=False)
class WhereReport(GeometryReport):
    """Where each property lies: a `GeometryReport` whose rows belong to properties, printed as a table of verdicts.

    Rows have `stack` the property and `measure` one of `accuracy`, `dimensions_needed`, `neighbour_share` and
    `subspace_rank`, with `null`, `null_low`, `null_high` and `p` in `details`. Everything else that was found is in
    `provenance["where"]`.
    """

    @property
    def verdicts(self) -> dict[str, str]:
        """property -> verdict."""
        return {name: one["verdict"] for name, one in self.provenance[KEY].items()}

    def __repr__(self) -> str:
        facts = [without_folders(str(self.provenance.get("model") or "")), *_sizes(self.provenance[KEY])]
        lines = [list(TITLES), *(_line(name, one) for name, one in self.provenance[KEY].items())]
        widths = [max(len(line[i]) for line in lines) for i in range(len(TITLES))]
        shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
        rule = "  ".join("─" * width for width in widths)
        return "\n".join([f"Where: {' · '.join(str(fact) for fact in facts if fact)}", shown[0], rule, *shown[1:]])

    def _repr_html_(self) -> str:
        buffer = BytesIO()
        plot_where(self).savefig(buffer, format="png", dpi=100)
        picture = b64encode(buffer.getvalue()).decode()
        image = f'<img src="data:image/png;base64,{picture}" alt="share held by dimensions" style="max-width: 100%"/>'
        return f"{image}<pre>{escape(repr(self))}</pre>"


def where_report(found: Mapping[str, Where], provenance: Mapping[str, Any] | None = None) -> WhereReport:
    """The report of what `where_is` found.

    Args:
        found: property -> `Where`.
        provenance: what else should be known: model, layer, pooling, file.

    Returns:
        WhereReport: finite numbers only.

    Example:
        >>> from hf_repgeo.localization.verdict import Interval, Where
        >>> one = Where("absent", 100, 100, 2, Interval(0.51, 0.48, 0.55), 0.5, 0.4)
        >>> where_report({"number": one}).verdicts
        {'number': 'absent'}
    """
    report = WhereReport(provenance={**(provenance or {}), KEY: {name: one.as_dict() for name, one in found.items()}})
    for name, one in found.items():
        _add_rows(report, name, one)
    return report


def _add_rows(report: WhereReport, name: str, one: Where) -> None:
    columns = {"stack": name, "protocol": "whole", "convention": "linear", "n": one.n}
    facts = {"verdict": one.verdict, "n_null": one.n_null}
    told = {"low": one.accuracy.low, "high": one.accuracy.high, "null": one.chance, "p": one.p_present}
    report.add(measure="accuracy", value=one.accuracy.value, details=facts | told, **columns)
    measured = {
        "dimensions_needed": (one.dimensions, one.rotated_dimensions, one.p_basis),
        "neighbour_share": (one.neighbours, one.random_neighbours, one.p_neighbours),
        "subspace_rank": (one.rank, None, None),
    }
    for measure, (value, null, p) in measured.items():
        details = facts | _spread(value) | _null(null) | ({} if p is None else {"p": p})
        reason = () if value is not None else (f"not_placed: the property is {one.verdict}",)
        known = value.value if isinstance(value, Interval) else value
        report.add(measure=measure, value=known, warnings=reason, details=details, **columns)


def _spread(value: Interval | float | None) -> dict[str, float]:
    return {"low": value.low, "high": value.high} if isinstance(value, Interval) else {}


def _null(null: Interval | None) -> dict[str, float]:
    return {} if null is None else {"null": null.value, "null_low": null.low, "null_high": null.high}


def _sizes(found: Mapping[str, Mapping]) -> list[str]:
    one = next(iter(found.values()), None)
    return [f"{one['n']} rows in {one['groups']} groups", f"{one['n_null']} nulls"] if one else []


def _line(name: str, one: Mapping) -> list[str]:
    def interval(value: Mapping | None, digits: int = 3) -> str:
        if value is None:
            return "–"
        return f"{number(value['value'], digits)} [{number(value['low'], digits)}, {number(value['high'], digits)}]"

    share = one["random_share"]
    known = (number(one["accuracy"]["value"], 3), number(one["chance"], 3), interval(one["dimensions"]))
    of_chance = (interval(one["rotated_dimensions"]), "–" if share is None else f"{share['value']:.0%}")
    neighbours = "–" if one["neighbours"] is None else f"{one['neighbours']:.0%}"
    return [name, one["verdict"], *known, *of_chance, neighbours, interval(one["rank"])]


def plot_where(report: ReportTable) -> Figure:
    """Share of the variance between values against the number of dimensions, one panel per property.

    Args:
        report: of `where_report`, or the same read from its file.

    Returns:
        A matplotlib figure. Line: the best dimensions, chosen on other groups; grey: 95 % of randomly rotated bases;
        dashed: random sets; the vertical lines: the smallest set, and the rank of the best subspace.
    """
    found = report.provenance[KEY]
    columns = min(4, len(found))
    lines = -(-len(found) // columns)
    figure = Figure(figsize=(0.6 + 2.7 * columns, 0.5 + 2.5 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis in axes.flat[len(found) :]:
        axis.set_axis_off()
    for axis, (name, one) in zip(axes.flat, found.items()):
        axis.set_title(f"{drawable(name)}\n{one['verdict']}", fontsize="small")
        axis.set(xlabel="dimensions", ylabel="share held", ylim=(-0.05, 1.1))
        if one["curve"]:
            _draw_curve(axis, one)
    handles, labels = next((axis.get_legend_handles_labels() for axis in axes.flat if axis.lines), ((), ()))
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(columns + 1, 5), fontsize="small")
    return figure


def _draw_curve(axis, one: Mapping) -> None:
    sizes, shares, low, high = zip(*one["curve"])
    axis.fill_between(sizes, low, high, color="lightgrey", label="rotated bases")
    evenly = [size / sizes[-1] for size in sizes]
    axis.plot(sizes, evenly, color="black", linestyle="--", linewidth=0.8, label="random sets")
    axis.plot(sizes, shares, color="#0072B2", marker=".", label="best dimensions")
    axis.axvline(one["dimensions"]["value"], color="#0072B2", linewidth=0.8, label="smallest set")
    axis.axvline(one["rank"]["value"], color="#D55E00", linewidth=0.8, linestyle=":", label="rank of the best subspace")
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:.0f}")
