"""Predicting without fine-tuning, and choosing an encoder: intervals that cover, warnings, what geometry adds."""

import json

import numpy as np
import pytest

from hf_repgeo import BadInput
from hf_repgeo.cli import main
from hf_repgeo.downstream import expect_score, select_encoder
from hf_repgeo.downstream.expectation import SHIPPED, _best, _half_width
from hf_repgeo.downstream.selection import added_in_study, added_skill, read_labelled
from hf_repgeo.downstream.tables import read_scores
from hf_repgeo.errors import UnknownName

SETTINGS = {"measures": ["anisotropy"], "corpora": None, "sequences": 60, "seed": 0, "bf16": False}


def write_fit(folder, families=("bert-2x32", "other"), slope=-1.0, spread=0.02, low=0.0):
    rng, rows = np.random.default_rng(0), ["model,architecture,alpha,run,average,anisotropy"]
    for number, family in enumerate(families):
        for step in range(12):
            x = low + 0.08 * step
            for run in range(3):
                y = 0.9 + slope * x + 0.1 * number + rng.normal(0, spread)
                rows.append(f"m,{family},{0.01 * step},{run},{y},{x + 0.001 * run}")
    (folder / "table.csv").write_text("\n".join(rows))
    (folder / "study.json").write_text(json.dumps(SETTINGS))
    return folder / "table.csv"


# --- prediction ------------------------------------------------------------------------------------------------------


def test_a_known_architecture_lies_on_its_own_line(tmp_path, encoder, tokenizer):
    found = expect_score(encoder, write_fit(tmp_path), tokenizer=tokenizer)
    assert found.known_family and found.measure == "anisotropy" and found.warnings == []
    assert found.expected == pytest.approx(0.9 - found.value, abs=0.03)
    assert 0.03 < found.high - found.low < 0.16


def test_an_unknown_architecture_gives_a_warning_and_a_wider_interval(tmp_path, encoder, tokenizer):
    path = write_fit(tmp_path, ("a", "b", "c"))
    unknown = expect_score(encoder, path, tokenizer=tokenizer)
    known = expect_score(encoder, path, tokenizer=tokenizer, architecture="b")
    assert unknown.high - unknown.low > 2 * (known.high - known.low)
    assert "no bert-2x32, only a, b, c" in unknown.warnings[0]


def test_a_prediction_outside_the_range_of_the_fit_gives_a_warning(tmp_path, encoder, tokenizer):
    found = expect_score(encoder, write_fit(tmp_path, low=5.0), tokenizer=tokenizer)
    assert "outside the fit's range, 5 to 5.88" in str(found)


def test_intervals_cover_new_models_as_often_as_they_say():
    rng, inside = np.random.default_rng(1), 0
    for _ in range(300):
        errors = rng.standard_t(3, size=40)
        inside += abs(rng.standard_t(3)) <= _half_width(errors)
    assert inside / 300 > 0.95 - 3 * np.sqrt(0.05 * 0.95 / 300)


def test_too_few_models_give_no_finite_interval():
    assert _half_width(np.ones(10)) == float("inf") and _half_width(np.ones(19)) == 1.0


def test_a_table_without_its_study_is_refused(tmp_path, encoder, tokenizer):
    path = write_fit(tmp_path)
    (tmp_path / "study.json").unlink()
    with pytest.raises(BadInput, match="The sample on which geometry was measured must be known"):
        expect_score(encoder, path, tokenizer=tokenizer)


def test_the_predict_command_uses_the_shipped_table_by_default(encoder_folder, capsys):
    assert main(["downstream", "predict", str(encoder_folder)]) == 0
    said = capsys.readouterr().out
    assert "95 % interval" in said and "the fit has no bert-2x32" in said


def test_the_shipped_table_is_a_study_whose_settings_are_known():
    settings = json.loads(SHIPPED.with_suffix(".json").read_text())
    table = read_scores(SHIPPED, "frozen", measures=["patchiness"])
    assert len(table.families) >= 2 and table.dose.min() == 0 and settings["sequences"] >= 100
    assert _best(table, table.families[0])[2] < np.ptp(table.score)


# --- selection -------------------------------------------------------------------------------------------------------


@pytest.fixture
def labelled(tmp_path):
    rows = [f"the {word} sees the house {i % 5},{word}" for i in range(20) for word in ("cat", "dog")]
    (tmp_path / "task.csv").write_text("\n".join(["text,label", *rows]))
    return tmp_path / "task.csv"


def test_encoders_are_ranked_by_the_probe_and_the_verdict_has_an_interval(labelled, encoder_folder, capsys):
    assert main(["downstream", "select", f"a={encoder_folder}", f"b={encoder_folder}", "--task", str(labelled)]) == 0
    said = capsys.readouterr().out
    assert "a        1.00 [1.00, 1.00]" in said and "cannot be told apart" in said
    assert "changes the skill of predicting the outcome by" in said and "shipped study" in said


