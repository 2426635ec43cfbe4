"""The atlas as a picture: every layer of every model as a point, one measure against another."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from ..errors import BadInput
from ..measures import MEASURES
from .figures import COLOURS, _dress, plotly
from .finding import NAMES

if TYPE_CHECKING:
    import pandas
    from plotly.graph_objects import Figure


def pivot(atlas: pandas.DataFrame, x: str, y: str) -> pandas.DataFrame:
    """One row per model, stack and layer of the residual stream, with the two measures and their errors as columns.

    Args:
        atlas: rows of one token policy.
        x, y: measures, each in its default convention.
    """
    parts = [_column(atlas, measure, name) for measure, name in ((x, "x"), (y, "y"))]
    key = ["model", "stack", "layer"]
    return parts[0].merge(parts[1], on=key).sort_values(key)


def _column(atlas: pandas.DataFrame, measure: str, name: str) -> pandas.DataFrame:
    convention = MEASURES[measure].conventions[0]
    rows = atlas[(atlas.measure == measure) & (atlas.convention == convention) & (atlas.point == "residual")]
    kept = rows[["model", "stack", "layer", "value", "se"]]
    return kept.rename(columns={"value": name, "se": f"{name}_se"}).dropna(subset=[name])


def scatter(rows: pandas.DataFrame, x: str, y: str) -> Figure:
    """One point per layer, with error bars; one colour per model, neighbouring layers joined by a thin line.

    Raises:
        BadInput: no layer has both values.
    """
    if rows.empty:
        raise BadInput("atlas", came=f"no layer with {x} and {y}", wanted="measures that were measured together")
    figure = plotly().Figure()
    for place, (model, part) in enumerate(sorted(rows.groupby("model"), key=_order)):
        name = NAMES.get(str(model), str(model))
        told = [f"{escape(name)}, layer {layer}" for layer in part.layer]
        figure.add_scatter(
            x=part.x.tolist(),
            y=part.y.tolist(),
            error_x={"array": part.x_se.fillna(0).tolist(), "thickness": 1, "width": 0},
            error_y={"array": part.y_se.fillna(0).tolist(), "thickness": 1, "width": 0},
            name=escape(name),
            mode="lines+markers",
            line={"width": 0.7, "color": COLOURS[place % len(COLOURS)]},
            marker={"size": 8},
            text=told,
            hovertemplate="%{text}<br>%{x:.3g}, %{y:.3g}<extra></extra>",
        )
    _dress(figure, f"{y.replace('_', ' ')} ({MEASURES[y].unit})", 420)
    figure.update_xaxes(title=f"{x.replace('_', ' ')} ({MEASURES[x].unit})")
    return figure


def _order(group: tuple) -> int:
    """The packaged models first, so that they have the same colours as elsewhere."""
    known = list(NAMES)
    return known.index(group[0]) if group[0] in known else len(known)


def scatter_code(tokens: str, x: str, y: str) -> str:
    """Python that draws it."""
    return (
        "import hf_repgeo\nfrom hf_repgeo.gradio_app.map_of_models import pivot, scatter\n\n"
        f"atlas = hf_repgeo.load_atlas()\nrows = pivot(atlas[atlas.tokens == {tokens!r}], {x!r}, {y!r})\n"
        f"figure = scatter(rows, {x!r}, {y!r})\n"
    )
