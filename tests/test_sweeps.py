"""Sweeps: the same rows for every model, one table, nothing measured twice, and a failure is a row."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from tiny import SIZES, seeded
from transformers import BertConfig, BertModel

import hf_repgeo
import hf_repgeo.sweeps as sweeps
from hf_repgeo.cli.main import main
from hf_repgeo.cli.sweep import read_recipe
from hf_repgeo.errors import BadInput, RepgeoError
from hf_repgeo.rows import forward, models
from hf_repgeo.runs import texts

ROOT = Path(__file__).parents[1]
CHEAP = {"measures": ["anisotropy", "effective_rank"], "tokens": "all", "rows": 200, "progress": False, "device": "cpu"}


@pytest.fixture(scope="module")
def training(tokenizer, tmp_path_factory):
    """A folder as a Trainer leaves it: three checkpoints, the tokenizer beside them."""
    folder = tmp_path_factory.mktemp("training")
    model = seeded(BertModel, BertConfig(**SIZES, max_position_embeddings=64, initializer_range=0.5))
    for step in (20, 100, 3):
        with torch.no_grad():
            model.encoder.layer[1].output.LayerNorm.weight[:4] *= 1.5
        model.save_pretrained(folder / f"checkpoint-{step}")
    tokenizer.save_pretrained(folder)
    (folder / "runs").mkdir()
    return folder


@pytest.fixture
def calls(monkeypatch):
    """The models that were really profiled."""
    seen, kept = [], sweeps.profile

    def counted(model, *arguments, **options):
        seen.append(Path(model).name)
        return kept(model, *arguments, **options)

    monkeypatch.setattr(sweeps, "profile", counted)
    return seen


def test_checkpoints_are_profiled_in_the_order_of_their_steps(training, documents, tokenizer, tmp_path):
    report = hf_repgeo.sweep(checkpoints=training, texts=documents, out=tmp_path, **CHEAP)
    assert list(dict.fromkeys(row["details"]["step"] for row in report)) == [3, 20, 100]
    alone = hf_repgeo.profile(training / "checkpoint-20", documents, tokenizer=tokenizer, **CHEAP)
    part = [row for row in report if row["details"]["step"] == 20]
    assert [row["value"] for row in part] == [row["value"] for row in alone]
    table = pyarrow.parquet.read_table(tmp_path / "sweep.parquet")
    assert table.column_names[:4] == ["member", "model", "revision", "step"] and len(table) == len(report)
    assert table.column("member").unique().to_pylist() == ["checkpoint-3", "checkpoint-20", "checkpoint-100"]
    assert hf_repgeo.GeometryReport.from_json(tmp_path / "sweep.json").rows == report.rows
    assert "step" in repr(report) and not list(tmp_path.glob(".*"))


def test_checkpoints_share_tokenizer_windows_and_places(training, documents, tmp_path, monkeypatch):
    made = []
    for module, name in ((models, "_loaded_tokenizer"), (texts, "make_windows"), (forward, "find_stacks")):
        kept = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, kept=kept, name=name: made.append(name) or kept(*given))
    hf_repgeo.sweep(checkpoints=training, texts=documents, out=tmp_path, **CHEAP)
    assert sorted(made) == ["_loaded_tokenizer", "find_stacks", "make_windows"]


def test_a_checkpoint_without_spread_is_measured_as_far_as_it_can_be(training, documents, tmp_path):
    folder = tmp_path / "training"
    shutil.copytree(training, folder)
    dead = BertModel.from_pretrained(folder / "checkpoint-3")
    with torch.no_grad():
        for weight in dead.parameters():
            weight.zero_()
    dead.save_pretrained(folder / "checkpoint-3")
    asked = CHEAP | {"measures": ["anisotropy", "intrinsic_dimension"], "tokens": ["all", "sink_robust"]}
    report = hf_repgeo.sweep(checkpoints=folder, texts=documents, out=tmp_path / "out", **asked)
    assert not report.provenance["failed"]
    first = [row for row in report if row["details"]["step"] == 3]
    assert {row["value"] for row in first} == {None}
    assert all(row["warnings"] for row in first)


def test_nothing_is_measured_twice_and_what_changed_is_measured_again(training, documents, tmp_path, calls):
    folder = shutil.copytree(training, tmp_path / "training")
    first = hf_repgeo.sweep(checkpoints=folder, texts=documents, out=tmp_path / "out", **CHEAP)
    assert calls == ["checkpoint-3", "checkpoint-20", "checkpoint-100"]
    assert hf_repgeo.sweep(checkpoints=folder, texts=documents, out=tmp_path / "out", **CHEAP).rows == first.rows
    assert len(calls) == 3
    shutil.copy(folder / "checkpoint-3" / "model.safetensors", folder / "checkpoint-100" / "model.safetensors")
    again = hf_repgeo.sweep(checkpoints=folder, texts=documents, out=tmp_path / "out", **CHEAP)
    assert calls[3:] == ["checkpoint-100"] and again.rows != first.rows
    hf_repgeo.sweep(checkpoints=folder, texts=documents, out=tmp_path / "out", **CHEAP | {"seed": 1})
    assert len(calls) == 7


def test_a_checkpoint_cut_in_half_is_a_row_with_its_reason_and_is_tried_again(training, documents, tmp_path, calls):
    folder = shutil.copytree(training, tmp_path / "training")
    whole = (folder / "checkpoint-20" / "model.safetensors").read_bytes()
    (folder / "checkpoint-20" / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    report = hf_repgeo.sweep(checkpoints=folder, texts=documents, out=tmp_path / "out", **CHEAP)
    assert list(report.provenance["failed"]) == ["checkpoint-20"]
    [row] = [row for row in report if row["protocol"] == "failed"]
    assert row["details"]["step"] == 20 and row["value"] is None and row["warnings"][0].startswith("failed: ")
    assert {row["details"]["step"] for row in report if row["value"] is not None} == {3, 100}
    print(report), report._repr_html_(), hf_repgeo.plot_sweep(report), hf_repgeo.plot_training(report)
    (folder / "checkpoint-20" / "model.safetensors").write_bytes(whole)
    healed = hf_repgeo.sweep(checkpoints=folder, texts=documents, out=tmp_path / "out", **CHEAP)
    assert healed.provenance["failed"] == {} and calls[3:] == ["checkpoint-20"]


def test_a_kill_loses_no_model_that_was_done(training, documents, tmp_path):
    """SIGKILL once the first model is done; the next call gives the table of an undisturbed one."""
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(documents))
    command = ["sweep", "--checkpoints", str(training), "--text", str(text), "--out", str(tmp_path / "out"), "--quiet"]
    command += ["--measures", "anisotropy,effective_rank", "--tokens", "all", "--rows", "200", "--device", "cpu"]
    process = subprocess.Popen([sys.executable, "-m", "hf_repgeo", *command], cwd=ROOT, stdout=subprocess.DEVNULL)
    while not list((tmp_path / "out" / "runs").glob("*/note.json")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert main(command) == 0
    undisturbed = hf_repgeo.sweep(checkpoints=training, texts=text, out=tmp_path / "other", **CHEAP)
    found = hf_repgeo.GeometryReport.from_json(tmp_path / "out" / "sweep.json")
    assert [row["value"] for row in found] == [row["value"] for row in undisturbed]
    assert (tmp_path / "out" / "layers.png").exists() and (tmp_path / "out" / "training.png").exists()


def test_processes_share_the_models_and_the_last_has_the_table(training, documents, tmp_path, monkeypatch, calls):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    half = hf_repgeo.sweep(checkpoints=training, texts=documents, out=tmp_path, **CHEAP)
    assert calls == ["checkpoint-20"] and {row["details"]["step"] for row in half} == {20}
    monkeypatch.setenv("RANK", "0")
    whole = hf_repgeo.sweep(checkpoints=training, texts=documents, out=tmp_path, **CHEAP)
    assert sorted(calls) == ["checkpoint-100", "checkpoint-20", "checkpoint-3"]
    assert {row["details"]["step"] for row in whole} == {3, 20, 100}


def test_a_full_disk_ends_the_sweep_and_leaves_what_was_measured(training, documents, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sweeps, "profile", full)
    with pytest.raises(OSError, match="No space left"):
        hf_repgeo.sweep(checkpoints=training, texts=documents, out=tmp_path, **CHEAP)
    assert not list(tmp_path.rglob(".*.json*"))


def test_models_come_from_a_list_or_a_file(encoder_folder, documents, tmp_path):
    (tmp_path / "models.txt").write_text(f"# two\n{encoder_folder}  # an encoder\nno/such-model main\n\n")
    report = hf_repgeo.sweep(models=tmp_path / "models.txt", texts=documents, out=tmp_path / "out", **CHEAP)
    assert list(report.provenance["failed"]) == ["main"] and "no/such-model" in report.provenance["failed"]["main"]
    assert {row["details"]["model"] for row in report} == {str(encoder_folder), "no/such-model"}
    assert all("step" not in row["details"] for row in report)


def test_revisions_that_fit_a_pattern_are_taken_in_the_order_of_their_steps(monkeypatch):
    from types import SimpleNamespace

    names = [SimpleNamespace(name=name) for name in ("main", "step1000", "step20", "step3", "other")]
    refs = SimpleNamespace(branches=names, tags=[])
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_refs", lambda self, model: refs)
    members = sweeps._members("me/model", "step*", None, None)
    assert [(member.revision, member.step) for member in members] == [("step3", 3), ("step20", 20), ("step1000", 1000)]
    with pytest.raises(BadInput, match="`revisions`: got 'tep.'; wanted a pattern that fits one of main, step1000"):
        sweeps._members("me/model", "tep.", None, None)


@pytest.mark.parametrize(
    "asked, message",
    [
        ({}, "`model`: got none of them; wanted one of model"),
        ({"model": "a", "models": ["b"]}, "got model and models"),
        ({"model": "a", "revisions": []}, "`revisions`: got none; wanted a pattern"),
        ({"models": [3]}, "`models`: got one of type int; wanted names"),
        ({"models": ["a"], "out": __file__}, "`out`: got .*, which is a file; wanted a folder"),
        ({"model": "a"}, "`revisions`: got none; wanted a pattern such as 'step.'. For a single model"),
        ({"models": []}, "`models`: got no model"),
        ({"models": [("a", "b", "c")]}, r"`models`: got \('a', 'b', 'c'\)"),
        ({"models": "no-such-file.txt"}, "`models`: got 'no-such-file.txt', which is not a file"),
        ({"checkpoints": "no-such-folder"}, "`checkpoints`: got 'no-such-folder', with no model in a subfolder"),
        ({"models": ["a"], "revision": "main"}, "`revision`: got one for all models"),
        ({"models": ["a"], "codebook": 2}, "unknown option 'codebook'. Did you mean 'codebooks'"),
    ],
)
def test_wrong_requests_are_refused_before_any_model_is_loaded(tmp_path, asked, message, calls):
    with pytest.raises(RepgeoError, match=message):
        hf_repgeo.sweep(**{"out": tmp_path} | asked)
    assert not calls


# --- recipes --------------------------------------------------------------------------------------------------------


def test_a_recipe_over_a_local_folder_runs(training, documents, tmp_path, capsys):
    shutil.copytree(training, tmp_path / "my-training")
    recipe = Path(shutil.copy(ROOT / "recipes" / "local-checkpoints.yaml", tmp_path))
    (tmp_path / "text.txt").write_text("\n\n".join(documents))
    recipe.write_text(recipe.read_text() + "text: text.txt\n")
    out = tmp_path / "out"
    flags = ["--rows", "200", "--out", str(out), "--quiet", "--device", "cpu", "--measures", "anisotropy"]
    assert main(["sweep", "--recipe", str(recipe), *flags]) == 0
    assert "step" in capsys.readouterr().out
    report = hf_repgeo.GeometryReport.from_json(out / "sweep.json")
    assert report.unique("measure") == ["anisotropy"] and "sink_robust" in report.unique("tokens")
    assert (out / "layers.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_names_models_and_options_that_exist(path, monkeypatch):
    from hf_repgeo.measures import resolve
    from hf_repgeo.rows.representations import check_policies

    asked = read_recipe(path)
    options = asked.get("options", {})
    assert resolve(options["measures"]) and check_policies(options["tokens"])
    assert len({"model", "checkpoints", "models"} & set(asked)) == 1
    monkeypatch.setattr(sweeps, "_matching", lambda model, pattern: ["step1"])
    if "checkpoints" not in asked:
        assert sweeps._members(asked.get("model"), asked.get("revisions"), None, asked.get("models"))


@pytest.mark.parametrize("content", ["model: [", "5", "modle: gpt2", None, "[" * 3000])
def test_what_is_no_recipe_is_refused_in_a_sentence(tmp_path, content, capsys):
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_text(content)
    assert main(["sweep", "--recipe", str(path), "--out", str(tmp_path / "out")]) == 2
    assert "`recipe`: got" in capsys.readouterr().err
