"""Commands under a launcher, in a thread, after an interruption, and with options that few give."""

import argparse
import errno
import json
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from hf_repgeo.cli import blm, downstream, locate, profile, report, space, sparse_vae, sweep
from hf_repgeo.cli.keywords import _constant
from hf_repgeo.cli.main import (
    BAD_INPUT,
    INTERRUPTED,
    READER_GONE,
    TERMINATED,
    _of_the_disk,
    _run_shared,
    _sentence,
    main,
)
from hf_repgeo.errors import BadInput, RepgeoError
from hf_repgeo.report import GeometryReport


def options(**given):
    return argparse.Namespace(**given)


# --- several processes ------------------------------------------------------------------------------------------------


@pytest.fixture
def second_of_two(monkeypatch):
    """This process is the second of two; what it would print is nobody's."""
    from hf_repgeo.rows import processes

    team = SimpleNamespace(first=False, size=2, rank=1)

    @contextmanager
    def together():
        yield team

    monkeypatch.setattr(processes, "working_together", together)
    monkeypatch.setattr(processes, "current_team", lambda: team)


def test_shared_work_is_done_together_and_only_the_first_process_prints(second_of_two, capsys):
    assert _run_shared(options(shared="work", run=lambda _: print("mine"))) == 0
    assert capsys.readouterr().out == ""
    assert _run_shared(options(shared="jobs", run=lambda _: print("mine") or 3)) == 3
    assert capsys.readouterr().out == "mine\n"
    with pytest.raises(RepgeoError, match="this command runs in one process; start it without torchrun"):
        _run_shared(options(run=print))


def test_only_the_first_process_writes_the_files_of_a_command(second_of_two, monkeypatch, tmp_path, capsys):
    X = np.random.default_rng(0).normal(size=(40, 4))
    np.save(tmp_path / "x.npy", X)
    made = GeometryReport(provenance={"model": "m"})
    made.add(layer=0, stack="encoder", tokens="all", measure="anisotropy", convention="razzhigaev", value=0.5)
    monkeypatch.setattr("hf_repgeo.profiling.measure", lambda *_, **__: made)
    monkeypatch.setattr("hf_repgeo.profiling.profile", lambda *_, **__: made)
    out = str(tmp_path / "report.json")
    assert main(["measure", str(tmp_path / "x.npy"), "--out", out]) == 0
    assert main(["profile", "m", "--out", str(tmp_path / "out")]) == 0
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"x.npy"}


# --- errors of the system ---------------------------------------------------------------------------------------------


def test_an_error_of_the_system_is_said_with_its_files_or_in_its_own_words():
    copied = OSError(errno.ENOSPC, "No space left on device", "code.py", None, "checkpoint/code.py")
    assert _sentence(copied) == "code.py -> checkpoint/code.py: No space left on device"
    assert _sentence(OSError("nothing\n\nbut a page of advice")) == "nothing"
    assert _of_the_disk(RuntimeError("something (os error 28)")) == "No space left on device"
    assert _of_the_disk(RuntimeError("something else")) is None


def test_a_command_in_another_thread_leaves_signals_alone(capsys):
    found = []
    thread = threading.Thread(target=lambda: found.append(main(["measures"])))
    thread.start()
    thread.join()
    assert found == [0] and "anisotropy" in capsys.readouterr().out


def test_a_word_too_many_is_a_usage_error_that_names_it(capsys):
    with pytest.raises(SystemExit):
        main(["measures", "everything"])
    assert "unrecognized arguments: everything" in capsys.readouterr().err


def test_what_an_interrupted_command_left_is_told_by_what_is_there(tmp_path):
    out = str(tmp_path)
    assert profile.interrupted(options(out=out, model="m")) == "no layer was measured yet"
    assert locate.interrupted(options(out=out)) == "nothing was saved"
    for name in ("profile.json", "where.json"):
        (tmp_path / name).write_text("{}")
    assert "the same command measures the others" in profile.interrupted(options(out=out, model="m"))
    assert locate.interrupted(options(out=out)) == f"the verdicts are in {tmp_path / 'where.json'}"
    assert sparse_vae.interrupted(options(output=out)).endswith("the same command with --resume continues")
    for name in ("a", "b"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "note.json").write_text("{}")
    assert f"models measured so far, in {out}: 2;" in sweep.interrupted(options(out=out))


