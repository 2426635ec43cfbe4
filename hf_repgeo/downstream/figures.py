"""Figures of a regression report; every function returns its figure and shows nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..plots.glyphs import drawable
from ..plots.layers import COLOURS, MARKERS
from .regression import MODELS, Association, Regression, fitted, residuals_of
from .resampling import Interval
from .tables import ScoreTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_BARS = 18


def _figure(width: float, height: float, columns: int = 1, **options) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = list(figure.subplots(1, columns, squeeze=False, **options)[0])
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize="small")
    return figure, axes


def _by_family(table: ScoreTable, axis: Axes, x: np.ndarray, y: np.ndarray, **style) -> None:
    """Points, a colour and a marker for each family; rows held out are hollow."""
    names = sorted(set(table.architecture.tolist()))
    for number, family in enumerate(names):
        mine = (table.architecture == family) & np.isfinite(x)
        look = {"s": 22, "marker": MARKERS[number % len(MARKERS)], "alpha": 0.75, **style}
        colour = COLOURS[number % len(COLOURS)]
        for rows, face, name in ((mine & ~table.held_out, colour, family), (mine & table.held_out, "none", None)):
            label = drawable(name) if name and len(names) > 1 else None
            axis.scatter(x[rows], y[rows], facecolors=face, edgecolors=colour, label=label, **look)


def plot_doses(result: Regression) -> Figure | None:
    """Score and headline measure against the dose: the paper's Figure 1. `None` without doses."""
    table = result.table
    if table.dose is None or table.log_dose is None:
        return None
    figure, axes = _figure(10, 3.6, 2)
    x = np.where(table.dose > 0, table.dose, 10**table.log_dose)
    for axis, name, y in zip(axes, (table.score_name, result.headline), (table.score, table.measures[result.headline])):
        _by_family(table, axis, x, y)
        for number, family in enumerate(table.families):
            mine = (table.architecture == family) & ~table.held_out & np.isfinite(y)
            doses = np.unique(x[mine])
            means = [y[mine & (x == dose)].mean() for dose in doses]
            axis.plot(doses, means, color=COLOURS[number % len(COLOURS)], lw=1.2)
        axis.set(xscale="log", xlabel="dose of noise" + (" (leftmost: none)" if (table.dose == 0).any() else ""))
        axis.set_ylabel(drawable(name))
    _legend(axes[0])
    return figure


def plot_scatter(result: Regression) -> Figure:
    """Score against the headline measure, with the least-squares line of each architecture and the pooled one."""
    table, figure_axes = result.table, _figure(6.2, 4.2)
    figure, (axis,) = figure_axes
    x = table.measures[result.headline]
    _by_family(table, axis, x, table.score)
    for number, family in enumerate(table.families):
        mine = (table.architecture == family) & ~table.held_out & np.isfinite(x)
        if mine.sum() > 2 and np.ptp(x[mine]) > 0:
            ends = np.array([x[mine].min(), x[mine].max()])
            axis.plot(
                ends, np.polyval(np.polyfit(x[mine], table.score[mine], 1), ends), color=COLOURS[number % 7], lw=1.4
            )
    if len(table.families) > 1:
        constant, slope = fitted(table, result.headline, MODELS[0]).params
        ends = np.array([np.nanmin(x), np.nanmax(x)])
        axis.plot(ends, constant + slope * ends, "--", color="0.4", lw=1.2, label="all together")
    axis.set(xlabel=drawable(result.headline), ylabel=drawable(table.score_name))
    found = result.association(result.headline)
    axis.set_title(f"Pearson {found.pearson}; within a dose {found.within_dose}", fontsize="small")
    _legend(axis)
    return figure


def plot_residuals(result: Regression) -> Figure:
    """Residuals against fitted scores, without and with architecture: a pattern means that the line is wrong."""
    formulas = [fit.formula for fit in result.fits[:2]]
    figure, axes = _figure(5 * len(formulas), 3.4, len(formulas), sharey=True)
    for axis, formula in zip(axes, formulas):
        expected, left, families = residuals_of(result.table, result.headline, formula)
        for number, family in enumerate(result.table.families):
            mine = families == family
            colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
            label = drawable(family) if len(result.table.families) > 1 else None
            axis.scatter(expected[mine], left[mine], s=20, alpha=0.75, label=label, color=colour, marker=marker)
        axis.axhline(0, color="0.6", lw=1)
        axis.set(title=drawable(formula.replace("measure", result.headline)), xlabel="fitted score")
        axis.title.set_fontsize("small")
    axes[0].set_ylabel("residual")
    _legend(axes[0])
    return figure


