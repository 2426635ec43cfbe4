"""GeometryReport: tidy rows that come back equal from every format, and finding a number in them."""

import json
import math
from pathlib import Path

import pytest
import torch

from hf_repgeo import measure
from hf_repgeo.errors import BadInput, RepgeoError, UnknownName
from hf_repgeo.report import GeometryReport
from hf_repgeo.report_table import COLUMNS
from hf_repgeo.report_text import number


@pytest.fixture
def report():
    report = GeometryReport(provenance={"model": "pip:tiny", "text": {"name": "t.txt"}, "window": 64, "seed": 0})
    for layer in range(3):
        for tokens in ("all", "sink_robust"):
            report.add(
                layer=layer, stack="encoder", tokens=tokens, measure="anisotropy", convention="razzhigaev",
                protocol="batches", value=0.1 * layer, sd=0.01, se=0.005, se_method="over 4 batches", n=400,
                n_distinct=390, n_per_batch=100, n_batches=4, details={"n_used": 90, "word": "é"},
            )  # fmt: skip
    report.add(measure="iso_score", layer=0, warnings=["no_spread: all rows are equal", "other: thing"])
    return report


def test_every_row_has_every_column(report):
    assert all(list(row) == list(COLUMNS) for row in report)


@pytest.mark.parametrize("form", ["json", "parquet"])
def test_a_report_comes_back_equal(report, form, tmp_path):
    path = getattr(report, f"to_{form}")(tmp_path / f"report.{form}")
    assert getattr(GeometryReport, f"from_{form}")(path) == report


def test_pandas_and_datasets_hold_the_same_rows(report):
    frame, data = report.to_pandas(), report.to_dataset()
    assert list(frame.columns) == list(COLUMNS) == data.column_names
    assert frame["value"].tolist()[:6] == data["value"][:6] == [row["value"] for row in report][:6]
    assert data[6]["warnings"] == ["no_spread: all rows are equal", "other: thing"] and data[6]["value"] is None


def test_numbers_are_found_by_their_columns(report):
    assert report.value("anisotropy", layer=2, tokens="all") == pytest.approx(0.2)
    assert len(report.select(tokens=["all", "sink_robust"], layer=[0, 1])) == 4
    assert report.unique("tokens") == ["all", "sink_robust", None]
    with pytest.raises(RepgeoError, match=r"6 rows of 'anisotropy'; choose by layer, tokens"):
        report.value("anisotropy")
    with pytest.raises(RepgeoError, match="no row with measure='anisotropi'.*measured: anisotropy, iso_score"):
        report.value("anisotropi")
    with pytest.raises(UnknownName, match="unknown column 'token'. Did you mean 'tokens'"):
        report.select(token="all")


def test_without_a_convention_the_default_one_is_meant(generator):
    report = measure(torch.randn(300, 4, generator=generator), "intrinsic_dimension")
    assert report.row("intrinsic_dimension")["convention"] == "facco"
    assert report.value("intrinsic_dimension") != report.value("intrinsic_dimension", convention="mle")


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_numbers_that_are_not_finite_never_enter(report, number):
    for column in ("value", "sd", "se"):
        with pytest.raises(RepgeoError, match="use None and a warning"):
            report.add(measure="anisotropy", **{column: number})
    with pytest.raises(UnknownName, match="unknown column 'valu'"):
        report.add(measure="anisotropy", valu=1.0)


def test_what_is_no_report_is_refused(tmp_path):
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "new.json").write_text('{"format": 99}')
    for name in ("missing.json", "list.json"):
        with pytest.raises(BadInput, match="wanted a report written by to_json"):
            GeometryReport.from_json(tmp_path / name)
    with pytest.raises(BadInput, match="format 99; wanted a report. Upgrade hf_repgeo"):
        GeometryReport.from_json(tmp_path / "new.json")
    with pytest.raises(BadInput, match="wanted a report written by to_parquet"):
        GeometryReport.from_parquet(tmp_path / "missing.parquet")