def test_sigterm_in_a_sweep_says_how_many_models_are_measured(tmp_path, monkeypatch, capsys):
    import signal

    monkeypatch.setattr("hf_repgeo.sweeps.sweep", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    assert main(["sweep", "m", "--revisions", "*", "--out", str(tmp_path)]) == TERMINATED
    assert "terminated; models measured so far" in capsys.readouterr().err


# --- options ----------------------------------------------------------------------------------------------------------


def test_a_members_failure_is_printed_and_a_sweep_without_layers_has_no_figure(tmp_path, monkeypatch, capsys):
    made = GeometryReport(provenance={"failed": {"m": "BadInput: no such model"}})
    monkeypatch.setattr("hf_repgeo.sweeps.sweep", lambda *_, **__: made)
    assert main(["sweep", "m", "--revisions", "*", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().err == "m: BadInput: no such model\n" and not list(tmp_path.glob("*.png"))


def test_a_data_set_of_the_hub_is_read_with_its_column_and_cleaning(monkeypatch):
    asked = []
    monkeypatch.setattr("hf_repgeo.rows.texts.read_dataset", lambda *given, **more: asked.append((given, more)))
    profile._texts(options(dataset="me/texts", text_column="body", clean="wikitext", text=None))
    profile._texts(options(dataset="me/texts", text=None))
    assert asked == [(("me/texts", "body"), {"clean": "wikitext"}), (("me/texts", None), {})]


def test_outcomes_are_read_by_model(tmp_path):
    table = "model,score\n" + "".join(f"m{i},{i / 10}\n" for i in range(8))
    (tmp_path / "outcomes.csv").write_text(table)
    assert downstream._outcomes(str(tmp_path / "outcomes.csv")) == {f"m{i}": i / 10 for i in range(8)}


def test_names_of_rows_are_read_for_duplicates(tmp_path, capsys):
    rows = np.random.default_rng(0).normal(size=(200, 16)).astype("float32")
    np.save(tmp_path / "rows.npy", rows)
    (tmp_path / "groups.txt").write_text("".join(f"{i // 2}\n" for i in range(200)))
    command = ["dedup", str(tmp_path / "rows.npy"), "--groups", str(tmp_path / "groups.txt")]
    assert main(command) == 0 and "->" in capsys.readouterr().out
    (tmp_path / "groups.txt").write_text("one\n")
    assert main(command) == 2 and "`groups`" in capsys.readouterr().err


def test_matrices_are_written_and_pushed_if_asked_to(tmp_path, monkeypatch, capsys):
    pushed = []
    monkeypatch.setattr(blm, "push_dataset", lambda data, name, card: pushed.append(name) or f"https://x/{name}")
    command = ["blm", "generate", "chunks", "--output", str(tmp_path / "data")]
    assert main([*command, "--push-to-hub", "me/chunks"]) == 0
    assert pushed == ["me/chunks"] and "https://x/me/chunks" in capsys.readouterr().out
    assert main(command) == 0 and pushed == ["me/chunks"]


def test_one_kernel_size_is_a_square_and_the_preset_base_keeps_its_stride():
    assert sparse_vae._kernel_settings(options(kernel=None)) == {}
    assert sparse_vae._kernel_settings(options(kernel=[3])) == {"kernel": [3, 3], "stride": [3, 3]}
    assert sparse_vae._kernel_settings(options(kernel=[3, 5], preset="base")) == {"kernel": [3, 5]}


def test_role_sentences_of_another_language_are_refused(tmp_path):
    with pytest.raises(BadInput, match="`language`: got 'fr'; wanted 'en', the only one with role sentences"):
        sparse_vae.run_localize(options(sentences="roles", language="fr", output=str(tmp_path)))


def test_reports_and_spaces_go_where_they_are_sent(tmp_path, monkeypatch, capsys):
    made = GeometryReport(provenance={"model": "m"})
    made.add(layer=0, stack="encoder", tokens="all", measure="anisotropy", convention="razzhigaev", value=0.5, n=9)
    path = made.to_json(tmp_path / "report.json")
    seen = []

    def noted(*given, **more):
        seen.append((given[1], more))
        return f"sent to {given[1]}"

    monkeypatch.setattr("hf_repgeo.hub.push.push_report", noted)
    monkeypatch.setattr("hf_repgeo.hub.spaces.publish_space", noted)
    report.push(options(report=path, repo_id="me/m", private=False))
    space.publish(options(folder="spaces/x", repo_id="me/x", to="here"))
    assert seen == [("me/m", {"private": False}), ("me/x", {"to": "here"})]
    assert capsys.readouterr().out == "sent to me/m\nsent to me/x\n"


def test_locate_prints_json_alone_if_asked_to(tmp_path, monkeypatch, capsys):
    made = GeometryReport(provenance={"model": "m"})
    monkeypatch.setattr("hf_repgeo.localization.locating.locate", lambda *_, **__: made)
    command = ["locate", "s.csv", "--encoder", "m", "--out", str(tmp_path)]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["provenance"] == {"model": "m"}
    assert main(command) == 0 and f"written to {tmp_path}" in capsys.readouterr().out


def test_a_default_that_is_a_constant_is_read_where_it_is_set_or_imported():
    assert _constant("MINIMUM_BATCH", "hf_repgeo.profiling") == 4096
    assert _constant("READ_LIMIT", "hf_repgeo.rows.text_files") == _constant("READ_LIMIT", "hf_repgeo.rows.records")
    assert _constant("NOWHERE", "hf_repgeo.profiling") is None
    assert _constant("INTERRUPTED", "hf_repgeo.cli.main") == 130


def test_a_study_of_the_usual_tasks_says_where_its_table_is(tmp_path, monkeypatch, capsys):
    asked = []
    table = tmp_path / "table.csv"
    monkeypatch.setattr("hf_repgeo.downstream.study", lambda models, out, *_, **__: asked.append(models) or table)
    assert main(["downstream", "study", "tiny=org/m", "org/n", "--out", str(tmp_path)]) == 0
    assert asked == [{"tiny": "org/m", "n": "org/n"}] and capsys.readouterr().out == f"{table}\n"


def test_codes_of_exit_differ():
    assert len({0, 1, BAD_INPUT, READER_GONE, TERMINATED, INTERRUPTED}) == 6
