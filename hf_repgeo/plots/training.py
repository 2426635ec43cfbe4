"""Figures of geometry over the steps of a training, over checkpoints, and over models."""

from __future__ import annotations

from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from ..errors import BadInput
from ..measures import MEASURES
from ..report_text import shown_name
from .glyphs import drawable
from .layers import COLOURS, DASHES, DEFAULT_PANELS, MARKERS, TITLES, check_cells, legend_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..report_table import ReportTable

Curve = list[tuple[int, list[float]]]  # step, values of the layers there


def plot_training(
    history: ReportTable | list[ReportTable], measures: list[str] | None = None, tokens: str | None = None
) -> Figure:
    """A training, one row per measure: layer by step as a heat map, and the mean over layers with a band.

    Steps are on a logarithmic axis, with step 0 before the first. The band of one training spans its layers, from the
    least to the greatest; of several (runs that differ in their seed) it is one standard deviation of their means, and
    the map shows the mean over runs.

    Args:
        history: a callback's `history`, a sweep over checkpoints, or several of one shape.
        measures: names; default: those of anisotropy, intrinsic dimension, patchiness and effective rank that were
            measured.
        tokens: the token policy of the map; default: the first. The lines show all of them.

    Returns:
        matplotlib.figure.Figure: not shown, not saved.

    Raises:
        BadInput: nothing was measured at a step, or in different cells.
    """
    from matplotlib.figure import Figure

    runs = [run.stream() for run in (history if isinstance(history, (list, tuple)) else [history])]
    panels = measures or [name for name in DEFAULT_PANELS if any(_values(run, name, None) for run in runs)]
    if not panels or not all(_steps(run) for run in runs):
        raise BadInput("history", came="no value at any step", wanted="the history of a training, or a sweep")
    check_cells({f"run {place}": run for place, run in enumerate(runs)}, panels)
    figure = Figure(figsize=(10.2, 2.9 * len(panels) + 0.7), layout="constrained")
    axes = figure.subplots(len(panels), 2, squeeze=False, width_ratios=[1.15, 1])
    policies = list(dict.fromkeys(policy for run in runs for policy in run.unique("tokens")))
    for row, measure in zip(axes, panels):
        _heat_map(row[0], runs, measure, tokens or policies[0])
        _lines(row[1], runs, measure, policies)
    legend_of(axes[0, 1])
    band = "band: layers" if len(runs) == 1 else f"mean of {len(runs)} runs, band: 1 standard deviation"
    name = shown_name(runs[0].provenance.get("model"))
    figure.suptitle(drawable(" · ".join(filter(None, [name, "geometry over training", band]))), fontsize="medium")
    return figure


def _steps(run: ReportTable) -> list[int]:
    return sorted({row["details"]["step"] for row in run if row["details"].get("step") is not None})


def _values(run: ReportTable, measure: str, tokens: str | None) -> dict[int, dict[int, float]]:
    """step -> layer -> value, of the measure's default convention and the first stack."""
    name, _, convention = measure.partition(":")
    convention = convention or MEASURES[name].conventions[0]
    found: dict[int, dict[int, float]] = {}
    stack = next((row["stack"] for row in run if row["measure"] == name), None)
    for row in run:
        here = (row["measure"], row["convention"], row["stack"]) == (name, convention, stack)
        step = row["details"].get("step")
        if here and step is not None and row["value"] is not None and tokens in (None, row["tokens"]):
            found.setdefault(step, {})[row["layer"]] = row["value"]
    return dict(sorted(found.items()))


def _heat_map(axis: Axes, runs: list[ReportTable], measure: str, tokens: str) -> None:
    """A heat map, layer by step; a cell reaches half-way to its neighbours on the axis."""
    import numpy as np

    tables = [_values(run, measure, tokens) for run in runs]
    steps = sorted(set.intersection(*(set(table) for table in tables)))
    layers = sorted({layer for step in steps for layer in tables[0][step]})
    if len(steps) < 2:
        axis.text(0.5, 0.5, "fewer than two steps", ha="center", transform=axis.transAxes)
        return
    grid = np.array(
        [[fmean([t[s].get(layer, np.nan) for t in tables]) for s in steps] for layer in layers]
    )  # (layer, step)
    u = [_log_place(step) for step in steps]
    x = np.array([1.5 * u[0] - 0.5 * u[1], *((a + b) / 2 for a, b in zip(u, u[1:])), 1.5 * u[-1] - 0.5 * u[-2]])
    y = np.arange(len(layers) + 1) - 0.5
    image = axis.pcolormesh(x, y, grid, cmap="viridis", rasterized=True)
    ticks = [step for step in _ticks(steps[-1]) if x[0] <= _log_place(step) <= x[-1]]
    axis.set_xticks([_log_place(step) for step in ticks], [f"{step:,}" for step in ticks])
    places = _spread_ticks(len(layers), 9)
    axis.set_yticks(places, [str(layers[place]) for place in places])
    axis.set_ylabel("layer")
    axis.set_xlabel("step")
    axis.set_title(_heading(measure) + ("" if tokens in (None, "all") else f", tokens: {tokens}"), fontsize="medium")
    axis.figure.colorbar(image, ax=axis, pad=0.02, aspect=14)


