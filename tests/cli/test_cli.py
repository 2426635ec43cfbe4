"""The command line: files, tables, exit codes and messages."""

import argparse
import errno
import inspect
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import hf_repgeo
from hf_repgeo.cli.keywords import keywords
from hf_repgeo.cli.main import main, parser
from hf_repgeo.cli.options import add_flags, given
from hf_repgeo.errors import UnknownName
from hf_repgeo.report import GeometryReport

REPORT = Path(hf_repgeo.__file__).parent / "data" / "training-run.parquet"


@pytest.fixture
def rows_file(tmp_path):
    np.save(tmp_path / "X.npy", np.random.default_rng(0).standard_normal((300, 5)))
    return tmp_path / "X.npy"


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


def test_profile_reads_every_token_if_asked_to_and_no_other_word_for_rows(encoder_folder, text, tmp_path, capsys):
    arguments = ["profile", str(encoder_folder), "--text", str(text), "--out", str(tmp_path / "out"), "--quiet"]
    assert main([*arguments, "--rows", "all", "--batch-rows", "200", "--measures", "anisotropy"]) == 0
    report = GeometryReport.from_json(tmp_path / "out" / "profile.json")
    assert report.unique("protocol") == ["whole"] and min(row["n"] for row in report) > 40 * 60
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([*arguments, "--rows", "some"])
    assert "argument --rows: 'some': wanted a whole number or all" in capsys.readouterr().err


