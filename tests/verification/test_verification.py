"""A report measured again: the same bit for bit on the same machine, and a sentence for whatever differs."""

import copy
import json

import numpy as np
import pytest
import torch

import hf_repgeo
from hf_repgeo.cli.main import main
from hf_repgeo.errors import BadInput, RepgeoError, UnknownName
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


# --- images, sounds, and reports that cannot be measured again --------------------------------------------------------


def test_a_report_of_images_is_measured_again_from_its_files(tmp_path, capsys):
    image = pytest.importorskip("PIL.Image", reason="the extra 'vision' is not installed")
    from tiny import seeded
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=32, patch_size=8
    )
    seeded(ViTModel, config).save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    for number, pixels in enumerate(noise):
        image.fromarray(pixels).save(pictures / f"{number}.png")
    choice = {"measures": "anisotropy", "rows": 60, "batch_rows": 30, "progress": False}
    report = hf_repgeo.profile(str(tmp_path / "vit"), images=pictures, **choice)
    path = str(report.to_json(tmp_path / "report.json"))
    assert main(["report", "verify", path, "--images", str(pictures)]) == 0
    assert capsys.readouterr().out == "the same bit for bit\n"
    with pytest.raises(BadInput, match="`images`: got none; wanted the images of the report"):
        verify_report(report)
    with pytest.raises(BadInput, match="`images`: got texts; wanted the images of the report"):
        verify_report(report, images=pictures, texts=["a text"])
    (pictures / "0.png").unlink()
    found = verify_report(report, images=pictures)
    assert not found.holds and set(found.facts) == {"text"}


def test_a_report_of_a_model_in_memory_is_measured_with_it_and_its_tokenizer(encoder, tokenizer, documents):
    report = hf_repgeo.profile(encoder, documents, tokenizer=tokenizer, measures="anisotropy", **SETTINGS)
    given = {"model": encoder, "tokenizer": tokenizer, "texts": documents}
    assert str(verify_report(report, **given)) == "the same bit for bit"
    trained = copy.deepcopy(encoder)
    with torch.no_grad():
        trained.embeddings.word_embeddings.weight[3] += 1
    found = verify_report(report, **given | {"model": trained})
    assert not found.holds and set(found.facts) == {"fingerprint"}


def test_a_report_cannot_switch_on_what_a_user_must_ask_for(profiled):
    report, texts = profiled
    for smuggled in ({"trust_remote_code": True}, {"out": "elsewhere"}, {"allow_random_weights": True}):
        with pytest.raises(UnknownName, match=f"unknown option '{next(iter(smuggled))}'"):
            verify_report(GeometryReport(report.rows, {**report.provenance, "options": smuggled}), texts=texts)
    with pytest.raises(BadInput, match="got options \\['out'\\]; wanted options by name"):
        verify_report(GeometryReport(report.rows, {**report.provenance, "options": ["out"]}), texts=texts)


def test_reports_of_other_functions_and_of_groups_say_that_they_cannot_be_measured_again(encoder_folder, documents):
    X = np.random.default_rng(0).normal(size=(60, 4))
    compared = hf_repgeo.compare(str(encoder_folder), None, documents, layers=[1, 2], rows=100, measures=["anisotropy"])
    with pytest.raises(BadInput, match="whose provenance tells no settings; wanted a report of profile or measure"):
        verify_report(compared, texts=documents)
    with pytest.raises(BadInput, match="one measured with groups="):
        verify_report(hf_repgeo.measure(X, "anisotropy", groups=np.arange(60) // 3), file=X)
    with pytest.raises(BadInput, match="`file`: got none; wanted the rows of the report"):
        verify_report(hf_repgeo.measure(X, "anisotropy"))


def test_rows_and_values_that_are_missing_on_either_side_differ_without_end():
    X = np.random.default_rng(0).normal(size=(60, 4))
    one, two = hf_repgeo.measure(X, "anisotropy"), hf_repgeo.measure(X, ["anisotropy", "mean_cosine"])
    unknown = GeometryReport([{**one.rows[0], "value": None}], one.provenance)
    for then, now, said in (
        (two, one, "row: there in the report, missing now"),
        (one, two, "missing in the report"),
        (unknown, one, "value: None in the report"),
    ):
        found = compare_reports(then, now)
        assert not found.holds and said in str(found) and "relative difference inf" in str(found)


@pytest.mark.parametrize("value", [None, True, -1, 2**70, "x", [], [[1]], {"a": 1}, float("inf")], ids=str)
def test_a_damaged_provenance_is_refused_in_words_or_gives_a_difference(profiled, value):
    X = np.random.default_rng(0).normal(size=(30, 4))
    for report, given in ((hf_repgeo.measure(X, "anisotropy"), {"file": X}), (profiled[0], {"texts": profiled[1]})):
        for name in ("measures", "seed", "options", "rows", "text", "tokens", "layers", "window", "null", "max_rows"):
            damaged = GeometryReport(
                report.rows, report.provenance | ({name: value} if name in report.provenance else {})
            )
            try:
                assert str(verify_report(damaged, **given))
            except RepgeoError as error:
                assert "\n" not in str(error)
