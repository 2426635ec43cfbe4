"""Figures: what is drawn is what was measured; nothing is shown."""

import warnings
from io import BytesIO
from types import SimpleNamespace

import pytest
from matplotlib.text import Text

from hf_repgeo import plot_layers, plot_sweep, plot_training
from hf_repgeo.decisions.decision import Curve, Picture, draw
from hf_repgeo.errors import BadInput
from hf_repgeo.plots import plot_comparison, plot_scale_curves, plot_sequences
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


@pytest.mark.parametrize(
    "model, shown",
    [("/home/me/runs/step-10/", "step-10"), ("./runs/step-10", "step-10"), ("C:\\me\\step-10", "step-10"),
     ("me/runs/step-10", "step-10"), ("~/step-10", "step-10"), ("org/name", "org/name"), ("pip:package", "package")],
)  # fmt: skip
def test_figures_call_a_model_by_its_name_and_never_by_the_path_of_a_folder(model, shown, tmp_path):
    assert plot_layers(report(model, 3)).get_suptitle().splitlines()[0] == shown
    _, labels = plot_layers([report(model, 3), report("b", 3)]).axes[0].get_legend_handles_labels()
    assert any(label == shown or label.startswith(shown + " ") for label in labels)
    assert not any("me" in label.split("/") for label in labels)


def test_plot_draws_two_reports_of_one_model(tmp_path, monkeypatch):
    from hf_repgeo.cli import plot
    from hf_repgeo.cli.main import main

    paths = [str(report("org/name", 3, offset).to_json(tmp_path / f"{offset}.json")) for offset in (0.0, 0.5)]
    drawn = []
    monkeypatch.setattr(plot, "save_figure", lambda figure, out: drawn.append(figure))
    assert main(["plot", *paths, "--out", str(tmp_path / "a.png")]) == 0
    assert {label.split(" · ")[0] for label in lines(drawn[0].axes[0])} == {"org/name", "org/name (1)"}


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


# --- words of users ---------------------------------------------------------------------------------------------------

ODD = "_\ue000 $a_b$"  # a character of no font, a formula, and a first letter that hides a line from legends


def of_one_measure(measure, protocol, convention="", **details):
    made = GeometryReport(provenance={"model": ODD, "text": {"name": ODD}})
    for layer in range(3):
        columns = {"layer": layer, "stack": "encoder", "tokens": "all", "measure": measure, "protocol": protocol}
        made.add(value=0.5, se=0.1, convention=convention, details=details | {"step": layer}, **columns)
    return made


FIGURES = {
    "layers": lambda: plot_layers(report(ODD, 3)),
    "layers of two": lambda: plot_layers({ODD: report("m", 3), "other": report("m", 3)}),
    "comparison": lambda: plot_comparison(of_one_measure("linear_cka", "whole")),
    "sequences": lambda: plot_sequences(of_one_measure("curvature", "whole")),
    "scale curves": lambda: plot_scale_curves({ODD: [SimpleNamespace(n=8, value=2.0, standard_error=0.1)]}),
    "training": lambda: plot_training(of_one_measure("anisotropy", "whole", "razzhigaev")),
    "sweep": lambda: plot_sweep(of_one_measure("anisotropy", "whole", "razzhigaev", member=ODD)),
    "decision": lambda: draw(Picture([Curve(ODD, [ODD, "b"], [1, 2])] * 2, ODD, ODD, {ODD: 1}), ODD),
}


@pytest.mark.parametrize("kind", FIGURES)
def test_words_of_users_are_drawn_as_they_are_and_unknown_characters_as_code_points(kind):
    figure = FIGURES[kind]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(BytesIO())
    said = [text.get_text() for text in figure.findobj(Text)]
    assert any(r"_[E000] \$a_b\$" in text for text in said) and not any("\ue000" in text for text in said)


def test_three_panels_leave_the_fourth_place_empty():
    made = report("m", 3)
    for layer in range(3):
        given = {"layer": layer, "stack": "encoder", "tokens": "all", "value": 0.5}
        made.add(measure="effective_rank", convention="roy", **given)
    for figure in (plot_layers(made), plot_sweep(GeometryReport([row | {"details": {"member": "m"}} for row in made]))):
        assert len([axis for axis in figure.axes if axis.get_title()]) == len(figure.axes) == 3


def test_curves_of_scales_hold_the_points_that_have_a_value():
    from hf_repgeo.measures import Estimate

    points = [Estimate("intrinsic_dimension", "facco", value, n=n) for value, n in ((2.0, 100), (None, 50))]
    figure = plot_scale_curves({"m": points})
    [axis] = figure.axes
    assert axis.containers[0].lines[0].get_xydata().tolist() == [[100, 2.0]]
    with pytest.raises(BadInput, match="`curves`: got no point"):
        plot_scale_curves({"m": points[1:]})