@pytest.mark.parametrize(
    "changed",
    [
        {"warnings": [None]},
        {"n": 2**63},
        {"value": 10**400},
        {"details": {"step": [1]}},
        {"details": {"null": "a"}},
        {"details": {"low": 1.0}},
        {"details": {"null": 0.1, "null_low": 0.0, "null_high": None}},
    ],
    ids=str,
)
def test_a_file_whose_rows_could_not_be_shown_or_written_again_is_refused(report, tmp_path, changed):
    report.rows[0] |= changed
    (tmp_path / "report.json").write_text(json.dumps(report.as_dict()))
    with pytest.raises(BadInput, match="a report written by to_json"):
        GeometryReport.from_json(tmp_path / "report.json")


def test_a_report_of_two_steps_is_a_training_and_one_of_a_single_step_is_not(report):
    for row in report.rows:
        row["details"]["step"] = 10
    assert "step" not in repr(report).split()
    report.rows[0]["details"]["step"] = 20
    assert "step" in repr(report).split()


def test_an_error_is_one_line_whatever_name_came():
    assert str(UnknownName("column", 3, ["line\nbreak"])) == r"unknown column 3. Known: line\nbreak."


def test_the_text_form_shows_values_errors_reasons_and_warnings(report):
    text = repr(report)
    assert "pip:tiny · t.txt · window 64 · seed 0 · 7 rows" in text
    assert "0.2 ± 0.005" in text and "n = 400 in 4 batches" in text
    assert "no_spread (1 rows): all rows are equal" in text


def test_the_text_form_tells_intervals_and_how_many_errors_make_one(generator):
    X = torch.randn(120, 5, generator=generator)
    documents = torch.arange(120) // 15
    told = str(measure(X, ["anisotropy", "mean_cosine"], groups=documents, interval=0.9))
    assert "95 %: ± 2.4 errors" in told  # Student's t with 7 degrees of freedom: 2.365
    assert "0.9 interval" in told and told.count("[") == 2
    assert "95 %: ± 2.1 errors" in str(measure(X, "anisotropy"))
    assert "errors" not in str(measure(X, "anisotropy", groups=documents // 2))  # four documents have no error


def test_the_text_form_marks_errors_that_are_bounds_or_rough(generator):
    X, documents = torch.randn(120, 5, generator=generator), torch.arange(120) // 15
    told = str(measure(X, ["effective_rank", "mean_cosine"], groups=documents))
    assert told.count("± ≥") == 2 and "± ≥ lower bound" in told  # effective rank, and the line that explains it


def test_the_text_form_of_plain_rows_lists_the_measures(generator):
    text = repr(measure(torch.randn(50, 4, generator=generator), ["anisotropy", "iso_score"]))
    assert [line.split()[0] for line in text.splitlines()[-2:]] == ["anisotropy", "iso_score"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.123456, "0.1235"), (12345.6, "12346"), (1.5e-7, "1.500e-07"), (123456.0, "1.235e+05")],
)
def test_numbers_are_printed_with_sensible_digits(value, text):
    assert number(value) == text


@pytest.mark.parametrize(("norm", "last"), [("applied", "final_norm"), ("raw", "residual"), ("none", "residual")])
def test_reports_of_format_1_say_whether_their_last_layer_came_after_the_final_norm(tmp_path, norm, last):
    rows = [
        {"layer": i, "stack": "decoder", "tokens": "all", "measure": "anisotropy", "value": 0.1 * i} for i in (0, 1)
    ]
    rows = [{column: row.get(column) for column in COLUMNS if column != "point"} for row in rows]
    rows = [row | {"warnings": [], "details": {}} for row in rows]
    old = {"format": 1, "provenance": {"final_norm": norm}, "rows": rows}
    (tmp_path / "old.json").write_text(json.dumps(old))
    report = GeometryReport.from_json(tmp_path / "old.json")
    assert [row["point"] for row in report] == ["residual", last] and list(report.rows[0]) == list(COLUMNS)
    assert report.value("anisotropy", layer=1) == 0.1 and len(report.stream()) == 2


def test_a_value_without_a_point_is_the_residual_streams():
    report = GeometryReport()
    for point, value in (("residual", 0.5), ("final_norm", 0.1)):
        report.add(layer=2, stack="decoder", point=point, tokens="all", measure="anisotropy", value=value)
    assert report.value("anisotropy") == 0.5 and report.value("anisotropy", point="final_norm") == 0.1
    assert [row["value"] for row in report.stream()] == [0.5]


