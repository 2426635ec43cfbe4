"""The command line: files, table, exit codes and words."""

import subprocess
import sys

import pytest

from hf_repgeo.cli.main import main
from hf_repgeo.report import GeometryReport


@pytest.fixture
def text(tmp_path, documents):
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(documents))
    return path


def test_profile_writes_table_picture_and_files(encoder_folder, text, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["profile", str(encoder_folder), "--text", str(text), "--out", str(out), "--rows", "200", "--quiet"]
    arguments += [
        "--measures",
        "anisotropy,intrinsic_dimension:mle",
        "--layers",
        "0-1,-1",
        "--tokens",
        "all,sink_robust",
    ]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "encoder, tokens: sink_robust, n = 200" in printed and "profile.png" in printed
    report = GeometryReport.from_json(out / "profile.json")
    assert GeometryReport.from_parquet(out / "profile.parquet").rows == report.rows
    assert report.unique("layer") == [0, 1, 2] and report.unique("convention") == ["razzhigaev", "mle"]
    assert (out / "profile.png").read_bytes().startswith(b"\x89PNG")


def test_bad_input_is_one_sentence_and_exit_code_2(encoder_folder, text, capsys):
    assert main(["profile", str(encoder_folder), "--text", str(text), "--measures", "patchines"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("hf-repgeo: unknown measure 'patchines'. Did you mean 'patchiness'?")
    assert main(["profile", "pip:no-such-package-here"]) == 2
    assert main(["profile", str(encoder_folder), "--text", "missing.txt"]) == 2


def test_layers_that_are_no_numbers_are_a_usage_error(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["profile", "--layers", "first"])
    assert "'first' is no layer; write 0,3-6,-1" in capsys.readouterr().err


def test_an_interrupt_says_that_the_run_resumes(encoder_folder, text, tmp_path, capsys, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("hf_repgeo.profiling.profile", interrupted)
    assert main(["profile", str(encoder_folder), "--text", str(text)]) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_reports_are_drawn_together(encoder_folder, text, tmp_path):
    arguments = [
        "profile",
        str(encoder_folder),
        "--text",
        str(text),
        "--rows",
        "100",
        "--measures",
        "anisotropy",
        "--quiet",
    ]
    assert main([*arguments, "--out", str(tmp_path / "a")]) == 0
    report = str(tmp_path / "a" / "profile.json")
    for reports in ([report], [f"one={report}", f"two={report}"]):
        assert main(["plot", *reports, "--out", str(tmp_path / "both.png")]) == 0
        assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")
        (tmp_path / "both.png").unlink()
    assert main(["plot", str(tmp_path / "none.json"), "--out", str(tmp_path / "both.png")]) == 2


def test_measures_are_listed(capsys):
    assert main(["measures"]) == 0
    printed = capsys.readouterr().out
    assert "intrinsic_dimension  [0, ?] dimensions" in printed and "conventions: facco, razzhigaev, mle" in printed


def test_the_module_runs_and_help_reads():
    result = subprocess.run([sys.executable, "-m", "hf_repgeo", "profile", "--help"], capture_output=True, text=True)
    assert result.returncode == 0 and "MODEL is one of" in result.stdout and "examples:" in result.stdout
