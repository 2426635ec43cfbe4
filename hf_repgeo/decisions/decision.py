"""What every decision returns: a verdict, its evidence with intervals, one picture, and what would change it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..downstream.resampling import Interval
from ..writing import write_whole, written_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CANNOT_TELL = "cannot tell"


@dataclass(frozen=True)
class Curve:
    """One line of a picture.

    Attributes:
        name: for the legend.
        x, y: points; x are numbers, or names that are drawn side by side.
        low, high: ends of the intervals, where there are any.
    """

    name: str
    x: list
    y: list[float]
    low: list[float] | None = None
    high: list[float] | None = None

    @classmethod
    def of(cls, name: str, points: Iterable[tuple[Any, Interval]]) -> Curve:
        """A curve from points with intervals; points without a value are left out."""
        known = [(x, found.value, found) for x, found in points if found.value is not None]
        low = [value if found.low is None else found.low for _, value, found in known]
        high = [value if found.high is None else found.high for _, value, found in known]
        return cls(name, [x for x, _, _ in known], [value for _, value, _ in known], low, high)


@dataclass(frozen=True)
class Picture:
    """The one picture of a decision.

    Attributes:
        curves: lines.
        xlabel, ylabel: of the axes, with units.
        marks: vertical lines: name -> x.
        xscale: `"linear"` or `"log2"`.
    """

    curves: list[Curve]
    xlabel: str
    ylabel: str
    marks: Mapping[str, float] = field(default_factory=dict)
    xscale: str = "linear"


@dataclass(frozen=True)
class Decision:
    """The answer to a question about a model or its embeddings.

    Attributes:
        question: in a few words.
        verdict: one of the words that the function's docstring names, or `"cannot tell"`.
        answer: the verdict as a sentence, with its numbers.
        evidence: rows of a table: column -> number, text or `Interval`.
        would_change: what would change the verdict.
        geometry: what geometry alone would have said, where labelled data decided; else `None`.
        numbers: the numbers of the answer by name.
        notes: what else to know, a sentence each.
        picture: of the evidence.
        provenance: models, texts, options and versions.
    """

    question: str
    verdict: str
    answer: str
    evidence: list[dict[str, Any]]
    would_change: str
    picture: Picture
    geometry: str | None = None
    numbers: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [self.question, f"-> {self.verdict}: {self.answer}", "", *_table(self.evidence), ""]
        if self.geometry is not None:
            lines.append(f"Geometry alone: {self.geometry}")
        lines.append(f"What would change this: {self.would_change}")
        return "\n".join([*lines, *self.notes])

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values, intervals as `{"value", "low", "high", "n"}`."""
        return asdict(self)

    def plot(self) -> Figure:
        """The picture as a matplotlib figure."""
        return draw(self.picture, self.question)

    def save(self, out: str | Path) -> Path:
        """Writes `decision.json` and `decision.png` into a folder, made if needed.

        Returns:
            The folder.
        """
        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / "decision.json", json.dumps(self.as_dict(), indent=1, default=str) + "\n")
        with written_whole(out / "decision.png") as file:
            self.plot().savefig(file, dpi=150)
        return out


def _table(rows: list[dict[str, Any]]) -> list[str]:
    """The rows as aligned lines under their column names."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in cells]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def draw(picture: Picture, title: str) -> Figure:
    """The picture with intervals as bands or bars, and marks as dashed lines."""
    from matplotlib.figure import Figure

    from ..plots.glyphs import drawable
    from ..plots.layers import COLOURS, MARKERS

    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    axis = figure.subplots()
    for number, curve in enumerate(picture.curves):
        colour = COLOURS[number % len(COLOURS)]
        marker = MARKERS[number % len(MARKERS)] if len(curve.x) <= 40 else None
        x = [drawable(one) if isinstance(one, str) else one for one in curve.x]
        axis.plot(x, curve.y, color=colour, marker=marker, markersize=4, lw=1.6, label=drawable(curve.name))
        if curve.low is not None and curve.high is not None:
            axis.fill_between(x, curve.low, curve.high, color=colour, alpha=0.18, lw=0)
    for name, place in picture.marks.items():
        axis.axvline(place, color="0.4", lw=1, ls="--")
        style: dict[str, Any] = {"rotation": 90, "va": "top", "ha": "right", "size": 8}
        axis.annotate(drawable(name), (place, 0.98), xycoords=("data", "axes fraction"), **style)
    if picture.xscale == "log2":
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:.0f}")
    axis.set(xlabel=drawable(picture.xlabel), ylabel=drawable(picture.ylabel))
    axis.spines[["top", "right"]].set_visible(False)
    if len(picture.curves) > 1:
        axis.legend(frameon=False, fontsize="small")
    axis.set_title(drawable(title), fontsize="medium", loc="left")
    return figure
