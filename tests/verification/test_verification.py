"""A report measured again: the same bit for bit on the same machine, and a sentence for whatever differs."""

import json

import numpy as np
import pytest

import hf_repgeo
from hf_repgeo.cli.main import main
from hf_repgeo.errors import BadInput
from hf_repgeo.report import GeometryReport
from hf_repgeo.verification import compare_reports, verify_report

SETTINGS = {"rows": 300, "batch_rows": 100, "progress": False, "seed": 4}


@pytest.fixture(scope="module")
def profiled(encoder_folder, documents, tmp_path_factory):
    texts = tmp_path_factory.mktemp("texts") / "texts.txt"
    texts.write_text("\n\n".join(documents))
    report = hf_repgeo.profile(str(encoder_folder), texts, measures=["anisotropy", "patchiness"], **SETTINGS)
    return report, texts


def test_the_same_settings_give_the_same_report_bit_for_bit(profiled, tmp_path):
    report, texts = profiled
    path = report.to_json(tmp_path / "report.json")
    found = verify_report(GeometryReport.from_json(path), texts=texts)
    assert found.holds and not found.facts and not found.differences and found.report.rows == report.rows
    assert str(found) == "the same bit for bit"


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_pooled_rows_are_measured_again(encoder_folder, documents, pooling):
    report = hf_repgeo.profile(str(encoder_folder), documents, pooling=pooling, measures="anisotropy", **SETTINGS)
    assert str(verify_report(report, texts=documents)) == "the same bit for bit"


def test_a_corpus_that_was_read_one_document_at_a_time_is_read_again(encoder_folder, documents, tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"body": document}) + "\n" for document in documents))
    settings = SETTINGS | {"rows": "all", "measures": ["anisotropy"]}
    report = hf_repgeo.profile(str(encoder_folder), path, text_column="body", **settings)
    assert str(verify_report(report, texts=path)) == "the same bit for bit"
    path.write_text(path.read_text() + json.dumps({"body": "the cat sees"}) + "\n")
    found = verify_report(report, texts=path)
    assert not found.holds and "text" in found.facts


def test_another_number_is_named_with_its_difference(profiled):
    report, texts = profiled
    rows = [dict(row) for row in report]
    rows[0]["value"] *= 1 + 1e-3
    changed = GeometryReport(rows, {**report.provenance, "processor": "another"})
    found = compare_reports(changed, report)
    assert not found.holds and found.allowed == 1e-5
    assert "encoder 0 residual all anisotropy razzhigaev, value" in str(found) and "difference 0.001" in str(found)
    assert "1 numbers are others, beyond the tolerance 1e-05" in str(found)
    rows[0]["value"] = report.rows[0]["value"] * (1 + 1e-6)
    assert compare_reports(GeometryReport(rows, changed.provenance), report).holds
    assert not compare_reports(GeometryReport(rows, report.provenance), report).holds
    assert not compare_reports(GeometryReport(rows[1:], changed.provenance), report).holds


def test_other_texts_are_refused(profiled, documents):
    report, _ = profiled
    with pytest.raises(BadInput, match="wanted the texts of the report: 'texts.txt', 40 documents"):
        verify_report(report)
    with pytest.raises(BadInput, match="wanted the texts of the report, of fingerprint"):
        verify_report(report, texts=documents[:3])
    with pytest.raises(BadInput, match="whose provenance tells no settings"):
        verify_report(GeometryReport())


def test_the_command_line_verifies_a_file_of_rows(tmp_path, capsys):
    X = np.random.default_rng(0).normal(size=(500, 12))
    np.save(tmp_path / "x.npy", X)
    out = str(tmp_path / "report.json")
    options = ["--measures", "anisotropy,intrinsic_dimension", "--max-rows", "200", "--seed", "3", "--null"]
    assert main(["measure", str(tmp_path / "x.npy"), *options, "--out", out]) == 0
    capsys.readouterr()
    assert main(["report", "verify", out]) == 0
    assert capsys.readouterr().out == "the same bit for bit\n"
    X[0] += 1
    np.save(tmp_path / "x.npy", X)
    assert main(["report", "verify", out]) == 1
    assert "beyond the tolerance 0" in capsys.readouterr().out