def _log_place(step: int) -> float:
    """Where a step lies on a logarithmic axis that begins with step 0, half a decade before step 1."""
    from math import log10

    return log10(step) if step else -0.5


def _ticks(last: int) -> list[int]:
    return [0] + [10**power for power in range(len(str(last)))]


def _spread_ticks(count: int, most: int) -> list[int]:
    every = -(-count // most)
    return list(range(0, count, every))


def _lines(axis: Axes, runs: list[ReportTable], measure: str, policies: list[str]) -> None:
    """The mean over layers by step, one line per token policy."""
    shown = [0]
    for place, policy in enumerate(policies):
        tables = [_values(run, measure, policy) for run in runs]
        steps = sorted(set.intersection(*(set(table) for table in tables)))
        if not steps:
            continue
        shown += steps
        means = [[fmean(table[step].values()) for table in tables] for step in steps]
        middle = [fmean(values) for values in means]
        style: dict[str, Any] = {
            "color": COLOURS[place % 7],
            "marker": MARKERS[place % 7],
            "linestyle": DASHES[place % 4],
        }
        axis.plot(steps, middle, label=f"tokens: {policy}", markersize=3.5, linewidth=1.5, **style)
        if len(runs) > 1:
            spread = [stdev(values) for values in means]
            low, high = [m - s for m, s in zip(middle, spread)], [m + s for m, s in zip(middle, spread)]
        else:
            low, high = map(list, zip(*((min(tables[0][s].values()), max(tables[0][s].values())) for s in steps)))
        axis.fill_between(steps, low, high, color=style["color"], alpha=0.15, linewidth=0)
    _log_axis(axis, shown)
    axis.set_ylabel(MEASURES[measure.partition(":")[0]].unit)
    axis.set_title("mean over layers", fontsize="medium")
    axis.set_xlabel("step")
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def _log_axis(axis: Axes, steps: list[int]) -> None:
    from matplotlib.ticker import NullLocator

    last = max(steps)
    axis.set_xscale("symlog", linthresh=1, linscale=0.5)
    ticks = _ticks(last)
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlim(-0.15, last * 1.15)


def _heading(measure: str) -> str:
    name, _, convention = measure.partition(":")
    title = TITLES.get(name, name.replace("_", " ").capitalize())
    return f"{title} ({convention})" if convention else title


# --- sweeps ---------------------------------------------------------------------------------------------------------


def plot_sweep(report: ReportTable, measures: list[str] | None = None, tokens: str = "all") -> Figure:
    """A sweep, one panel per measure: over the layers one curve per checkpoint, dark to light with the step, or a curve
    a model, coloured by its stack, so that encoders stand against decoders; layers as relative depth.

    Args:
        report: what `hf_repgeo.sweep` returned.
        measures: names; default: those of anisotropy, intrinsic dimension, patchiness and effective rank.
        tokens: the token policy.

    Returns:
        matplotlib.figure.Figure: not shown, not saved.

    Raises:
        BadInput: nothing was measured.
    """
    from matplotlib.figure import Figure

    report = report.stream()
    rows = [row for row in report if row["value"] is not None and row["tokens"] == tokens and row["layer"] is not None]
    panels = measures or [name for name in DEFAULT_PANELS if any(row["measure"] == name for row in rows)]
    if not rows or not panels:
        raise BadInput("report", came=f"no value for tokens {tokens!r}", wanted="a sweep with measured layers")
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(5.2 * columns + 1.2, 3.3 * lines + 0.5), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis, measure in zip(axes.flat, panels):
        _members(axis, rows, measure)
    for axis in list(axes.flat)[len(panels) :]:
        axis.remove()
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize="small")
    figure.suptitle(f"tokens: {tokens}; bands: ± 1 standard error", fontsize="medium")
    return figure


def _members(axis: Axes, rows: list[dict], measure: str) -> None:
    from matplotlib import colormaps

    name, _, convention = measure.partition(":")
    convention = convention or MEASURES[name].conventions[0]
    rows = [row for row in rows if (row["measure"], row["convention"]) == (name, convention)]
    labels = list(dict.fromkeys((row["details"]["member"], row["stack"]) for row in rows))
    ordered = all(row["details"].get("step") is not None for row in rows)
    stacks = sorted({stack for _, stack in labels})
    for place, (member, stack) in enumerate(labels):
        part = [row for row in rows if (row["details"]["member"], row["stack"]) == (member, stack)]
        points = sorted((row["layer"], row["value"], row["se"] or 0.0) for row in part)
        last = points[-1][0] or 1
        colour = colormaps["viridis"](0.9 * place / max(len(labels) - 1, 1)) if ordered else COLOURS[place % 7]
        dash = "-" if ordered else DASHES[stacks.index(stack) % 4]
        label = member if ordered else f"{member} ({stack})"
        x, y = [layer / last for layer, *_ in points], [value for _, value, _ in points]
        axis.plot(x, y, color=colour, linestyle=dash, linewidth=1.5, label=drawable(label))
        low, high = [v - e for _, v, e in points], [v + e for _, v, e in points]
        axis.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
    axis.set_title(_heading(measure), fontsize="medium")
    axis.set_xlabel("depth (0 embeddings, 1 last layer)")
    axis.set_ylabel(MEASURES[name].unit)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
