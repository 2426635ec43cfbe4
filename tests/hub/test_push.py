"""Reports to the Hub and back, by the unmodified huggingface_hub client against a loopback double of the Hub."""

import hashlib
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import types
from argparse import ArgumentParser
from importlib.metadata import version
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import HfApi, ModelCard, ModelCardData, SpaceCard, constants, hf_hub_download, snapshot_download
from huggingface_hub.utils import _http, close_session
from loopback_double import COLLEAGUE, ME, STRANGER, LoopbackDouble

from hf_repgeo import load_report, push_report
from hf_repgeo.cli.report import add
from hf_repgeo.errors import BadInput, UnknownName
from hf_repgeo.hub import commits as uploads
from hf_repgeo.hub import push as hub
from hf_repgeo.hub.cards import END, START, update_card
from hf_repgeo.hub.push import HubError
from hf_repgeo.hub.results_dataset import TAG, new_rows, results_table, run_id
from hf_repgeo.report import GeometryReport

COMMIT = "a" * 40
VALUES = {"anisotropy": (0.1, 0.9, 0.2), "intrinsic_dimension": (8.0, 12.5, 10.0)}

CONVENTIONS = {"anisotropy": "razzhigaev", "intrinsic_dimension": "mle"}


def make_report(layers=(0, 1, 2), shift=0.0, **facts) -> GeometryReport:
    provenance = {
        "model": "someone/model",
        "commit": COMMIT,
        "dtype": "torch.float32",
        "device": "cpu",
        "text": {"name": "sample", "sha256": "b" * 64, "clean": "none"},
        "rows": 4096,
        "window": 128,
        "seed": 0,
        "versions": {"hf_repgeo": "0.1.0", "torch": "2.13.0"},
        "finished": "2024-01-01T00:00:00+00:00",
    }
    report = GeometryReport(provenance={**provenance, **facts})
    for layer in layers:
        for measure, values in VALUES.items():
            columns = {"stack": "encoder", "tokens": "all", "protocol": "batches", "n": 4096, "se": 0.01}
            columns["convention"] = CONVENTIONS[measure]
            report.add(layer=layer, measure=measure, value=values[layer] + shift, **columns)
    report.rows[0]["details"] = {"scale": [1.5, 2.0]}
    report.rows[-1]["warnings"] = ["few_rows: a sentence"]
    return report


@pytest.fixture
def report():
    return make_report()


@pytest.fixture
def online(monkeypatch, tmp_path):
    """The client as in a fresh process that may use the network, with own caches and a clock that never waits."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(_http, "time", types.SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setenv("HF_REPGEO_CACHE", str(tmp_path / "repgeo"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    close_session()
    yield
    close_session()


@pytest.fixture
def double(online):
    with LoopbackDouble() as double:
        yield double


@pytest.fixture
def pauses():
    return []


@pytest.fixture(scope="session")
def picture():
    """The figure, drawn once for all tests: that takes a third of a second."""
    return hub._figure(make_report())


@pytest.fixture
def push(double, pauses, picture, monkeypatch):
    monkeypatch.setattr(hub, "_figure", lambda report: picture)

    def push(report, repo_id="me/model", token=ME, **options):
        api = HfApi(endpoint=double.endpoint, token=token)
        return push_report(report, repo_id, api=api, sleep=pauses.append, **options)

    return push


@pytest.fixture
def load(double, pauses):
    def load(repo_id="me/model", token=ME, **options):
        return load_report(repo_id, api=HfApi(endpoint=double.endpoint, token=token), sleep=pauses.append, **options)

    return load


def results_in(repo) -> list[dict]:
    """All rows of a results data set in the double."""
    import io

    files = [content for path, content in sorted(repo.files().items()) if path.endswith(".parquet")]
    return [row for file in files for row in pq.read_table(io.BytesIO(file)).to_pylist()]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# --- the card ---------------------------------------------------------------------------------------------------------

FOREIGN = """\
---
# chosen by our lawyers
license: mit   # really
model-index:
- name: their-model
  results:
  - task: {type: text-classification, name: Sentiment}
    dataset: {name: IMDb, type: imdb}
    metrics:
    - {type: accuracy, value: 0.91, verified: true, note: "not in any schema"}
tags: [x,   y]
---

# Their model