def test_profile_reads_folders_of_images(tmp_path, capsys):
    from PIL import Image
    from tiny import seeded
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = tmp_path / "model"
    seeded(ViTModel, ViTConfig(**sizes, image_size=32, patch_size=8)).save_pretrained(model)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(model)
    generator = np.random.default_rng(0)
    for folder, count in (("one", 4), ("two", 2)):
        (tmp_path / folder).mkdir()
        for i in range(count):
            pixels = generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{i}.png")
    out = ["--out", str(tmp_path / "out"), "--quiet"]
    chosen = ["--rows", "80", "--batch-rows", "40", "--measures", "anisotropy"]
    folders = [str(tmp_path / "one"), str(tmp_path / "two")]
    assert main(["profile", str(model), "--images", *folders, *chosen, *out]) == 0
    report = GeometryReport.from_json(tmp_path / "out" / "profile.json")
    assert report.unique("layer") == [0, 1] and report.provenance["text"]["items"] == 6
    capsys.readouterr()
    silent = tmp_path / "silent.wav"
    silent.touch()
    wrong = {
        ("--images", "nowhere"): "`images`: got 'nowhere', which does not exist",
        ("--images", *folders, "--audio", "x.wav"): "`audio`: got audio beside images; wanted one of them",
        ("--audio", "x.wav"): "`audio`: got 'x.wav', which does not exist",
        ("--audio", str(silent)): "`processor`: got none beside",
    }
    for flags, words in wrong.items():
        assert main(["profile", str(model), *flags, *out]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1, error


def test_bad_input_gives_one_sentence_and_exit_code_2(encoder_folder, text, capsys):
    assert main(["profile", str(encoder_folder), "--text", str(text), "--measures", "patchines"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("hf-repgeo: unknown measure 'patchines'. Did you mean 'patchiness'?")
    assert main(["profile", "pip:no-such-package-here"]) == 2
    assert main(["profile", str(encoder_folder), "--text", "missing.txt"]) == 2


def test_layers_that_are_no_numbers_are_a_usage_error(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["profile", "--layers", "first"])
    assert "'first' is not a layer; write 0,3-6,-1" in capsys.readouterr().err


def test_an_interrupted_profile_says_what_is_saved(encoder_folder, text, tmp_path, capsys, monkeypatch):
    def interrupted(*arguments, out, **options):
        (out / "profile.json").touch()
        raise KeyboardInterrupt

    out = tmp_path / "out"
    monkeypatch.setattr("hf_repgeo.profiling.profile", interrupted)
    assert main(["profile", str(encoder_folder), "--text", str(text), "--out", str(out)]) == 130
    assert f"are in {out}/profile.json; the same command measures the others" in capsys.readouterr().err


def test_an_interrupted_measure_says_what_is_left(rows_file, capsys, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("hf_repgeo.profiling.measure", interrupted)
    assert main(["measure", str(rows_file)]) == 130
    assert (
        capsys.readouterr().err == "hf-repgeo: interrupted; no file is half-written, and the same command starts over\n"
    )


def test_sigterm_ends_a_command_as_ctrl_c_does_and_leaves_the_handler_as_it_was(rows_file, capsys, monkeypatch):
    def terminated(*arguments, **options):
        signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("hf_repgeo.profiling.measure", terminated)
    assert main(["measure", str(rows_file)]) == 143
    assert "terminated; no file is half-written, and the same command starts over" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_an_object_is_deleted_ends_a_command_too(rows_file, monkeypatch, capsys, number, status):
    class Deleted:
        def __del__(self):
            signal.raise_signal(number)

    def measured(*arguments, **options):
        Deleted()
        threading.Event().wait(20)
        raise AssertionError("the signal was dropped")

    hook = sys.unraisablehook
    monkeypatch.setattr("hf_repgeo.profiling.measure", measured)
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background ignores it
    try:
        assert main(["measure", str(rows_file)]) == status
    finally:
        signal.signal(signal.SIGINT, earlier)
    assert "no file is half-written" in capsys.readouterr().err and sys.unraisablehook is hook


def test_an_error_while_an_object_is_deleted_is_told_as_ever(rows_file, monkeypatch, capsys):
    class Broken:
        def __del__(self):
            raise ValueError("broken")

    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    monkeypatch.setattr("hf_repgeo.profiling.measure", lambda *_, **__: Broken() and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["measure", str(rows_file)])
    assert [type(lost.exc_value) for lost in told] == [ValueError]


def test_a_closed_pipe_ends_a_command_quietly():
    command = [sys.executable, "-m", "hf_repgeo", "report", "show", str(REPORT)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == (b"", 141)


def test_a_full_disk_gives_one_sentence(rows_file, capsys, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "report.json")

    monkeypatch.setattr(GeometryReport, "to_json", full)
    assert main(["measure", str(rows_file), "--measures", "anisotropy", "--out", str(rows_file) + ".json"]) == 2
    assert capsys.readouterr().err == "hf-repgeo: report.json: No space left on device\n"


def test_a_place_that_cannot_be_written_is_refused_before_the_work(rows_file, tmp_path, capsys, monkeypatch):
    def never(*arguments, **options):
        raise AssertionError

    monkeypatch.setattr("hf_repgeo.profiling.measure", never)
    for out, said in [(tmp_path / "no" / "r.json", "a file in a folder that exists"), (tmp_path, "can be written")]:
        assert main(["measure", str(rows_file), "--out", str(out)]) == 2
        assert said in capsys.readouterr().err
    assert main(["measure", str(rows_file), "--out", "/dev/null"]) == 2 and not Path("/dev/null").is_file()
    assert main(["plot", str(REPORT), "--out", str(tmp_path / "a.xyz")]) == 2
    assert "a name that ends in one of" in capsys.readouterr().err
    assert main(["profile", "--out", str(rows_file)]) == 2
    assert capsys.readouterr().err == f"hf-repgeo: {rows_file}: File exists\n"


def test_json_goes_to_standard_output_and_is_read_back_equal(rows_file, tmp_path, capsys):
    assert (
        main(["measure", str(rows_file), "--measures", "anisotropy", "--json", "--out", str(tmp_path / "r.json")]) == 0
    )
    printed = capsys.readouterr().out
    (tmp_path / "printed.json").write_text(printed)
    report = GeometryReport.from_json(tmp_path / "r.json")
    assert GeometryReport.from_json(tmp_path / "printed.json") == report
    assert main(["report", "show", str(tmp_path / "r.json")]) == 0
    assert capsys.readouterr().out == f"{report}\n"
    assert main(["report", "show", str(tmp_path / "r.json"), "--json"]) == 0
    assert capsys.readouterr().out == printed
    assert main(["measures", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["anisotropy"]["range"] == [0, 1]


# --- flags from signatures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["profile", "measure"])
def test_what_is_read_from_the_source_is_what_python_sees(function):
    there = inspect.signature(getattr(hf_repgeo, function)).parameters
    found = keywords(f"hf_repgeo.profiling.{function}")
    assert list(found) == [name for name in there if there[name].kind is not inspect.Parameter.VAR_KEYWORD]
    for name, keyword in found.items():
        assert keyword.default == (None if there[name].default is inspect.Parameter.empty else there[name].default), (
            name
        )
        assert keyword.help, name


def test_a_new_keyword_becomes_a_flag_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "new.py").write_text(
        "from .constants import LEAST\nONE, TWO = 1, 2\n"
        "def work(X, *, kind: Literal['a', 'b'] = 'a', least: int = LEAST, second: float | None = TWO, on: bool = True)"
        ":\n"
        '    """Works.\n\n    Args:\n        X: rows.\n        kind: `"a"`\n            or `"b"`.\n'
        '        least, second: 5 % of them.\n        on: as in `other`.\n    """\n'
        'def other(on):\n    """Another.\n\n    Args:\n        on: switches it off.\n    """\n'
    )
    (tmp_path / "constants.py").write_text("LEAST = 7\n")
    monkeypatch.setattr("hf_repgeo.cli.keywords.PACKAGE", tmp_path)
    parser = argparse.ArgumentParser()
    add_flags(parser, "hf_repgeo.new.work", "kind", "least", "second", "on")
    assert vars(parser.parse_args([])) == {}, "a default stands in the signature alone"
    options = parser.parse_args("--kind b --least 3 --second 0.5 --no-on".split())
    assert given(options, "kind", "least", "second", "on") == {"kind": "b", "least": 3, "second": 0.5, "on": False}
    said = " ".join(parser.format_help().split())
    assert "a or b (default: a)" in said and "5 % of them (default: 7)" in said and "switches it off" in said


def test_choices_on_the_command_line_are_those_of_the_functions():
    from hf_repgeo.blm import alternation, chunks, lexicon, matrices
    from hf_repgeo.cli.sparse_vae import PRESETS
    from hf_repgeo.localization.ablation import ABLATIONS
    from hf_repgeo.sparse_vae import configuration_sparse_vae

    generate = keywords("hf_repgeo.blm.export.generate")
    assert generate["language"].choices == lexicon.LANGUAGES and generate["type"].choices == matrices.TYPES
    assert generate["direction"].choices == alternation.DIRECTIONS and generate["negatives"].choices == chunks.NEGATIVES
    assert set(generate["split"].choices) == {*chunks.SPLITS, "answers"}
    embed = keywords("hf_repgeo.sparse_vae.embeddings.embed_sentences")
    assert {*embed["pooling"].choices, "sentence"} == set(configuration_sparse_vae.POOLINGS)  # of a SentenceTransformer
    assert keywords("hf_repgeo.localization.ablation.localize")["how"].choices == tuple(ABLATIONS)
    assert PRESETS == tuple(configuration_sparse_vae._PRESETS)


def test_a_training_command_passes_on_what_was_given_and_nothing_else():
    from hf_repgeo.cli.sparse_vae import CONFIGURING, EMBEDDING, RUNS, TRAIN

    command = ["sparse-vae", "train", "ENCODER", "--output", "out"]
    names = (*EMBEDDING, "cache_dir", *CONFIGURING, *TRAIN, *RUNS)
    assert given(parser().parse_args(command), *names) == {}
    asked = "--seeds 0 1 --resume --mask none --latents-per-unit 2 --cache there --layer 3".split()
    assert given(parser().parse_args([*command, *asked]), *names) == {
        "layer": 3,
        "cache_dir": "there",
        "mask": "none",
        "latents_per_unit": 2,
        "resume": True,
        "seeds": [0, 1],
    }


def test_help_and_usage_errors_need_no_torch():
    code = "import sys; from hf_repgeo.cli.main import parser; parser(); print({'torch', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_an_unknown_name_among_many_is_answered_by_the_nearest_or_the_first_few():
    many = [f"measure_{i}" for i in range(30)]
    assert str(UnknownName("measure", "meassure_7", many)) == "unknown measure 'meassure_7'. Did you mean 'measure_7'?"
    assert str(UnknownName("measure", "x", many)).endswith("measure_11 ... (30 in all).")


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
    assert "intrinsic_dimension  [0, ?] dimensions" in printed
    assert "conventions: facco, razzhigaev, mle, ball" in printed


def test_the_module_runs_as_a_command_and_prints_its_help():
    result = subprocess.run([sys.executable, "-m", "hf_repgeo", "profile", "--help"], capture_output=True, text=True)
    assert result.returncode == 0 and "MODEL is one of" in result.stdout and "examples:" in result.stdout


@pytest.mark.parametrize(
    "words, said",
    [
        ("profil", "argument COMMAND: unknown name 'profil'. Did you mean 'profile'?"),
        ("downstream regres", "argument VERB: unknown name 'regres'. Did you mean 'regress'?"),
        ("profile bert --measurs anisotropy", "unknown option '--measurs'. Did you mean '--measures'?"),
        (
            "downstream regress t.csv --score s --out x --measurs=y",
            "unknown option '--measurs'. Did you mean '--measures'?",
        ),
        ("completion bsh", "argument shell: unknown name 'bsh'. Did you mean 'bash'?"),
    ],
)
def test_an_unknown_command_or_flag_is_answered_with_the_nearest_one(words, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(words.split())
    last = capsys.readouterr().err.splitlines()[-1]
    assert said in last and len(last) < 200
