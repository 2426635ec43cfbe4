"""Interactive figures of the Spaces: curves over layers, a heat map over training, bars, a map of tokens.

Colours tell things apart on white and on black; text and grids are coloured by the page (`PAGE_CSS`), which knows
whether it is light or dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtra

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

COLOURS = ("#d55e00", "#2a8ac9", "#009e73", "#b8639a", "#b07d00", "#6a6ae0", "#808080")
DASHES = ("solid", "dash", "dot", "dashdot")
GREY = "#808080"
CLEAR = "rgba(0,0,0,0)"
PAGE_CSS = """
.js-plotly-plot text {fill: var(--body-text-color) !important; font-family: var(--font) !important}
.js-plotly-plot .gridlayer path {stroke: var(--border-color-primary) !important}
.js-plotly-plot .hovertext path {stroke: none !important}
.js-plotly-plot .hovertext text {fill: #fff !important}
"""


@dataclass(frozen=True)
class Curve:
    """A line over layers.

    Attributes:
        name: in the legend.
        layers: from 0.
        values: one per layer.
        errors: standard errors, or `None` where there is none.
        rows: number of rows that each value is computed from.
        place: which colour; curves of one model share it.
        style: which dash.
        faint: whether it is drawn pale, in the background.
    """

    name: str
    layers: Sequence[int]
    values: Sequence[float]
    errors: Sequence[float | None]
    rows: Sequence[int]
    place: int = 0
    style: int = 0
    faint: bool = False


def plotly():
    """The module of figures.

    Raises:
        MissingExtra: plotly is not installed.
    """
    try:
        import plotly.graph_objects as figures
    except ImportError:
        raise MissingExtra("plotly", "spaces", "An interactive figure") from None
    return figures


def curves_figure(
    curves: Sequence[Curve],
    unit: str,
    *,
    chance: Sequence[Curve] = (),
    limits: tuple[float, float] | None = None,
    height: int = 330,
) -> Figure:
    """Curves over layers with bands of one standard error, and what chance gives as dotted lines.

    If all models have the same depth, the axis counts layers; else it is relative depth, and hovering shows the layer.

    Args:
        curves: see `Curve`.
        unit: written along the axis.
        chance: lines of the values that chance gives: one in grey, several in the colours of their models.
        limits: of the vertical axis.
        height: in pixels.
    """
    go = plotly()
    depths = {max(curve.layers) for curve in (*curves, *chance)}
    relative = len(depths) > 1
    figure = go.Figure()
    for curve in chance:
        _add_chance(figure, curve, relative, COLOURS[curve.place % len(COLOURS)] if len(chance) > 1 else GREY)
    for curve in curves:
        _add_curve(figure, curve, relative)
    _dress(figure, unit, height)
    figure.update_yaxes(range=limits, rangemode="tozero" if limits is None else "normal")
    if limits is None and _far(curves, chance):
        figure.update_yaxes(type="log", dtick="D2", title=f"{unit}, logarithmic")  # labels at 1, 2 and 5
    if relative:
        figure.update_xaxes(tickvals=[0, 0.25, 0.5, 0.75, 1], ticktext=["embeddings", "", "middle", "", "last layer"])
        figure.update_xaxes(range=[-0.07, 1.07], title=None)
    else:
        figure.update_xaxes(title="layer (0: embeddings)", **integer_ticks(max(depths, default=1)))
    return figure


def _far(curves: Sequence[Curve], chance: Sequence[Curve]) -> bool:
    """Whether chance is so far above the curves that they would look flat beside it."""
    highest, lowest = max(max(curve.values) for curve in curves), min(min(curve.values) for curve in curves)
    return lowest > 0 and max((max(curve.values) for curve in chance), default=0) > 4 * highest


def integer_ticks(last: int, most: int = 9) -> dict[str, int]:
    """Ticks of an axis at whole numbers only."""
    return {"tick0": 0, "dtick": max(1, -(-last // most))}


def _add_curve(figure: Figure, curve: Curve, relative: bool) -> None:
    colour, x = COLOURS[curve.place % len(COLOURS)], _x(curve, relative)
    if not curve.faint and any(curve.errors):
        low = [value - (error or 0) for value, error in zip(curve.values, curve.errors)]
        high = [value + (error or 0) for value, error in zip(curve.values, curve.errors)]
        band = {"fill": "toself", "fillcolor": colour, "opacity": 0.25, "line": {"width": 0}, "mode": "lines"}
        figure.add_scatter(x=[*x, *x[::-1]], y=[*high, *low[::-1]], hoverinfo="skip", showlegend=False, **band)
    told = [
        f"{escape(curve.name)}, layer {layer}: <b>{value:.3g}</b>{f' ± {error:.1g}' if error else ''}, {n} rows"
        for layer, value, error, n in zip(curve.layers, curve.values, curve.errors, curve.rows)
    ]
    line = {"color": colour, "width": 1.5 if curve.faint else 2.5, "dash": DASHES[curve.style % len(DASHES)]}
    figure.add_scatter(
        x=x,
        y=list(curve.values),
        name=escape(curve.name),
        mode="lines" if curve.faint else "lines+markers",
        marker={"size": 5},
        line=line,
        opacity=0.4 if curve.faint else 1,
        text=told,
        hovertemplate="%{text}<extra></extra>",
    )


def _add_chance(figure: Figure, curve: Curve, relative: bool, colour: str) -> None:
    told = [f"{escape(curve.name)}: {value:.3g}" for value in curve.values]
    line = {"color": colour, "width": 1.5, "dash": "dot"}
    figure.add_scatter(
        x=_x(curve, relative),
        y=list(curve.values),
        name=escape(curve.name),
        mode="lines",
        line=line,
        text=told,
        hovertemplate="%{text}<extra></extra>",
    )


def _x(curve: Curve, relative: bool) -> list[float]:
    last = max(curve.layers) or 1
    return [layer / last if relative else layer for layer in curve.layers]


def _dress(figure: Figure, unit: str, height: int) -> None:
    """What all figures share: no background, the legend above, room for the labels, no zooming by touch."""
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 12, "t": 8, "b": 8},
        paper_bgcolor=CLEAR,
        plot_bgcolor=CLEAR,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "bgcolor": CLEAR},
        hoverlabel={"bgcolor": "#333333", "font_color": "#ffffff"},
        font_size=13,
        dragmode=False,
        modebar_remove=["select2d", "lasso2d"],  # nothing follows from a selection
    )
    figure.update_xaxes(automargin=True, zeroline=False, gridcolor=GREY, fixedrange=True)
    figure.update_yaxes(automargin=True, zeroline=False, gridcolor=GREY, fixedrange=True, title=unit)


def heat_map(values: list[list[float | None]], x: list[str], y: list[str], **titles: str) -> Figure:
    """A heat map with a colour bar.

    Args:
        values: `(len(y), len(x))`; `None` where nothing was measured.
        x, y: labels of columns and rows, evenly spaced.
        titles: `x_title`, `y_title`, and `unit` of the values.
    """
    go = plotly()
    hover = f"{titles['y_title']} %{{y}}, {titles['x_title']} %{{x}}: <b>%{{z:.3g}}</b><extra></extra>"
    bar = {"title": titles["unit"], "thickness": 12}
    figure = go.Figure(go.Heatmap(z=values, x=x, y=y, colorscale="Viridis", colorbar=bar, hovertemplate=hover))
    _dress(figure, titles["y_title"], 360)
    figure.update_xaxes(title=titles["x_title"], type="category", showgrid=False)
    figure.update_yaxes(type="category", showgrid=False, dtick=max(1, -(-len(y) // 9)))
    return figure


def bars(groups: dict[str, list[float]], labels: list[str], unit: str) -> Figure:
    """Bars side by side, one colour per group."""
    go = plotly()
    figure = go.Figure()
    for place, (name, values) in enumerate(groups.items()):
        figure.add_bar(x=labels, y=values, name=escape(name), marker_color=COLOURS[place % len(COLOURS)])
    _dress(figure, unit, 300)
    figure.update_layout(barmode="group", showlegend=len(groups) > 1)
    return figure


def points(
    places: Sequence[Sequence[float]],
    told: Sequence[str],
    colours: Sequence[float],
    symbols: Sequence[str],
    **settings: Any,
) -> Figure:
    """Points in the plane or in space; pointing at one shows its text.

    Args:
        places: `(n, 2)` or `(n, 3)`.
        told: HTML, escaped by the caller.
        colours: one number per point.
        symbols: plotly's names of markers.
        settings: `unit` of the colours; `colorscale`; `titles` of the axes.
    """
    go = plotly()
    solid = len(places[0]) == 3
    bar = {"title": settings["unit"], "thickness": 12} if settings["unit"] else None
    marker = {
        "color": list(colours),
        "colorscale": settings["colorscale"],
        "size": [(4 if solid else 7) * (2 if symbol == "x" else 1) for symbol in symbols],
        "symbol": list(symbols),
        "showscale": bar is not None,
        "colorbar": bar,
        "opacity": 0.85,
    }
    drawn = {"mode": "markers", "marker": marker, "text": list(told), "hovertemplate": "%{text}<extra></extra>"}
    axes = dict(zip("xyz", map(list, zip(*places))))
    figure = go.Figure(go.Scatter3d(**axes, **drawn) if solid else go.Scatter(**axes, **drawn))
    titles = settings["titles"]
    _dress(figure, titles[1], 480)
    figure.update_layout(showlegend=False)
    if solid:
        plain = {"showbackground": False, "gridcolor": GREY, "color": GREY}
        figure.update_layout(scene={f"{axis}axis": {"title": t, **plain} for axis, t in zip("xyz", titles)})
        figure.update_layout(dragmode="orbit")
    else:
        figure.update_xaxes(title=titles[0])
    return figure
