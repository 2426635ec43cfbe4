"""Figures of training and of sweeps: what is drawn is what was measured."""

import pytest

from hf_repgeo import GeometryReport, plot_sweep, plot_training
from hf_repgeo.errors import BadInput


def history(steps=(0, 1, 10, 100), offset=0.0, layers=3, **details):
    made = GeometryReport(provenance={"model": "m"})
    for step in steps:
        for layer in range(layers):
            for tokens in ("all", "one_per_type"):
                value = offset + step / 1000 + layer / 10
                made.add(
                    layer=layer, stack="encoder", point="residual", tokens=tokens, measure="anisotropy",
                    convention="razzhigaev", value=value, se=0.1, n=9, details={"step": step, **details},
                )  # fmt: skip
    return made


def test_the_map_holds_layer_by_step_and_the_line_their_mean():
    figure = plot_training(history())
    heat, lines = figure.axes[0], figure.axes[1]
    [mesh] = heat.collections
    assert mesh.get_array().reshape(3, 4)[2].tolist() == pytest.approx([0.2, 0.201, 0.21, 0.3])
    assert lines.get_lines()[0].get_xydata().tolist() == [
        [step, pytest.approx(step / 1000 + 0.1)] for step in (0, 1, 10, 100)
    ]
    assert [text.get_text() for text in heat.get_xticklabels()] == ["0", "1", "10", "100"]
    assert lines.get_xscale() == "symlog" and len(lines.get_lines()) == 2


def test_the_edges_of_the_map_lie_half_way_between_the_steps_on_a_logarithmic_axis():
    [mesh] = plot_training(history((1, 10, 100, 10_000))).axes[0].collections
    assert mesh.get_coordinates()[0, :, 0].tolist() == pytest.approx([-0.5, 0.5, 1.5, 3.0, 5.0])


def test_several_runs_are_drawn_as_their_mean_with_a_band():
    figure = plot_training([history(offset=0.1), history(offset=0.3)])
    assert figure.axes[1].get_lines()[0].get_xydata()[0].tolist() == [0, pytest.approx(0.3)]
    assert "mean of 2 runs" in figure.get_suptitle()


def test_a_history_prints_by_step():
    shown = repr(history())
    assert "mean over layers (least to greatest)" in shown
    assert "0.11 (0.01 to 0.21)" in shown and "tokens: one_per_type" in shown


def test_a_report_shows_itself_in_a_notebook_with_its_figure():
    for report in (history(), history((5,))):
        shown = report._repr_html_()
        assert shown.startswith('<img src="data:image/png;base64,') and "<pre>GeometryReport: m" in shown
    hostile = GeometryReport([], {"model": "<script>"})
    assert hostile._repr_html_() == "<pre>GeometryReport: &lt;script&gt; · 0 rows</pre>"


def test_a_sweep_has_one_curve_per_model():
    report = history((1, 2), member="early") + history((2,), 0.1, member="late")
    [axis] = plot_sweep(report).axes
    assert [line.get_label() for line in axis.get_lines()] == ["early", "late"]
    assert axis.get_lines()[1].get_xdata().tolist() == [0, 0.5, 1]


def test_what_has_no_steps_cannot_be_drawn_over_them():
    plain = GeometryReport()
    plain.add(layer=0, measure="anisotropy", convention="razzhigaev", value=0.5, tokens="all")
    with pytest.raises(BadInput, match="no value at any step"):
        plot_training(plain)
    with pytest.raises(BadInput, match="no value for tokens 'all'"):
        plot_sweep(GeometryReport())


def test_runs_in_different_cells_are_not_drawn_together():
    def patchy(cells):
        made = history(quantizer="product", cells=cells)
        made.rows = [row | {"measure": "patchiness", "convention": "lloyd"} for row in made.rows]
        return made

    with pytest.raises(BadInput, match=r"256 cells \(product\) in 'run 1'"):
        plot_training([patchy(64), patchy(256)])
    assert len(plot_training([patchy(64), patchy(64)]).axes) >= 2


def test_one_step_has_no_map_and_a_policy_that_runs_share_at_no_step_has_no_line():
    early, late = history(steps=(1, 10)), history(steps=(10, 100))
    for row in late:
        row["details"] = {"step": row["details"]["step"] * (1 if row["tokens"] == "all" else 1000)}
    heat, curves = plot_training([early, late]).axes[:2]
    assert [text.get_text() for text in heat.texts] == ["fewer than two steps"]
    assert [line.get_xydata()[:, 0].tolist() for line in curves.get_lines()] == [[10]]
