"""A visitor's value on one axis with the layers of the packaged models, and the picture that it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..measures import MEASURES
from .curves import WITH, layer_rows
from .figures import COLOURS, GREY, _dress, integer_ticks, plotly
from .finding import packaged_reports
from .pictures import AXES, Points

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

YOURS = "your rows"


def scale_figure(name: str, result: dict[str, Any]) -> Figure:
    """A value with its error bar above the layers of the packaged models, and a dotted line where chance is.

    Args:
        name: of the measurement.
        result: `NAME`, `NAME_standard_error` and, if known, `NAME_null`.
    """
    go = plotly()
    figure = go.Figure()
    for place, (model, report) in enumerate(packaged_reports().items(), 1):
        for rows in layer_rows(report, name, WITH).values():
            told = [f"{model}, layer {row['layer']}: {row['value']:.3g}" for row in rows]
            drawn = {
                "mode": "markers",
                "marker": {"color": COLOURS[place % len(COLOURS)], "size": 9, "symbol": "line-ns-open"},
            }
            drawn |= {"text": told, "hovertemplate": "%{text}<extra></extra>"}
            figure.add_scatter(x=[row["value"] for row in rows], y=[model] * len(rows), **drawn)
    value, error, null = result[name], result.get(f"{name}_standard_error"), result.get(f"{name}_null")
    if value is not None:
        bar = {"array": [error or 0], "thickness": 2.5, "width": 6}
        mark = {"color": COLOURS[0], "size": 13, "symbol": "diamond"}
        hover = f"{YOURS}: {value:.4g}<extra></extra>"
        figure.add_scatter(x=[value], y=[YOURS], error_x=bar, mode="markers", marker=mark, hovertemplate=hover)
    if null is not None:
        figure.add_vline(x=null, line={"dash": "dot", "color": GREY})
        figure.add_annotation(text="chance", x=null, yref="paper", y=1, yanchor="bottom", showarrow=False)
    _dress(figure, "", 245)
    figure.update_layout(showlegend=False, margin_t=26)  # the word stands above the marks, not among them
    figure.update_xaxes(title=f"{name.replace('_', ' ')}<br>({MEASURES[name].unit})", rangemode="tozero")
    return figure


def points_figure(name: str, points: Points) -> Figure:
    """The picture of what the number is computed from; see `points_of`."""
    x, y = zip(*points)
    figure = plotly().Figure()
    counted = name != "intrinsic_dimension"
    if counted:
        figure.add_bar(x=list(x), y=list(y), marker_color=COLOURS[1])
    else:
        figure.add_scatter(x=list(x), y=list(y), mode="markers", marker={"color": COLOURS[1], "size": 5})
    _dress(figure, AXES[name][1], 240)
    figure.update_xaxes(title=AXES[name][0], **(integer_ticks(int(max(x))) if counted else {}))
    return figure