def test_geometry_that_follows_the_outcome_adds_skill_and_noise_does_not():
    rng = np.random.default_rng(2)
    probe, geometry, noise = rng.normal(size=(3, 60))
    outcome = probe + geometry + 0.3 * rng.normal(size=60)
    assert added_skill(outcome, probe, geometry).low > 0.2
    found = added_skill(outcome, probe, noise)
    assert found.low < 0.02 and found.value < 0.05


def test_outcomes_of_many_encoders_are_used_instead_of_the_study(labelled, encoder_folder):
    names = [f"model-{i}" for i in range(8)]
    outcomes = {name: 0.1 * i for i, name in enumerate(names)}
    found = select_encoder(dict.fromkeys(names, str(encoder_folder)), labelled, outcomes=outcomes)
    assert found.basis == "these 8 encoders" and found.adds.low <= 1e-9


def test_the_study_is_used_where_outcomes_are_missing():
    adds, basis = added_in_study("patchiness")
    assert adds.low <= adds.value <= adds.high and "frames" in basis


@pytest.mark.parametrize(
    "content, message",
    [
        ("text,class\na,b", r"line 1: \['text', 'class'\]; wanted the columns text and label"),
        ("text,label\na,x\nb", "line 3, with too few columns"),
        ("text,label\n" + "a,x\n" * 9, "9 rows of 1 classes"),
        ("text,label\n" + "a,x\n" * 9 + "b,y\n", "1 of the rarest; wanted two classes with 5 rows each"),
    ],
)
def test_data_that_cannot_be_used_are_refused(tmp_path, content, message):
    (tmp_path / "task.csv").write_text(content)
    with pytest.raises(BadInput, match=message):
        read_labelled(tmp_path / "task.csv")


def test_missing_data_and_unknown_measures_are_refused(tmp_path, labelled):
    with pytest.raises(BadInput, match="which is not a file"):
        read_labelled(tmp_path / "none.csv")
    with pytest.raises(UnknownName, match="Did you mean 'patchiness'"):
        select_encoder(["x"], labelled, measure="patchines")


def test_pairs_and_glue_folders_are_read(tmp_path):
    (tmp_path / "pairs.tsv").write_text("text\ttext2\tlabel\n" + "a b\tc d\tx\na\tb\ty\n" * 6)
    task = read_labelled(tmp_path / "pairs.tsv")
    assert task.columns.shape == (2, 12) and len(task.texts) == 4
    (tmp_path / "RTE").mkdir()
    rows = "0\ta b\tc d\tentailment\n0\te\tf\tnot_entailment\n" * 6
    for split in ("train", "dev"):
        (tmp_path / "RTE" / f"{split}.tsv").write_text("index\tsentence1\tsentence2\tlabel\n" + rows)
    assert read_labelled(f"{tmp_path}:rte").labels.tolist() == [0, 1] * 6


def test_the_verdict_of_a_selection_says_what_the_interval_says():
    from hf_repgeo.downstream.resampling import Interval
    from hf_repgeo.downstream.selection import Candidate, Selection, _notes

    def said(adds):
        return Selection([], adds, "patchiness", "9 encoders").verdict().rpartition(": ")[2]

    assert said(Interval(0.3)) == "too few models to say."
    assert said(Interval(0.3, 0.1, 0.5, 9)) == "geometry adds to the probe."
    assert said(Interval(0.3, -0.1, 0.5, 9)).startswith("geometry adds nothing that can be shown")
    near, far = (Candidate(name, Interval(value, value - 0.05, value + 0.05, 9), {}, None)
                 for name, value in (("near", 0.8), ("far", 0.5)))  # fmt: skip
    assert _notes([near]) == _notes([near, far]) == []
    assert _notes([near, near]) == ["near and near cannot be told apart by the probe on these rows."]


def test_a_fit_of_one_architecture_warns_of_others_and_damaged_settings_are_refused(tmp_path, encoder, tokenizer):
    path = write_fit(tmp_path, families=("other",))
    warnings = expect_score(encoder, path, tokenizer=tokenizer).warnings
    assert any("with one architecture in the fit" in warning for warning in warnings)
    settings = json.loads((tmp_path / "study.json").read_text())
    for damaged in ({**settings, "measures": "all"}, {}, [1]):
        (tmp_path / "study.json").write_text(json.dumps(damaged))
        with pytest.raises(BadInput, match="study.json' without measures; wanted the study.json of a study"):
            expect_score(encoder, path, tokenizer=tokenizer)


def test_a_model_whose_geometry_cannot_be_measured_gets_no_score(tmp_path, encoder, tokenizer, monkeypatch):
    from hf_repgeo.downstream import expectation

    path = write_fit(tmp_path)
    monkeypatch.setattr(expectation, "geometry_of", lambda rows, names, seed: dict.fromkeys(names))
    with pytest.raises(BadInput, match="= None; wanted a model whose geometry can be measured"):
        expect_score(encoder, path, tokenizer=tokenizer)