def plot_associations(result: Regression) -> Figure:
    """Correlations of every measure with the score: over all, given the dose, and within a dose."""
    shown = [*result.associations[:MOST_BARS], *result.baselines]
    views: list[tuple[str, Callable[[Association], Interval]]] = [("over all models", lambda one: one.pearson)]
    if result.table.dose is not None:
        views += [("given the dose", lambda one: one.given_dose), ("within a dose", lambda one: one.within_dose)]
    figure, axes = _figure(3.2 + 2.6 * len(views), 1.2 + 0.26 * len(shown), len(views), sharey=True)
    rivals = {one.measure for one in result.baselines}
    for axis, (title, view) in zip(axes, views):
        for place, one in enumerate(reversed(shown)):
            _whisker(axis, place, view(one), COLOURS[1] if one.measure in rivals else COLOURS[0])
        axis.axvline(0, color="0.6", lw=1)
        axis.set(xlim=(-1.05, 1.05), title=title, xlabel="correlation")
        axis.title.set_fontsize("small")
        axis.grid(axis="x", lw=0.4, alpha=0.5)
    axes[0].set_yticks(range(len(shown)), [drawable(one.measure) for one in reversed(shown)], fontsize="small")
    return figure


def plot_skills(result: Regression) -> Figure:
    """Skill of predicting what the fit has not seen: new doses of known families, and families left out."""
    panels = [("new doses of known families", result.held_in)]
    panels += [("families left out", result.left_out)] if result.left_out else []
    height = 1.2 + 0.24 * min(MOST_BARS, max(len(skills) for _, skills in panels))
    figure, axes = _figure(5.2 * len(panels), height, len(panels))
    rivals = {one.measure for one in result.baselines} | {"curve of the dose"}
    for axis, (title, skills) in zip(axes, panels):
        shown = [s for s in skills if s.name in rivals or s in skills[:MOST_BARS]][::-1]
        for place, skill in enumerate(shown):
            _whisker(axis, place, skill.skill, COLOURS[1] if skill.name in rivals else COLOURS[0])
        axis.axvline(0, color="0.6", lw=1)
        axis.set_yticks(range(len(shown)), [drawable(skill.name) for skill in shown], fontsize="small")
        axis.set(
            xlim=(max(-1.5, min(axis.get_xlim()[0], -0.05)), 1.02),
            title=title,
            xlabel="skill (1: perfect, 0: the mean)",
        )
        axis.title.set_fontsize("small")
        axis.grid(axis="x", lw=0.4, alpha=0.5)
    return figure


def plot_predictions(result: Regression) -> Figure | None:
    """Predicted against true scores of the models held out, with 95 % intervals; `None` if there are none."""
    if not result.predictions:
        return None
    figure, (axis,) = _figure(5.6, 4.4)
    for one in result.predictions:
        colour = COLOURS[0] if one.known_family else COLOURS[1]
        axis.plot([one.score] * 2, [one.low, one.high], color=colour, lw=1.2, alpha=0.7)
        axis.plot(one.score, one.expected, "o", color=colour, ms=5)
        style: dict[str, Any] = {"fontsize": "x-small", "xytext": (4, 2), "textcoords": "offset points"}
        axis.annotate(drawable(one.label), (one.score, one.expected), **style)
    ends = [min(p.score for p in result.predictions), max(p.score for p in result.predictions)]
    axis.plot(ends, ends, "--", color="0.5", lw=1)
    axis.set(xlabel=drawable(f"true {result.table.score_name}"), ylabel="predicted, with 95 % interval")
    return figure


def _whisker(axis: Axes, place: int, found: Interval, colour: str) -> None:
    if found.value is None:
        return
    if found.low is not None and found.high is not None:
        axis.plot([found.low, found.high], [place, place], color=colour, lw=1.6, alpha=0.6)
    axis.plot(found.value, place, "o", color=colour, ms=4.5)


def _legend(axis: Axes) -> None:
    if axis.get_legend_handles_labels()[1]:
        axis.legend(frameon=False, fontsize="small")
