"""A full disk, a closed folder, a file in the way: one sentence, exit code 2, nothing half-written."""

import os
from pathlib import Path

import numpy as np
import pytest

from hf_repgeo.cli.main import main


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
def test_a_report_that_has_no_place_is_refused_before_the_work(rows, capsys, monkeypatch, out, said):
    monkeypatch.setattr("hf_repgeo.profiling.measure", None)
    assert said in refused(capsys, "measure", rows / "x.npy", "--out", rows / out)


def test_a_profile_into_a_file_is_refused(rows, capsys, encoder_folder):
    assert "x.npy" in refused(capsys, "profile", encoder_folder, "--out", rows / "x.npy", "--quiet")


def test_a_figure_of_an_unknown_format_is_refused(rows, capsys):
    report = rows / "out" / "report.json"
    assert main(["measure", str(rows / "x.npy"), "--measures", "anisotropy", "--out", str(report)]) == 0
    capsys.readouterr()
    refused(capsys, "plot", report, "--out", rows / "out" / "figure.xyz")
    assert [path.name for path in Path(report.parent).iterdir()] == ["report.json"]
