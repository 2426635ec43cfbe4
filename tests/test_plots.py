"""Figures: what is drawn is what was measured; nothing is shown."""

import pytest

from hf_repgeo import plot_layers
from hf_repgeo.errors import BadInput
from hf_repgeo.report import GeometryReport


def report(name, layers, offset=0.0, stack="encoder"):
    made = GeometryReport(provenance={"model": name, "text": {"name": "t.txt"}, "window": 512})
    for layer in range(layers):
        for place, tokens in enumerate(("all", "sink_robust")):
            for measure, convention in (("anisotropy", "razzhigaev"), ("intrinsic_dimension", "facco")):
                value = (
                    None if layer == 1 and tokens == "all" and measure == "anisotropy" else offset + layer / 10 + place
                )
                made.add(
                    layer=layer, stack=stack, tokens=tokens, measure=measure, convention=convention, value=value, se=0.1
                )
    return made


def lines(axis):
    return {line.get_label(): line.get_xydata().tolist() for line in axis.get_lines()}


def test_curves_are_the_values_and_missing_ones_are_left_out():
    figure = plot_layers(report("m", 3))
    anisotropy, dimension = figure.axes
    assert [axis.get_title() for axis in figure.axes] == ["Anisotropy", "Intrinsic dimension (facco)"]
    assert lines(anisotropy)["tokens: all"] == [[0, 0.0], [2, pytest.approx(0.2)]]
    assert lines(dimension)["tokens: sink_robust"] == [[0, 1.0], [1, pytest.approx(1.1)], [2, pytest.approx(1.2)]]
    assert dimension.get_ylabel() == "dimensions" and "layer" in dimension.get_xlabel()


def test_models_of_different_depth_share_an_axis():
    figure = plot_layers([report("pip:a", 3), report("b", 5, 0.2, "decoder")], measures=["anisotropy"])
    [axis] = figure.axes
    drawn = lines(axis)
    assert {tuple(point[0] for point in line) for line in drawn.values()} >= {(0, 0.25, 0.5, 0.75, 1)}
    assert "a · encoder · tokens: all" in drawn and "b · decoder · tokens: sink_robust" in drawn
    assert "a against b" in figure.get_suptitle()


def test_every_curve_differs_by_more_than_colour():
    axis = plot_layers([report("a", 3), report("b", 3)]).axes[1]
    looks = [(line.get_marker(), line.get_linestyle()) for line in axis.get_lines()]
    assert len(set(looks)) == len(looks) == 4


def test_nothing_is_shown_or_left_open():
    import matplotlib.pyplot

    plot_layers(report("m", 3))
    assert matplotlib.pyplot.get_fignums() == []


def test_a_report_without_layers_cannot_be_drawn():
    with pytest.raises(BadInput, match="no measured layer"):
        plot_layers(GeometryReport())


def test_numbers_of_different_cells_are_not_drawn_together():
    def patchy(name, **details):
        made = GeometryReport(provenance={"model": name})
        for layer in range(2):
            made.add(layer=layer, tokens="all", measure="patchiness", convention="lloyd", value=1.0, details=details)
        return made

    now, then = patchy("a", quantizer="product", cells=64), patchy("b", quantizer="product")
    with pytest.raises(BadInput, match=r"64 cells \(product\) in 'a' and .*unknown cells.*wanted one kind of cells"):
        plot_layers([now, then])
    with pytest.raises(BadInput, match="Measure them again in the same cells"):
        plot_layers([now, patchy("b", quantizer="additive", cells=64)])
    assert len(plot_layers([now, patchy("b", quantizer="product", cells=64)]).axes) == 1
