"""Figures from reports; every function returns its figure and shows nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import BadInput
from ..measures import MEASURES
from ..measures.pairs import COMPARISONS
from ..measures.trajectories import UNITS
from ..report_text import shown_name
from .glyphs import drawable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..report_table import ReportTable

# Okabe & Ito's palette without its yellow: distinguishable with any colour vision; markers and dashes differ too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":")
DEFAULT_PANELS = ("anisotropy", "intrinsic_dimension", "patchiness", "effective_rank")
TITLES = {"iso_score": "IsoScore", "mean_cosine": "Mean cosine"}


def plot_layers(
    reports: ReportTable | list[ReportTable] | dict[str, ReportTable],
    measures: list[str] | None = None,
    tokens: list[str] | None = None,
) -> Figure:
    """Profiles over layers: one panel per measure, one curve per report and token policy, a band of one standard error.

    With several reports the layers are drawn as relative depth, so that models of different depth can be compared;
    colour tells the report, line style the token policy.

    Args:
        reports: one, several, or several by the name to show in the legend (default: the model's).
        measures: names or `name:convention`; default: those of anisotropy, intrinsic dimension, patchiness and
            effective rank that were measured.
        tokens: token policies; default: all in one report, `all` and `sink_robust` in several.

    Returns:
        matplotlib.figure.Figure: not shown, not saved.

    Raises:
        BadInput: no report holds a value to draw, or they count patchiness in different cells.
    """
    from matplotlib.figure import Figure

    named = _named(reports)
    panels = measures or [name for name in DEFAULT_PANELS if any(name in r.unique("measure") for r in named.values())]
    curves = [curve for name, report in named.items() for curve in _curves(name, report, tokens, len(named) > 1)]
    if not curves or not panels:
        raise BadInput("reports", came="no measured layer", wanted="at least one report with values by layer")
    check_cells(named, panels)
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.3 * lines + 0.9), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis, panel in zip(axes.flat, panels):
        _draw(axis, panel, curves, list(named), relative=len(named) > 1)
    for axis in list(axes.flat)[len(panels) :]:
        axis.remove()
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(len(labels), 3), frameon=False, fontsize="small"
    )
    figure.suptitle(drawable(_title(named)), fontsize="medium")
    return figure


def check_cells(named: dict[str, ReportTable], panels: list[str]) -> None:
    """Refuses numbers of different quantizers or numbers of cells, which cannot be compared."""
    shown = {panel.partition(":")[0] for panel in panels}
    kinds: dict[str, str] = {}
    for name, report in named.items():
        for row in report:
            if row["measure"] in shown and "quantizer" in (row["details"] or {}):
                details = row["details"]
                kinds.setdefault(f"{details.get('cells', 'unknown')} cells ({details['quantizer']})", name)
    if len(kinds) > 1:
        came = " and ".join(f"numbers of {kind} in {name!r}" for kind, name in kinds.items())
        cure = "Measure them again in the same cells, or name other measures to draw."
        raise BadInput("reports", came=came, wanted="one kind of cells", cure=cure)


def _named(reports) -> dict[str, ReportTable]:
    if isinstance(reports, dict):
        return reports
    reports = reports if isinstance(reports, (list, tuple)) else [reports]
    names = [shown_name(report.provenance.get("model")) or "rows" for report in reports]
    return {
        name if names.count(name) == 1 else f"{name} ({place})": r
        for place, (name, r) in enumerate(zip(names, reports))
    }


def _curves(
    name: str, report: ReportTable, tokens: list[str] | None, several: bool
) -> list[tuple[str, str, str, ReportTable]]:
    """`(report, stack, policy, rows)` of every curve to draw."""
    shown = tokens or (["all", "sink_robust"] if several else report.unique("tokens"))
    return [
        (name, stack, policy, part)
        for stack in report.unique("stack")
        for policy in shown
        if len(part := report.stream().select(stack=stack, tokens=policy)) and part.unique("layer") != [None]
    ]


def _draw(axis: Axes, panel: str, curves: list, names: list[str], relative: bool) -> None:
    measure, _, convention = panel.partition(":")
    convention = convention or MEASURES[measure].conventions[0]
    policies = list(dict.fromkeys((stack, policy) for _, stack, policy, _ in curves))
    stacks, kinds = {stack for stack, _ in policies}, list(dict.fromkeys(policy for _, policy in policies))
    for name, stack, policy, part in curves:
        rows = part.select(measure=measure, convention=convention).rows
        points = sorted((row["layer"], row["value"], row["se"] or 0.0) for row in rows if row["value"] is not None)
        if not points:
            continue
        first, second = names.index(name), policies.index((stack, policy))
        colour = first if relative else second
        style = {
            "color": COLOURS[colour % 7],
            "marker": MARKERS[colour % 7],
            "linestyle": DASHES[kinds.index(policy) % 4 if relative else 0],
        }
        label = " · ".join([name] * relative + [stack] * (len(stacks) > 1) + [f"tokens: {policy}"])
        _curve(axis, points, label, style, relative)
        _chance(axis, rows, relative)
    axis.set_title(_heading(measure, convention), fontsize="medium")
    axis.set_ylabel(MEASURES[measure].unit)
    axis.set_xlabel("depth (0 embeddings, 1 last layer)" if relative else "layer (0 = embeddings)")
    if not relative:
        axis.locator_params(axis="x", integer=True)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    if MEASURES[measure].range == (0, 1):
        axis.set_ylim(-0.02, 1.02)


def _curve(axis: Axes, points: list[tuple[int, float, float]], label: str, style: dict, relative: bool) -> None:
    last = max(layer for layer, _, _ in points) or 1
    x = [layer / last if relative else layer for layer, _, _ in points]
    axis.plot(x, [value for _, value, _ in points], label=drawable(label), markersize=3.5, linewidth=1.4, **style)
    low, high = [v - e for _, v, e in points], [v + e for _, v, e in points]
    axis.fill_between(x, low, high, color=style["color"], alpha=0.18, linewidth=0)


def _chance(axis: Axes, rows: list[dict], relative: bool) -> None:
    """The value that chance gives, where it was measured: a grey line, and a band that holds 95 of 100 such values."""
    known = sorted(
        (row["layer"], *(row["details"][key] for key in ("null", "null_low", "null_high")))
        for row in rows
        if "null_low" in row["details"]
    )
    if not known:
        return
    layers, null, low, high = zip(*known, strict=True)
    last = max(layers) or 1
    x = [layer / last if relative else layer for layer in layers]
    axis.plot(x, null, color="0.45", linewidth=0.9, linestyle=(0, (1, 1)), label="_chance")
    axis.fill_between(x, low, high, color="0.6", alpha=0.25, linewidth=0)


def plot_comparison(report: ReportTable) -> Figure:
    """The report of `compare`: each comparison by layer, and the heat map of all layers if it was measured.

    Args:
        report: from `compare`.

    Returns:
        matplotlib.figure.Figure: not shown, not saved.

    Raises:
        BadInput: the report holds no comparison.
    """
    from matplotlib.figure import Figure

    lines = report.select(protocol="whole", measure=list(COMPARISONS))
    moved = report.select(protocol="paired")
    cases = list(dict.fromkeys((row["measure"], row["convention"]) for row in moved))
    cells = report.select(protocol="matrix").rows
    panels = bool(len(lines)) + bool(cells) + len(cases)
    if not panels:
        raise BadInput("report", came="no comparison", wanted="what `compare` returned")
    columns = min(3, panels)
    height = -(-panels // columns)
    figure = Figure(figsize=(1.2 + 4.6 * columns, 0.9 + 3.4 * height), layout="constrained")
    axes = list(figure.subplots(height, columns, squeeze=False).flat)
    for axis in axes[panels:]:
        axis.remove()
    if len(lines):
        _similarities(axes.pop(0), lines)
    if cells:
        _heat_map(figure, axes.pop(0), cells)
    for axis, (measure, convention) in zip(axes, cases):
        _moved(axis, measure, convention, moved.select(measure=measure, convention=convention).rows)
    figure.suptitle(drawable(_compared_title(report)), fontsize="medium")
    return figure


def legend_of(axis: Axes) -> None:
    """A legend, where there is a curve to name."""
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, fontsize="small")


def _similarities(axis: Axes, lines: ReportTable) -> None:
    """Every comparison by layer."""
    for number, measure in enumerate(lines.unique("measure")):
        _compared(axis, measure, lines.select(measure=measure).rows, number)
    axis.set_title("How alike (± 1 standard error)", fontsize="medium")
    _layer_axis(axis)
    legend_of(axis)


def _layer_axis(axis: Axes) -> None:
    axis.set_xlabel("layer (0 = embeddings)")
    axis.locator_params(axis="x", integer=True)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def _moved(axis: Axes, measure: str, convention: str, rows: list[dict]) -> None:
    """The difference of a measure, second minus first, with 95 % intervals; filled if it is significant."""
    rows = sorted((row for row in rows if row["value"] is not None), key=lambda row: row["layer"])
    axis.axhline(0, color="0.45", linewidth=0.9)
    for row in rows:
        details = row["details"]
        sure = details.get("p_corrected", 1.0) < 0.05
        ends = [details.get("low", row["value"]), details.get("high", row["value"])]
        axis.plot([row["layer"]] * 2, ends, color=COLOURS[0], linewidth=1.4)
        face = COLOURS[0] if sure else "white"
        axis.plot(row["layer"], row["value"], "o", color=COLOURS[0], markerfacecolor=face, markersize=5)
    axis.set_title(f"{_heading(measure, convention)}: difference", fontsize="medium")
    axis.set_ylabel(MEASURES[measure].unit)
    _layer_axis(axis)


def _compared_title(report: ReportTable) -> str:
    facts = report.provenance
    other = facts.get("other", {})
    names = [shown_name(one) for one in (facts.get("model"), other.get("model")) if one]
    moved = any(row["protocol"] == "paired" for row in report)
    told = "differences: 95 % intervals over documents; filled: p < 0.05, corrected for all layers" if moved else ""
    if len(names) > 1 or facts.get("prompts"):
        heading = " against ".join(dict.fromkeys(names)) + (" (two prompts)" if facts.get("prompts") else "")
    else:
        heading = f"{names[0] if names else 'layers'}: each layer with the next"
    return f"{heading}\n{told}" if told else heading


def _compared(axis: Axes, measure: str, rows: list[dict], number: int) -> None:
    points = sorted((row["layer"], row["value"], row["se"] or 0.0) for row in rows if row["value"] is not None)
    if points:
        style = {"color": COLOURS[number % 7], "marker": MARKERS[number % 7]}
        _curve(axis, points, measure.replace("_", " "), style, relative=False)
        _chance(axis, rows, relative=False)


def _heat_map(figure: Figure, axis: Axes, cells: list[dict]) -> None:
    """Debiased CKA of every layer with every layer, one colour scale from 0 to 1."""
    places = list(dict.fromkeys((row["stack"], row["layer"]) for row in cells))
    others = list(dict.fromkeys((row["details"]["stack_b"], row["details"]["layer_b"]) for row in cells))
    values = [[float("nan")] * len(others) for _ in places]
    for row in cells:
        other = (row["details"]["stack_b"], row["details"]["layer_b"])
        if row["value"] is not None:
            values[places.index((row["stack"], row["layer"]))][others.index(other)] = row["value"]
    image = axis.imshow(values, origin="lower", vmin=0, vmax=1, cmap="viridis", aspect="auto")
    for ticks, names in ((axis.set_xticks, others), (axis.set_yticks, places)):
        step = -(-len(names) // 12)
        ticks(range(0, len(names), step), [str(layer) for _, layer in names[::step]])
    axis.set_title("Linear CKA, debiased", fontsize="medium")
    axis.set_xlabel("layer of the second")
    axis.set_ylabel("layer of the first")
    figure.colorbar(image, ax=axis)


def plot_sequences(report: ReportTable) -> Figure:
    """The report of `profile_sequences`: curvature and prompt entropy by layer, one curve per token policy, and chance.

    Args:
        report: from `profile_sequences`.

    Returns:
        matplotlib.figure.Figure: not shown, not saved.

    Raises:
        BadInput: the report holds no such measure.
    """
    from matplotlib.figure import Figure

    shown = [name for name in UNITS if any(row["measure"] == name for row in report)]
    if not shown:
        raise BadInput("report", came="no measure of sequences", wanted="what `profile_sequences` returned")
    figure = Figure(figsize=(1.0 + 4.8 * len(shown), 3.9), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown):
        part = report.select(measure=name)
        cases = [(stack, tokens) for stack in part.unique("stack") for tokens in part.unique("tokens")]
        for number, (stack, tokens) in enumerate(cases):
            rows = part.select(stack=stack, tokens=tokens).rows
            label = f"tokens: {tokens}" if len(part.unique("stack")) == 1 else f"{stack} · tokens: {tokens}"
            _of_sequences(axis, rows, label, number)
        axis.set_title(name.replace("_", " ").capitalize(), fontsize="medium")
        axis.set_ylabel(UNITS[name])
        _layer_axis(axis)
        legend_of(axis)
    model = shown_name(report.provenance.get("model"))
    figure.suptitle(f"{drawable(model)}; bands: ± 1 standard error; dotted: tokens shuffled", fontsize="medium")
    return figure


def _of_sequences(axis: Axes, rows: list[dict], label: str, number: int) -> None:
    points = sorted((row["layer"], row["value"], row["se"] or 0.0) for row in rows if row["value"] is not None)
    if not points:
        return
    style = {"color": COLOURS[number % 7], "marker": MARKERS[number % 7]}
    _curve(axis, points, label, style, relative=False)
    chance = sorted((row["layer"], row["details"]["null"]) for row in rows if "null" in row["details"])
    if chance:
        layers, values = zip(*chance, strict=True)
        axis.plot(layers, values, color=style["color"], linewidth=0.9, linestyle=(0, (1, 1)), label="_chance")


def plot_scale_curves(curves: dict[str, list]) -> Figure:
    """Intrinsic dimension against the number of rows kept: flat where the number is a dimension, not a scale.

    Args:
        curves: name, such as `"layer 3"`, to what `hf_repgeo.measures.scale_curve` returned.

    Returns:
        matplotlib.figure.Figure: not shown, not saved.

    Raises:
        BadInput: no curve has a point.
    """
    from matplotlib.figure import Figure

    if not any(point.value is not None for curve in curves.values() for point in curve):
        raise BadInput("curves", came="no point", wanted="curves from scale_curve")
    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    axis = figure.subplots()
    for place, (name, curve) in enumerate(curves.items()):
        points = [point for point in curve if point.value is not None]
        n, value = [point.n for point in points], [point.value for point in points]
        error = [point.standard_error or 0.0 for point in points]
        colour = COLOURS[place % 7]
        style: dict[str, Any] = {"color": colour, "marker": MARKERS[place % 7], "markersize": 4, "capsize": 2}
        axis.errorbar(n, value, error, label=drawable(name), **style)
    axis.set_xscale("log", base=2)
    axis.set_xlabel("rows kept")
    axis.set_ylabel("intrinsic dimension (TwoNN)")
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    legend_of(axis)
    return figure


def _heading(measure: str, convention: str) -> str:
    title = TITLES.get(measure, measure.replace("_", " ").capitalize())
    return f"{title} ({convention})" if len(MEASURES[measure].conventions) > 1 else title


def _title(named: dict[str, ReportTable]) -> str:
    facts = next(iter(named.values())).provenance
    text = facts.get("text") or {}
    details = [
        f"text: {text['name']}" if text.get("name") else "",
        f"window {facts['window']}" if facts.get("window") else "",
    ]
    heading = " against ".join(named) if len(named) <= 2 else "Layer profiles"
    asked = any("null" in row["details"] for report in named.values() for row in report)
    chance = "; dotted, grey: by chance" if asked else ""
    return "\n".join(
        part for part in (heading, ", ".join(d for d in details if d) + "; bands: ± 1 standard error" + chance) if part
    )