@pytest.mark.parametrize("ending", ["json", "parquet"])
def test_a_file_that_cannot_be_written_whole_stays_as_it_was(report, tmp_path, monkeypatch, ending):
    path = tmp_path / f"report.{ending}"
    write = {"json": report.to_json, "parquet": report.to_parquet}[ending]
    write(path)
    before = path.read_bytes()

    def full_disk(self, target):
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = measure(torch.eye(4), ["participation_ratio"]).to_json(tmp_path / "report.json")
    before = path.read_bytes()

    def full(self, data):
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "write_bytes", full)
    monkeypatch.setattr(type(path), "write_text", lambda self, text, *_, **__: full(self, text.encode()))
    with pytest.raises(OSError, match="No space left"):
        measure(torch.eye(5), ["participation_ratio"]).to_json(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_training_in_text_shows_the_mean_over_layers_the_only_layer_or_why_there_is_none(report):
    made = GeometryReport()
    for step, values in ((10, (1.0, 3.0)), (20, (2.5, None)), (30, (None, None))):
        for layer, value in enumerate(values):
            said = [] if value is not None else ["no_spread: all rows are equal"]
            made.add(measure="anisotropy", layer=layer, value=value, warnings=said, details={"step": step})
    lines = [line.split() for line in repr(made).splitlines()]
    assert ["10", "2", "(1", "to", "3)"] in lines and ["20", "2.5", "(layer", "0)"] in lines
    assert ["30", "no_spread"] in lines


def test_chance_in_text_has_its_band_or_as_in_earlier_versions_only_its_level():
    made = GeometryReport()
    for name, details in (
        ("anisotropy", {"null": 0.25, "null_low": 0.2, "null_high": 0.3, "p": 0.0005}),
        ("effective_rank", {"null": 7.5}),
        ("iso_score", {}),
    ):
        made.add(measure=name, value=0.5, details=details)
    lines = {line.split()[0]: line for line in repr(made).splitlines() if line.strip()}
    assert "0.25 [0.2, 0.3]" in lines["anisotropy"] and "< 0.001" in lines["anisotropy"]
    assert lines["effective_rank"].endswith("7.5") and "[" not in lines["iso_score"]


@pytest.mark.parametrize(("p", "star"), [(0.049, True), (0.05, False), (0.9, False), (None, False)])
def test_a_difference_has_a_star_only_below_five_percent(p, star):
    report = GeometryReport()
    details = {"first": 0.5, "second": 0.7} | ({} if p is None else {"p_corrected": p})
    report.add(layer=1, measure="anisotropy", convention="razzhigaev", protocol="paired", value=0.2, details=details)
    heading, *_, last = str(report).splitlines()[1:]
    assert "* p < 0.05" in str(report) and last.split() == ["1", "0.2", *["*"] * star]


def test_a_report_of_the_first_format_has_points_and_numbers_that_are_not_finite_are_refused(tmp_path):
    made = GeometryReport(provenance={"final_norm": "applied"})
    for layer in (None, 0, 1):
        made.add(layer=layer, stack="encoder", measure="anisotropy", convention="razzhigaev", value=0.5, n=9)
    old = made.as_dict()
    for row in old["rows"]:
        del row["point"]
    (tmp_path / "old.json").write_text(json.dumps(old | {"format": 1}))
    assert [row["point"] for row in GeometryReport.from_json(tmp_path / "old.json")] == [None, "residual", "final_norm"]
    old["rows"][1]["value"] = float("nan")
    (tmp_path / "old.json").write_text(json.dumps(old))
    with pytest.raises(BadInput, match="row 1 has nan as 'value'"):
        GeometryReport.from_json(tmp_path / "old.json")


def test_a_row_that_is_not_there_is_told_by_the_first_column_that_lacks_it():
    made = GeometryReport()
    for layer, name in ((0, "anisotropy"), (1, "iso_score")):
        made.add(layer=layer, measure=name, convention="x", value=0.5)
    with pytest.raises(RepgeoError, match="no row with layer=1; measured of it: 0$"):
        made.value("anisotropy", layer=1)
    with pytest.raises(RepgeoError, match="no row with measure='patchiness'; measured: anisotropy, iso_score$"):
        made.value("patchiness", layer=1)