Words.\x20\x20
"""
PLACE = {"repo_id": "me/model", "path": "repgeo/x.json", "url": "https://hub/me/model/blob/main/repgeo/x.json"}


def test_a_card_from_nothing_is_read_by_the_official_parser(report):
    card = ModelCard(update_card(None, report, **PLACE, figure="repgeo/x.png"))
    found = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert found == {
        "anisotropy, mean over layers": pytest.approx(0.4),
        "anisotropy, largest over layers": 0.9,
        "intrinsic dimension, mean over layers": pytest.approx(30.5 / 3),
        "intrinsic dimension, largest over layers": 12.5,
    }
    assert {type(value) for value in found.values()} == {float}
    assert card.data.model_name == "model"
    assert card.data.eval_results[0].source_url == PLACE["url"]
    assert "| anisotropy | razzhigaev | 0.4 | 0.1 (0) | 0.9 (1) |" in card.text
    assert "![Measures by layer](repgeo/x.png)" in card.text
    assert 'hf_repgeo.load_report("me/model", name="x")' in card.text


def test_a_card_links_to_the_repository_once_there_is_one(report, monkeypatch):
    assert "Made with" not in update_card(None, report, **PLACE, figure=None)
    monkeypatch.setattr("hf_repgeo.hub.cards.__repository__", "https://code.example/hf_repgeo")
    assert "Made with [hf_repgeo](https://code.example/hf_repgeo)." in update_card(None, report, **PLACE, figure=None)


def test_what_others_wrote_into_a_card_stays_to_the_byte(report):
    card = update_card(FOREIGN, report, **PLACE)
    for part in (
        "# chosen by our lawyers\nlicense: mit   # really\n",
        "tags: [x,   y]\n",
        "# Their model\n\nWords.  \n",
    ):
        assert part in card
    before, after = (yaml.safe_load(text.split("---")[1]) for text in (FOREIGN, card))
    assert after["model-index"][0]["results"][0] == before["model-index"][0]["results"][0]
    assert len(after["model-index"][0]["results"]) == 2
    assert len(ModelCard(card).data.eval_results) == 1 + 4


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("readme", ["", "# Only words", "---\n---\nBody\n", "---\nlicense: mit\n---\nBody\n", FOREIGN])
def test_a_card_written_twice_is_the_same(report, readme, newline):
    once = update_card(readme.replace("\n", newline), report, **PLACE)
    assert update_card(once, report, **PLACE) == once
    assert once.count(START) == once.count(END) == 1
    assert len(ModelCard(once).data.eval_results) in (4, 5)
    if "\n" in readme:
        assert set(re.findall("\r?\n", once)) == {newline}


def test_a_new_report_replaces_the_section_and_only_it(report):
    once = update_card(FOREIGN, report, **PLACE) + "\nMore words.\n"
    twice = update_card(once, make_report(shift=0.05, seed=1), **PLACE)
    assert twice.count(START) == 1 and twice.endswith("\nMore words.\n")
    assert "| anisotropy | razzhigaev | 0.45 |" in twice and "| anisotropy | razzhigaev | 0.4 |" not in twice
    assert len(ModelCard(twice).data.eval_results) == 1 + 4  # theirs, and the newer run of ours


def test_a_result_is_never_replaced_unasked(report):
    once = update_card(None, report, **PLACE)
    changed = make_report(shift=0.05)
    with pytest.raises(BadInput, match=r"'anisotropy, mean over layers', which the card gives as 0.39.*overwrite=True"):
        update_card(once, changed, **PLACE)
    values = [
        result.metric_value
        for result in ModelCard(update_card(once, changed, **PLACE, overwrite=True)).data.eval_results
    ]
    assert values == pytest.approx([0.45, 0.95, 30.5 / 3 + 0.05, 12.55])


@pytest.mark.parametrize(
    ("readme", "complaint"),
    [
        (f"{START}\nno end", "markers that do not pair"),
        (f"{END}\n{START}", "markers that do not pair"),
        (f"{START}{END}{START}{END}", "markers that do not pair"),
        ("---\n- a list\n---\n", "not a YAML mapping"),
        ("---\na: [\n---\n", "not a YAML mapping"),
        ("---\nmodel-index: words\n---\n", "a model-index of another form"),
        ("---\nmodel-index: [{results: {a: 1}}]\n---\n", "a model-index of another form"),
    ],
)
def test_a_card_that_cannot_be_merged_is_refused(report, readme, complaint):
    with pytest.raises(BadInput, match=complaint):
        update_card(readme, report, **PLACE)


@pytest.mark.parametrize(
    "front", ['{"license": "mit", "model-index": [{name: a}]}', '"model-index":\n- name: a\nlicense: mit']
)
def test_yaml_written_in_an_unusual_way_keeps_its_content(report, front):
    card = ModelCard(update_card(f"---\n{front}\n---\n", report, **PLACE))
    assert card.data.license == "mit" and card.data.model_name == "a" and len(card.data.eval_results) == 4


def test_names_in_a_report_cannot_break_out_of_the_section():
    nasty = f"x`{END}\n# Bought |here| <script>"
    card = update_card(None, make_report(model=nasty, text={"name": nasty}), **PLACE)
    body = card.split("---\n", 2)[2]
    assert body.count(END) == 1 and "<script" not in body and "\n# Bought" not in body
    assert update_card(card, make_report(model=nasty, text={"name": nasty}), **PLACE) == card


def test_without_layers_the_card_shows_the_value_alone():
    report = GeometryReport()
    report.add(measure="anisotropy", convention="usual", value=0.25)
    report.add(measure="patchiness", convention="usual", value=None, warnings=["too_few_rows: 3 rows"])
    card = ModelCard(update_card(None, report, **PLACE))
    assert [(r.metric_name, r.metric_value) for r in card.data.eval_results] == [("anisotropy", 0.25)]
    assert "| measure | convention | value |\n| --- | --- | --- |\n| anisotropy | usual | 0.25 |\n\n" in card.text


def test_measures_that_make_no_headline_are_shown_when_they_are_all_there_is():
    report = GeometryReport()
    report.add(measure="duplicate_share", convention="usual", value=0.5)
    assert "| duplicate share | usual | 0.5 |" in update_card(None, report, **PLACE)
    report.add(measure="mean_cosine", convention="usual", value=0.25)
    assert "duplicate share" not in update_card(None, report, **PLACE)


# --- the dry run ------------------------------------------------------------------------------------------------------


def test_a_dry_run_needs_no_network_and_official_parsers_read_it(report, tmp_path):
    import datasets

    pushed = push_report(report, "me/model", name="x", results_dataset="me/geometry", to=tmp_path / "out")
    assert str(pushed) == f"written to {tmp_path / 'out'}, nothing pushed" and not pushed.commits
    model, rows = tmp_path / "out/models/me/model", tmp_path / "out/datasets/me/geometry"
    assert set(files_of(model)) == {"README.md", "repgeo/x.json", "repgeo/x.parquet", "repgeo/x.png"}
    assert len(ModelCard.load(model / "README.md").data.eval_results) == 4
    assert (model / "repgeo/x.png").read_bytes().startswith(b"\x89PNG")
    assert load_report(tmp_path / "out") == load_report(model) == report
    assert GeometryReport.from_parquet(model / "repgeo/x.parquet") == report
    table = datasets.load_dataset(str(rows), split="train", cache_dir=str(tmp_path / "datasets"))
    assert len(table) == len(report) and set(table["model"]) == {"someone/model"} and set(table["commit"]) == {COMMIT}
    assert table["value"] == [row["value"] for row in report] and table["warnings"][-1] == ["few_rows: a sentence"]


def test_a_dry_run_writes_exactly_what_goes_up(report, double, push, tmp_path):
    double.add("me/model", {"README.md": FOREIGN.encode(), "weights.bin": b"w"})
    before = double.repos["model", "me/model"].files()
    push(report, results_dataset="me/geometry", to=tmp_path)
    assert ("dataset", "me/geometry") not in double.repos and before == double.repos["model", "me/model"].files()
    assert not double.seen("POST|PUT|DELETE")
    push(report, results_dataset="me/geometry")
    assert {**before, **files_of(tmp_path / "models/me/model")} == double.repos["model", "me/model"].files()
    rows = double.repos["dataset", "me/geometry"].files()
    assert files_of(tmp_path / "datasets/me/geometry") == {k: v for k, v in rows.items() if k != ".gitattributes"}


def test_a_dry_run_says_if_the_repository_cannot_be_read(report, double, push, tmp_path, caplog):
    double.add("me/model", {"README.md": FOREIGN.encode()})
    double.fail("GET /api/models/me/model", 503)
    push(report, to=tmp_path)
    assert "me/model cannot be read (the Hub answered 503" in caplog.text
    assert "Their model" not in (tmp_path / "models/me/model/README.md").read_text()


def test_the_same_curves_are_the_same_bytes(report, picture):
    assert hub._figure(report) == picture != hub._figure(make_report(shift=0.1))


# --- the push ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("private", [True, False])
def test_what_is_pushed_comes_back_equal(report, double, push, load, private):
    pushed = push(report, results_dataset="me/geometry", private=private)
    assert set(pushed.commits) == {"me/model", "me/geometry"} and not pushed.pull_requests
    assert load() == report
    assert {repo.private for repo in double.repos.values()} == {private}
    rows = results_in(double.repos["dataset", "me/geometry"])
    assert [(row["layer"], row["measure"], row["value"]) for row in rows] == [
        (row["layer"], row["measure"], row["value"]) for row in report
    ]
    assert double.seen("PUT /lfs/") == 3, "two Parquet files and the figure go by LFS, the rest does not"


def test_only_what_was_named_is_written(report, double, push):
    push(report, card=False)
    assert set(double.repos) == {("model", "me/model")}
    assert all(path.startswith("repgeo/") for path in double.repos["model", "me/model"].files() if path[0] != ".")


def test_a_second_push_changes_nothing(report, double, push):
    first = push(report, results_dataset="me/geometry")
    heads = {key: dict(repo.branches) for key, repo in double.repos.items()}
    assert push(report, results_dataset="me/geometry") == first
    assert {key: dict(repo.branches) for key, repo in double.repos.items()} == heads


def test_an_existing_card_keeps_its_words_and_an_existing_repository_its_visibility(report, double, push):
    repo = double.add("me/model", {"README.md": FOREIGN.encode()}, private=True)
    push(report, private=False)
    assert repo.private and "# chosen by our lawyers" in repo.files()["README.md"].decode()
    assert len(ModelCard(repo.files()["README.md"].decode()).data.eval_results) == 5


@pytest.mark.parametrize("owner", ["stranger", "library"])
def test_a_repository_of_another_owner_gets_one_pull_request_and_only_one(report, double, push, load, owner):
    repo = double.add(f"{owner}/model", {"README.md": FOREIGN.encode()})
    head = repo.branches["main"]
    first, second = push(report, f"{owner}/model"), push(report, f"{owner}/model")
    address = f"{double.endpoint}/{owner}/model/discussions/1"
    assert first.pull_requests == second.pull_requests == {f"{owner}/model": address}
    assert repo.branches["main"] == head and len(repo.requests) == 1
    assert "# Their model" in repo.files("refs/pr/1")["README.md"].decode()
    assert load(f"{owner}/model", revision="refs/pr/1") == report
    with pytest.raises(BadInput, match="which holds none"):
        load(f"{owner}/model")


def test_my_organizations_repository_takes_a_commit_unless_i_ask(report, double, push):
    assert set(push(report, "lab/model").commits) == {"lab/model"}
    assert set(push(make_report(seed=1), "lab/model", create_pr=True).pull_requests) == {"lab/model"}


def test_of_several_reports_one_is_chosen_by_name(report, push, load):
    other = make_report(seed=1)
    push(report, name="first")
    push(other, name="second")
    assert load(name="first") == report and load(name="second") == other
    with pytest.raises(BadInput, match="holds 2: first, second.*Pass name="):
        load()
    with pytest.raises(UnknownName, match="Did you mean 'first'"):
        load(name="frist")


def test_numpys_numbers_arrive_as_plain_ones(report, push, load):
    import numpy as np

    exact = make_report()
    report.rows[0]["value"], report.rows[0]["n"] = np.float32(0.5), np.int64(4096)
    report.provenance["windows"] = (1, 2)
    exact.rows[0]["value"], exact.provenance["windows"] = 0.5, [1, 2]
    push(report)
    assert load() == exact and type(load().rows[0]["value"]) is float


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda report: report.rows[0].update(value=float("nan")), "nan .anisotropy, layer 0, value"),
        (lambda report: report.rows[3]["details"].update(a=[{"b": float("inf")}]), "inf .intrinsic_dimension, layer 1"),
        (lambda report: report.rows.clear(), "no rows"),
        (lambda report: report.provenance.update(model=object()), "object .provenance, model"),
    ],
)
def test_what_is_no_plain_finite_number_is_refused(report, tmp_path, change, complaint):
    change(report)
    with pytest.raises(BadInput, match=complaint):
        push_report(report, "me/model", to=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options",
    [
        {"repo_id": "model"},
        {"repo_id": "../model"},
        {"repo_id": "a/b/c"},
        {"results_dataset": "me/../x"},
        {"name": "../x"},
        {"name": "a/b"},
        {"name": ""},
        {"to": __file__},
    ],
)
def test_names_that_lead_elsewhere_are_refused(report, tmp_path, options):
    (argument,) = options
    with pytest.raises(BadInput, match=f"`{argument}`"):
        push_report(report, **{"repo_id": "me/model", "to": tmp_path, **options})
    assert not list(tmp_path.iterdir())


# --- the results data set ---------------------------------------------------------------------------------------------


def test_rows_are_appended_without_duplicates(double, push):
    push(make_report(layers=(0, 1)), results_dataset="me/geometry")
    push(
        make_report(layers=(1, 2), device="cuda:0", finished="later", layers_asked=None), results_dataset="me/geometry"
    )
    push(make_report(layers=(1, 2), device="cuda:0", finished="later"), results_dataset="me/geometry")
    push(make_report(commit="c" * 40), results_dataset="me/geometry", overwrite=True)
    rows = results_in(double.repos["dataset", "me/geometry"])
    keys = [(row["commit"], row["run"], row["layer"], row["measure"]) for row in rows]
    assert len(set(keys)) == len(keys)
    same_run = {row["run"] for row in rows if row["commit"] == COMMIT and row["layer"] == 0}
    assert len([row for row in rows if row["run"] in same_run]) == 6, "layer 1 of the later report is there already"
    assert len([row for row in rows if row["commit"] == "c" * 40]) == 6


def test_a_run_is_what_decides_the_numbers():
    run = run_id(make_report())
    same = {"device": "cuda", "finished": "later", "layers": [0], "versions": {"hf_repgeo": "0.1.0", "torch": "9"}}
    assert run_id(make_report(**same)) == run == run_id(make_report(layers=(1,)))
    for other in ({"commit": "c" * 40}, {"seed": 1}, {"text": {"name": "x"}}, {"versions": {"hf_repgeo": "0.2.0"}}):
        assert run_id(make_report(**other)) != run
    assert run_id(make_report(commit=None)) != run_id(make_report(commit=None, shift=0.1)), "a model trained further"


def test_a_report_with_a_row_twice_gives_it_once(report):
    table = results_table(report + report, "me/model", "repgeo/x.json")
    assert len(table) == len(report) and len(new_rows(table, [])) == len(report)


def test_a_data_set_of_something_else_is_left_alone(report, double, push):
    repo = double.add("me/texts", {"data/train.parquet": b"texts"}, kind="dataset")
    with pytest.raises(BadInput, match="`results_dataset`.*other things, such as 'data/train.parquet'"):
        push(report, results_dataset="me/texts")
    assert set(repo.files()) == {".gitattributes", "data/train.parquet"}


def test_the_card_of_a_data_set_is_written_once(report, double, push):
    repo = double.add("me/geometry", {"README.md": b"mine"}, kind="dataset")
    push(report, results_dataset="me/geometry")
    assert repo.files()["README.md"] == b"mine"
    push(report, results_dataset="me/new")
    assert TAG in double.repos["dataset", "me/new"].files()["README.md"].decode()


def test_several_people_push_at_once_and_nothing_is_lost_or_doubled(double, push):
    """Each pushes one row of its own and one that all share."""
    people, start, failures = 5, threading.Barrier(5), []

    def work(person):
        report = make_report(layers=(0,))
        report.rows[1]["tokens"] = f"of person {person}"
        start.wait()
        try:
            push(report, "lab/model", name=f"person-{person}", results_dataset="lab/geometry", overwrite=True)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(person,)) for person in range(people)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not failures
    rows = results_in(double.repos["dataset", "lab/geometry"])
    assert sorted(row["tokens"] for row in rows) == ["all", *(f"of person {person}" for person in range(people))]
    assert sum(path.endswith(".json") for path in double.repos["model", "lab/model"].files()) == people


# --- when something goes wrong ----------------------------------------------------------------------------------------

COMMITS = r"POST /api/models/me/model/commit/main"


def test_a_card_changed_meanwhile_is_merged_anew(report, double, push, pauses):
    repo = double.add("me/model", {"README.md": b"# Old words\n"})

    def somebody_else():
        repo.commit("main", {**repo.files(), "README.md": b"# New words\n"}, "new words")

    double.meanwhile(COMMITS, somebody_else)
    push(report)
    card = repo.files()["README.md"].decode()
    assert "# New words" in card and START in card and len(pauses) == 1 and double.seen(COMMITS) == 2


@pytest.mark.parametrize("status", [409, 412, 429, 500, 502, 503, 504])
@pytest.mark.parametrize(
    "request_line", [COMMITS, "POST /api/repos/create", "GET /api/whoami-v2", "GET /api/models/me"]
)
def test_temporary_failures_are_retried(report, push, double, load, pauses, status, request_line):
    if "create" in request_line and status == 409:
        pytest.skip("there it means that the repository exists")
    double.fail(request_line, status, times=2)
    push(report)
    assert load() == report
    assert len(pauses) == 2 and pauses[0] < pauses[1] < 5


@pytest.mark.parametrize(("attempt", "pause"), [(1, 1), (2, 2), (4, 8), (9, 16)])
def test_pauses_double_up_to_sixteen_seconds_and_differ_by_up_to_a_quarter(attempt, pause, monkeypatch):
    monkeypatch.setattr(uploads.secrets, "randbelow", lambda end: 0)
    assert uploads._pause(ConnectionError(), attempt) == pytest.approx(0.75 * pause)
    monkeypatch.setattr(uploads.secrets, "randbelow", lambda end: end - 1)
    assert uploads._pause(ConnectionError(), attempt) == pytest.approx(1.25 * pause, rel=2e-3)


def test_a_server_that_asks_for_time_gets_it_within_reason(report, double, push, pauses):
    double.fail(COMMITS, 429, **{"Retry-After": "7"})
    double.fail(COMMITS, 503, **{"Retry-After": "86400"})
    push(report)
    assert pauses == [7.0, 60.0]


@pytest.mark.parametrize("when", ["before", "after", "midway"])
@pytest.mark.parametrize(
    "request_line",
    [
        COMMITS,
        "POST /api/repos/create",
        "PUT /lfs/",
        "POST .*/objects/batch",
        "GET /me/model/resolve/.*README",
        "GET /api/models",
    ],
)
def test_a_request_whose_connection_is_cut_is_retried(report, double, push, load, when, request_line):
    repo = double.add("me/model", {"README.md": FOREIGN.encode()}) if "create" not in request_line else None
    double.cut(request_line, when, times=2)
    push(report)
    assert load() == report
    assert double.troubles[0].times == (1 if when != "before" and "POST /api/" in request_line else 0)
    repo = repo or double.repos["model", "me/model"]
    assert repo.titles.count("Add geometry measured by hf_repgeo: repgeo/sample-" + _stem(repo)) == 1


def _stem(repo) -> str:
    (path,) = (path for path in repo.files() if path.startswith("repgeo/") and path.endswith(".json"))
    return path.removeprefix("repgeo/sample-")


def test_a_pull_request_whose_answer_was_lost_is_not_opened_twice(report, double, push):
    repo = double.add("stranger/model")
    double.cut("POST .*/commit/", "after")
    push(report, "stranger/model")
    assert len(repo.requests) == 1


def test_a_download_cut_midway_is_retried(report, double, push, load):
    push(report)
    double.cut(r"GET /me/model/resolve/.*\.json", "midway", times=2)
    double.fail("GET /api/models/me/model", 503)
    assert load() == report


@pytest.mark.parametrize(
    ("request_line", "status", "reason"),
    [
        (COMMITS, 403, "the token may not write there"),
        (COMMITS, 401, "the Hub does not accept the token|no such repository"),
        (COMMITS, 404, "the Hub answered 404"),
        (COMMITS, 409, "others kept writing"),
        (COMMITS, 412, "others kept writing"),
        (COMMITS, 429, "too many requests"),
        (COMMITS, 503, "the Hub answered 503"),
        ("PUT /lfs/", 503, "the Hub answered 503"),
        ("POST /api/validate-yaml", 400, "Invalid metadata"),
    ],
)
def test_a_push_that_fails_loses_nothing_and_says_how_to_try_again(
    report, double, push, load, monkeypatch, capsys, request_line, status, reason
):
    monkeypatch.setitem(uploads.ATTEMPTS, "conflict", 3)
    double.fail(request_line, status, times=10**6)
    with pytest.raises(HubError, match=reason) as caught:
        push(report, results_dataset="me/geometry", private=True)
    assert load_report(caught.value.folder) == report
    assert str(caught.value.folder) in str(caught.value)
    assert ("model", "me/model") in double.repos and ("dataset", "me/geometry") not in double.repos
    double.troubles.clear()
    run_command(str(caught.value).split("To try again: ")[1], double, monkeypatch)
    assert load() == report and double.repos["dataset", "me/geometry"].private
    assert f"me/model: {double.endpoint}/me/model/commit/" in capsys.readouterr().out


def run_command(command: str, double, monkeypatch) -> None:
    """What the command line does, with the client bound to the double."""
    parser = ArgumentParser(prog="hf-repgeo")
    add(parser.add_subparsers(required=True))
    options = parser.parse_args(shlex.split(command)[1:])
    monkeypatch.setattr("hf_repgeo.hub.push.client", lambda token: HfApi(endpoint=double.endpoint, token=ME))
    options.run(options)


def test_the_second_repository_failing_leaves_the_first_and_says_so(report, double, push):
    double.fail("POST /api/datasets/me/geometry/commit", 403, times=9)
    with pytest.raises(HubError, match="pushing to me/geometry failed: .*me/model was pushed. Nothing is lost"):
        push(report, results_dataset="me/geometry")
    assert START in double.repos["model", "me/model"].files()["README.md"].decode()


def test_another_folder_is_used_where_the_cache_cannot_be_written(report, double, push, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HF_REPGEO_CACHE", str(tmp_path / "file"))
    double.fail(COMMITS, 403)
    with pytest.raises(HubError) as caught:
        push(report)
    assert load_report(caught.value.folder) == report
    shutil.rmtree(caught.value.folder)


def test_a_finished_push_leaves_no_folder_behind(report, push, tmp_path):
    push(report)
    push(report)
    with pytest.raises(BadInput, match="overwrite"):
        push(make_report(shift=0.1))
    assert not list((tmp_path / "repgeo/pushes").iterdir())


@pytest.mark.parametrize(
    ("token", "repo_id", "options", "reason"),
    [
        (None, "me/model", {}, "no token; log in"),
        ("hf_expired", "me/model", {}, "the Hub does not accept the token"),
        ("hf_expired", "me/model", {"create_pr": False}, "the Hub does not accept the token"),
        (ME, "stranger/model", {"create_pr": False}, "the token may not write there"),
        (ME, "stranger/private", {}, "no such repository"),
        (ME, "stranger/nothing", {}, "no such repository"),
    ],
)
def test_a_user_who_may_not_push_is_told_why(report, double, push, pauses, token, repo_id, options, reason):
    double.add("stranger/model")
    double.add("stranger/private", private=True)
    with pytest.raises(HubError, match=reason):
        push(report, repo_id, token=token, **options)
    assert not pauses, "no repetition cures this"
    assert len(double.repos) == 2 and not any(repo.requests for repo in double.repos.values())


def test_a_user_who_may_not_read_is_told_why(report, double, push, load):
    push(report, private=True)
    assert load() == report
    for token in (STRANGER, None):
        with pytest.raises(HubError, match="'me/model' cannot be read: no such repository"):
            load(token=token)
    with pytest.raises(HubError, match="cannot be read: .*Revision Not Found"):
        load(revision="nothing")


def test_offline_a_push_is_refused_at_once_and_kept(report, push, double, monkeypatch, pauses):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="offline mode is on") as caught:
        push(report)
    assert load_report(caught.value.folder) == report and not pauses and not double.log


def test_a_dead_server_is_given_up_after_a_few_attempts(report, online, pauses):
    api = HfApi(endpoint="http://127.0.0.1:9", token=ME)
    with pytest.raises(HubError, match="pushing to me/model failed: .*[Cc]onnect"):
        push_report(report, "me/model", api=api, sleep=pauses.append)
    assert len(pauses) == 4


def test_no_token_is_ever_logged_or_written(report, double, push, load, caplog, capfd, tmp_path):
    caplog.set_level(logging.DEBUG)
    double.fail(COMMITS, 503, times=1)
    double.fail("PUT /lfs/", 500, times=1)
    push(report, results_dataset="me/geometry")
    load()
    with pytest.raises(HubError) as refused:
        push(report, "stranger/nothing")
    captured = capfd.readouterr()
    written = b"".join(files_of(tmp_path).values())
    pushed = b"".join(content for repo in double.repos.values() for content in repo.files().values())
    places = [caplog.text, captured.out, captured.err, str(refused.value), str(written), str(pushed)]
    assert "httpcore" in caplog.text or "http" in caplog.text, "the client's own logs are in it"
    assert not [place for place in places if ME in place]


def test_a_token_in_a_servers_answer_is_not_repeated(report, double, push):
    double.fail("POST .*/commit/", 400, times=9, **{"X-Error-Message": f"token {ME} is odd"})
    with pytest.raises(HubError, match="token <token> is odd"):
        push(report)


# --- the double with the client itself --------------------------------------------------------------------------------


def test_the_double_serves_a_space(double, tmp_path):
    api = HfApi(endpoint=double.endpoint, token=ME)
    folder = tmp_path / "space"
    folder.mkdir()
    (folder / "README.md").write_text("---\ntitle: T\nsdk: gradio\nsdk_version: 6.0.0\napp_file: app.py\n---\n")
    (folder / "app.py").write_text("print()\n")
    (folder / "wheel.bin").write_bytes(b"\0" * 100)
    api.create_repo("me/space", repo_type="space", space_sdk="gradio")
    api.create_repo("me/space", repo_type="space", space_sdk="gradio", exist_ok=True)
    api.upload_folder(repo_id="me/space", repo_type="space", folder_path=folder)
    assert [space.id for space in api.list_spaces()] == ["me/space"]
    copy = api.snapshot_download("me/space", repo_type="space", local_dir=tmp_path / "copy")
    assert {k: v for k, v in files_of(Path(copy)).items() if not k.startswith(".")} == files_of(folder)
    assert SpaceCard.load(Path(copy) / "README.md").data.sdk == "gradio"
    api.delete_file("wheel.bin", "me/space", repo_type="space")
    assert sorted(api.list_repo_files("me/space", repo_type="space")) == [".gitattributes", "README.md", "app.py"]
    api.delete_repo("me/space", repo_type="space")
    assert not double.repos


def test_the_double_refuses_what_the_hub_refuses(double):
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    mine, theirs = (HfApi(endpoint=double.endpoint, token=token) for token in (ME, COLLEAGUE))
    double.add("me/model", {"file": b"1"})
    old = mine.model_info("me/model").sha
    upload = {"path_or_fileobj": b"2", "path_in_repo": "file", "repo_id": "me/model"}
    mine.upload_file(**upload)
    for call, error, status in [
        (lambda: mine.create_repo("me/model"), HfHubHTTPError, 409),
        (lambda: mine.upload_file(**{**upload, "path_or_fileobj": b"3"}, parent_commit=old), HfHubHTTPError, 412),
        (lambda: theirs.upload_file(**{**upload, "path_or_fileobj": b"3"}), HfHubHTTPError, 403),
        (lambda: mine.model_info("me/nothing"), RepositoryNotFoundError, 404),
        (lambda: mine.model_info("me/model", revision="nothing"), RevisionNotFoundError, 404),
        (lambda: mine.hf_hub_download("me/model", "nothing"), EntryNotFoundError, 404),
        (lambda: HfApi(endpoint=double.endpoint, token="hf_no").whoami(), HfHubHTTPError, 401),
    ]:
        with pytest.raises(error) as caught:
            call()
        assert caught.value.response.status_code == status
    assert Path(hf_hub_download("me/model", "file", endpoint=double.endpoint)).read_bytes() == b"2"
    assert Path(snapshot_download("me/model", endpoint=double.endpoint), "file").read_bytes() == b"2"
    mine.create_commit("me/model", [], commit_message="nothing", create_pr=True)


CHILD = """
import json, sys
import hf_repgeo as hub
from huggingface_hub import ModelCard, metadata_update
import datasets
folder = sys.argv[1]
report = hub.load_report(folder)
hub.push_report(report, "me/model", name="x", results_dataset="me/geometry")
result = {"task": {"type": "t"}, "dataset": {"type": "d", "name": "d"}, "metrics": [{"type": "accuracy", "value": 0.5}]}
metadata_update("me/model", {"model-index": [{"name": "model", "results": [result]}]})
hub.push_report(report, "me/model", name="x", results_dataset="me/geometry")
assert hub.load_report("me/model") == report
rows = datasets.load_dataset("me/geometry", split="train")
values = [result.metric_value for result in ModelCard.load("me/model").data.eval_results]
print(json.dumps({"rows": len(rows), "model": rows[0]["model"], "values": values}))
"""


@pytest.mark.skipif(
    int(version("huggingface_hub").split(".")[0]) < 2,
    reason="metadata_update of older clients validates cards at huggingface.co, whatever HF_ENDPOINT says",
)
def test_a_process_with_a_token_of_its_own_and_official_readers(report, double, tmp_path):
    """Endpoint and token come from the environment, as a user sets them; other tools change the card in between."""
    push_report(report, "me/model", name="x", to=tmp_path / "out", api=HfApi(endpoint=double.endpoint, token=ME))
    settings = {"HF_ENDPOINT": double.endpoint, "HF_TOKEN": ME, "HF_HOME": str(tmp_path / "home")}
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))} | settings
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-c", CHILD, str(tmp_path / "out")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert (found["rows"], found["model"]) == (len(report), "someone/model")
    assert sorted(found["values"]) == pytest.approx([0.4, 0.5, 0.9, 30.5 / 3, 12.5])
    assert ME not in run.stdout + run.stderr


def round_trip(api: HfApi, owner: str, report: GeometryReport) -> None:
    """Push, push again, read back, delete: what every Hub must do."""
    model, rows = f"{owner}/hf_repgeo-test-model", f"{owner}/hf_repgeo-test-results"
    try:
        for _ in range(2):
            push_report(report, model, results_dataset=rows, private=True, api=api)
        assert load_report(model, api=api) == report
        card = Path(api.hf_hub_download(model, "README.md")).read_text()
        assert isinstance(ModelCard(card).data, ModelCardData) and card.count(START) == 1
        files = api.list_repo_files(rows, repo_type="dataset")
        assert len([file for file in files if re.fullmatch(r"data/someone--model/repgeo-\w{16}\.parquet", file)]) == 1
    finally:
        api.delete_repo(model, missing_ok=True)
        api.delete_repo(rows, repo_type="dataset", missing_ok=True)


def test_the_round_trip_against_the_double(report, double):
    round_trip(HfApi(endpoint=double.endpoint, token=ME), "me", report)
    assert not double.repos


@pytest.mark.hub
def test_the_round_trip_against_a_real_hub(report, monkeypatch):
    """For a person: `HF_REPGEO_TEST_HUB=1 pytest -m hub tests/hub/test_push.py`, logged in; makes and deletes two
    repositories."""
    if not os.environ.get("HF_REPGEO_TEST_HUB"):
        pytest.skip("needs a person with a token: set HF_REPGEO_TEST_HUB=1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    api = HfApi()
    round_trip(api, api.whoami()["name"], report)


# --- the card of a new model, and Xet ---------------------------------------------------------------------------------


def test_a_new_card_has_tags_a_library_and_the_licence_that_was_given():
    front = ModelCard(update_card(None, make_report(commit="c" * 40), **PLACE, license="mit")).data
    wanted = {"tags": ["hf_repgeo", "representation-geometry"], "library_name": "transformers", "license": "mit"}
    assert wanted.items() <= front.to_dict().items()
    card = "---\nlicense: gpl-3.0\n---\nwords\n"
    kept = update_card(card, make_report(), **PLACE, license="mit")
    assert "license: gpl-3.0" in kept and "license: mit" not in kept and "library_name" not in kept


def test_a_later_run_on_the_same_text_replaces_the_earlier_one_and_no_other():
    older, newer, elsewhere = (make_report(commit=digit * 40) for digit in "abc")
    elsewhere.provenance["text"] = {"name": "another text", "sha256": "0" * 64}
    card = None
    for report in (elsewhere, older, newer):
        card = update_card(card, report, **PLACE)
    runs = {result.dataset_args["run"]: result.dataset_name for result in ModelCard(card).data.eval_results}
    assert runs == {run_id(elsewhere): "another text", run_id(newer): "sample"}


def test_the_figure_of_a_card_shows_one_policy(monkeypatch):
    from hf_repgeo import plots

    drawn, plot = [], plots.plot_layers
    monkeypatch.setattr(plots, "plot_layers", lambda *given: drawn.append(given) or plot(*given))
    hub._figure(make_report())
    assert len(drawn[0][2]) == 1


class FakeXet:
    """What the client uses of hf_xet: files go to the double's store under their hashes."""

    def __init__(self, double):
        self.double = double

    def new_upload_commit(self, **_):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def start_upload_file(self, path, sha256):
        return self.start_upload_bytes(Path(path).read_bytes(), sha256)

    def start_upload_bytes(self, content, sha256):
        oid = hashlib.sha256(content).hexdigest()
        self.double.blobs[oid] = content
        info = types.SimpleNamespace(xet_info=types.SimpleNamespace(sha256=oid))
        return types.SimpleNamespace(result=lambda: info)


