"""Figures of a training: layer by step, from the history that a `GeometryCallback` kept."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BadInput
from ..measures import MEASURES
from ..report import GeometryReport
from .curves import curve_of
from .figures import Curve, curves_figure, heat_map

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

PACKAGED = Path(__file__).parents[1] / "data" / "training-run.parquet"


@cache
def packaged_run() -> GeometryReport:
    """The history of a small GPT's training that the package holds; `benchmarks/experiments/training_dynamics.py`."""
    return GeometryReport.from_parquet(PACKAGED)


def cells_of(run: GeometryReport, measure: str, tokens: str) -> dict[int, dict[int, dict]]:
    """step -> layer -> row of the measure's default convention."""
    rows = run.stream().select(measure=measure, convention=MEASURES[measure].conventions[0], tokens=tokens).rows
    found: dict[int, dict[int, dict]] = {}
    for row in rows:
        if row["value"] is not None and row["details"].get("step") is not None:
            found.setdefault(row["details"]["step"], {})[row["layer"]] = row
    if not found:
        raise BadInput("run", came=f"no {measure} with tokens {tokens!r} at any step", wanted="a training's history")
    return dict(sorted(found.items()))


def training_map(run: GeometryReport, measure: str, tokens: str = "all") -> Figure:
    """Layer by step as a heat map; the columns are the steps that were measured.

    Example:
        >>> from hf_repgeo.gradio_app.history import packaged_run, training_map
        >>> training_map(packaged_run(), "anisotropy").data[0].x[0]
        '0'
    """
    cells = cells_of(run, measure, tokens)
    layers = sorted({layer for there in cells.values() for layer in there})
    values = [[cells[s][layer]["value"] if layer in cells[s] else None for s in cells] for layer in layers]
    titles = {"x_title": "step", "y_title": "layer", "unit": MEASURES[measure].unit}
    return heat_map(values, [f"{step:,}" for step in cells], [str(layer) for layer in layers], **titles)


def layers_at(run: GeometryReport, measure: str, steps: list[int], tokens: str = "all") -> Figure:
    """The layers at a few steps, as curves with bands of one standard error."""
    cells = cells_of(run, measure, tokens)
    curves = [_curve(place, step, cells[step]) for place, step in enumerate(steps) if step in cells]
    return curves_figure(curves, MEASURES[measure].unit)


def _curve(place: int, step: int, there: dict[int, dict]) -> Curve:
    return curve_of(f"step {step:,}", [there[layer] for layer in sorted(there)], place=place, style=place)


def training_words(run: GeometryReport, measure: str, tokens: str = "all") -> str:
    """Where the mean over layers begins, peaks and ends, as a sentence."""
    cells = cells_of(run, measure, tokens)
    means = {step: sum(row["value"] for row in there.values()) / len(there) for step, there in cells.items()}
    peak, steps = max(means, key=lambda step: means[step]), list(means)
    name = measure.replace("_", " ").capitalize()
    return (
        f"**{name}, mean over layers: {means[steps[0]]:.3g} at step {steps[0]}, at most {means[peak]:.3g} at step"
        f" {peak:,}, {means[steps[-1]]:.3g} at step {steps[-1]:,}.**"
    )


CODE = """\
from hf_repgeo.gradio_app.history import packaged_run, training_map

figure = training_map(packaged_run(), {measure!r}, tokens={tokens!r})

# your own training: add the callback, and draw its history
from hf_repgeo import GeometryCallback, plot_training

texts = ["The old gardener wrote the letters.", "Prices rose again in March."]  # some thousand words of your own
callback = GeometryCallback(texts)  # Trainer(..., callbacks=[callback]); after trainer.train():
# plot_training(callback.history)
"""


def training_code(measure: str, tokens: str) -> str:
    """Python that draws the map."""
    return CODE.format(measure=measure, tokens=tokens)
