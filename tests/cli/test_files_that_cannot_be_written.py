"""A full disk, a closed folder, a file in the way: one sentence, exit code 2, nothing half-written."""

import argparse
import os
from pathlib import Path

import numpy as np
import pytest

from hf_repgeo.cli.main import main, parser


@pytest.fixture
def rows(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(30, 4)))
    (tmp_path / "out").mkdir()
    return tmp_path


def refused(capsys, *words) -> str:
    assert main([*map(str, words)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("hf-repgeo: ") and said.count("\n") == 1 and "Traceback" not in said
    return said


def test_a_full_disk_leaves_the_old_report_and_no_other_file(rows, capsys, monkeypatch):
    out = rows / "out" / "report.json"
    command = ("measure", rows / "x.npy", "--measures", "anisotropy", "--out", out)
    assert main([*map(str, command)]) == 0
    before = out.read_bytes()
    capsys.readouterr()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left on device" in refused(capsys, *command, "--seed", 1)
    assert out.read_bytes() == before and list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize(
    ("out", "said"),
    [("nowhere/r.json", "a folder that exists"), ("out", "that can be written"), ("x.npy/r.json", "file")],
)
def test_a_report_that_cannot_be_written_is_refused_before_the_work(rows, capsys, monkeypatch, out, said):
    monkeypatch.setattr("hf_repgeo.profiling.measure", None)
    assert said in refused(capsys, "measure", rows / "x.npy", "--out", rows / out)


def test_a_report_is_written_in_the_format_of_its_name_and_never_over_the_rows(rows, capsys):
    from hf_repgeo.report import GeometryReport

    command = ("measure", rows / "x.npy", "--measures", "anisotropy", "--out")
    before = (rows / "x.npy").read_bytes()
    assert "`--out`: got" in refused(capsys, *command, rows / "x.npy")
    assert "a name that ends in one of .json, .parquet" in refused(capsys, *command, rows / "report")
    assert (rows / "x.npy").read_bytes() == before
    for name in ("r.json", "r.parquet"):
        assert main([*map(str, command), str(rows / name)]) == 0
    assert GeometryReport.from_parquet(rows / "r.parquet") == GeometryReport.from_json(rows / "r.json")


def test_a_profile_into_a_file_is_refused(rows, capsys, encoder_folder):
    assert "x.npy" in refused(capsys, "profile", encoder_folder, "--out", rows / "x.npy", "--quiet")


def test_a_figure_of_an_unknown_format_is_refused(rows, capsys):
    report = rows / "out" / "report.json"
    assert main(["measure", str(rows / "x.npy"), "--measures", "anisotropy", "--out", str(report)]) == 0
    capsys.readouterr()
    refused(capsys, "plot", report, "--out", rows / "out" / "figure.xyz")
    assert [path.name for path in Path(report.parent).iterdir()] == ["report.json"]


@pytest.mark.parametrize(
    "said",
    [
        "Error while serializing: I/O error: No space left on device (os error 28)",  # safetensors
        "No space left on device (os error 28)",  # tokenizers
        "[enforce fail at inline_container.cc:603] . PytorchStreamWriter failed writing file data/1: file write failed",
    ],
)
def test_a_full_disk_that_a_library_reports_with_its_own_error_gives_one_sentence(rows, capsys, monkeypatch, said):
    from safetensors import SafetensorError

    def full(*_, **__):
        raise SafetensorError(said)

    monkeypatch.setattr("hf_repgeo.profiling.measure", full)
    assert refused(capsys, "measure", rows / "x.npy") in (
        "hf-repgeo: No space left on device\n", "hf-repgeo: a file could not be written\n"
    )  # fmt: skip


def test_an_error_unrelated_to_the_disk_is_raised_unchanged(rows, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no disk at all")

    monkeypatch.setattr("hf_repgeo.profiling.measure", broken)
    with pytest.raises(RuntimeError, match="no disk at all"):
        main(["measure", str(rows / "x.npy")])


def test_a_perturbed_model_that_does_not_fit_leaves_nothing(rows, capsys, monkeypatch, encoder_folder):
    import transformers

    def full(self, folder, **_):
        (Path(folder) / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(transformers.PreTrainedModel, "save_pretrained", full)
    command = ("downstream", "perturb", encoder_folder, "--alpha", 0.3, "--out", rows / "noisy")
    assert "No space left on device" in refused(capsys, *command)
    assert not (rows / "noisy").exists()


def test_kernels_that_do_not_fit_the_embedding_give_one_sentence(rows, capsys, monkeypatch, encoder_folder):
    command = ("sparse-vae", "train", encoder_folder, "--output", rows / "run", "--cache", rows / "cache")
    assert "`kernel`: got [15, 15]" in refused(capsys, *command)


# --- every command that writes ----------------------------------------------------------------------------------------

OUT = "OUT"  # takes the place of the folder or file to write; no model or file that is read exists
WRITING = [
    ("profile", "nowhere", "--out", OUT),
    ("sweep", "--models", "models.txt", "--out", OUT),
    ("compare", "nowhere", "nothing", "--out", OUT),
    ("sequences", "nowhere", "--out", OUT),
    ("measure", "nowhere.npy", "--out", OUT),
    ("plot", "nowhere.json", "--out", OUT),
    ("locate", "nowhere.csv", "--encoder", "nowhere", "--out", OUT),
    ("sparse-vae", "train", "nowhere", "--output", OUT),
    ("sparse-vae", "localize", "nowhere", "--output", OUT),
    ("blm", "generate", "chunks", "--output", OUT),
    ("downstream", "sample", "nowhere.txt", "--out", OUT),
    ("downstream", "perturb", "nowhere", "--alpha", "0.1", "--out", OUT),
    ("downstream", "study", "nowhere", "--out", OUT),
    ("downstream", "regress", "nowhere.csv", "--score", "x", "--out", OUT),
    ("floor", "nowhere", "--out", OUT),
    ("layer", "nowhere", "--pairs", "nowhere.csv", "--out", OUT),
    ("finetune", "nowhere", "nothing", "--texts", "nowhere.csv", "--out", OUT),
    ("quant", "nowhere", "nothing", "--out", OUT),
    ("dims", "nowhere", "--out", OUT),
    ("index", "nowhere", "--out", OUT),
    ("dedup", "nowhere", "--out", OUT),
    ("checkpoint", "nowhere", "--pairs", "nowhere.csv", "--out", OUT),
]


def writers(parser, name=()) -> set[tuple[str, ...]]:
    """The commands with an option that names what to write."""
    verbs = next((action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)), {})
    found = set().union(*(writers(inner, (*name, verb)) for verb, inner in verbs.items()))
    flags = {flag for action in parser._actions for flag in action.option_strings}
    return found | ({name} if flags & {"--out", "--output"} else set())


def test_the_list_of_commands_that_write_is_whole():
    listed = {tuple(words[: 2 if words[0] in ("sparse-vae", "blm", "downstream") else 1]) for words in WRITING}
    assert writers(parser()) == listed


@pytest.mark.parametrize("words", WRITING, ids=" ".join)
@pytest.mark.parametrize("place", ["file.png", "file.png/below.png"])
def test_a_file_in_the_way_is_refused_before_anything_is_read(tmp_path, capsys, monkeypatch, words, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.txt").write_text("nowhere")
    taken = tmp_path / "file.png"
    taken.write_text("mine")
    if words[0] in ("measure", "plot") and place == "file.png":  # a file is what they replace
        taken = tmp_path / "folder"
        taken.mkdir()
        place = "folder"
    said = refused(capsys, *(place if word == OUT else word for word in words))
    assert place.split("/")[0] in said and "nowhere" not in said
    assert taken.is_dir() or taken.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({"models.txt", "file.png", taken.name})