def test_a_push_through_xet_arrives_as_one_without(push, double, monkeypatch):
    from huggingface_hub.utils import _xet

    pytest.importorskip("hf_xet")
    if not hasattr(_xet, "get_xet_session"):
        pytest.skip("another interface of hf_xet")
    report = make_report(commit="c" * 40)
    push(report, name="without")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr(_xet, "get_xet_session", lambda: FakeXet(double))
    push(report, name="with")
    files = double.repos["model", "me/model"].files()
    for ending in ("json", "parquet", "png"):
        assert files[f"repgeo/with.{ending}"] == files[f"repgeo/without.{ending}"]


def test_a_failure_of_xets_store_gives_one_sentence_that_says_how_to_try_again(push, double, monkeypatch):
    from huggingface_hub.utils import _xet

    pytest.importorskip("hf_xet")
    if not hasattr(_xet, "get_xet_session"):
        pytest.skip("another interface of hf_xet")

    class Broken(FakeXet):
        def new_upload_commit(self, **_):
            raise RuntimeError("Data processing error: CAS service error")

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr(_xet, "get_xet_session", lambda: Broken(double))
    with pytest.raises(HubError, match="pushing to me/model failed: .*CAS service error.* To try again: "):
        push(make_report(commit="c" * 40))
    assert not any(name.startswith("repgeo/") for name in double.repos["model", "me/model"].files())
