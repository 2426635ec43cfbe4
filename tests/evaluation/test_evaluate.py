"""Measures in evaluate: names are found offline, rows are not copied, streams and processes agree."""

import json
import multiprocessing
import os
import subprocess
import sys
import textwrap
from pathlib import Path

os.environ["HF_EVALUATE_OFFLINE"] = "1"

import datasets  # noqa: E402
import evaluate  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

import hf_repgeo  # noqa: E402, F401
from hf_repgeo import measurement_path  # noqa: E402
from hf_repgeo.errors import BadInput, NonFiniteRows, TooFewRows, UnknownName  # noqa: E402
from hf_repgeo.evaluation import base, streams  # noqa: E402
from hf_repgeo.measures import PointCloud, anisotropy, intrinsic_dimension, patchiness  # noqa: E402
from hf_repgeo.registration.evaluate_names import MEASUREMENTS, install  # noqa: E402
from hf_repgeo.rows.files import row_blocks  # noqa: E402

NAMES = tuple(MEASUREMENTS)
PURE = {"anisotropy": anisotropy, "intrinsic_dimension": intrinsic_dimension, "patchiness": patchiness}
FEW_CELLS = {"codebooks": 2, "bits": 3}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def modules_cache(tmp_path_factory):
    """An empty cache of evaluate's copied scripts, first on the path; the package it makes is forgotten afterwards."""
    folder = str(tmp_path_factory.mktemp("hf_modules"))
    sys.path.insert(0, folder)
    yield folder
    sys.path.remove(folder)
    for name in [name for name in sys.modules if name.split(".")[0] == "evaluate_modules"]:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def own_caches(monkeypatch, tmp_path, modules_cache):
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", modules_cache)
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "metrics"))
    monkeypatch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", True)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def X():
    """300 rows of 6 columns, stretched along the first and moved off the origin."""
    rows = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
    return rows * torch.tensor([3.0, 1, 1, 1, 1, 1]) + 5


def options(name):
    return FEW_CELLS if name == "patchiness" else {}


def agree(found, wanted, tolerance=1e-6):
    """Equal numbers, whatever is known about errors and warnings."""
    for key, value in wanted.items():
        if not key.endswith(("_standard_error", "_warnings")):
            assert found[key] == pytest.approx(value, rel=tolerance), key


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_name_loads_the_measurement_with_its_description(name):
    module = evaluate.load(name)
    assert isinstance(module, evaluate.Measurement)
    assert (module.name, module.module_type) == (name, "measurement")
    assert type(module).__module__ == f"hf_repgeo.evaluation.{name}"
    assert module.features == datasets.Features({"representations": datasets.Sequence(datasets.Value("float32"))})
    assert len(module.description) > 200 and "@" in module.citation and ">>>" in module.inputs_description
    assert module.inputs_description in module.compute.__doc__


def test_another_type_is_refused_with_the_one_it_is():
    assert evaluate.load("anisotropy", module_type="measurement").name == "anisotropy"
    with pytest.raises(TypeError, match="measurement"):
        evaluate.load("anisotropy", module_type="metric")


def test_a_name_that_evaluate_already_has_still_loads_evaluates_own(monkeypatch):
    asked = ask_the_hub(monkeypatch)
    with pytest.raises(FileNotFoundError):
        evaluate.load("perplexity", module_type="measurement")
    assert asked == [("evaluate-measurement/perplexity", None)]


def ask_the_hub(monkeypatch):
    """Records what would be asked of the Hub, and answers as without a network."""
    asked = []

    class NoHub:
        def __init__(self, name, revision=None, **_):
            asked.append((name, revision))

        def get_module(self):
            raise ConnectionError("no network in tests")

    monkeypatch.setattr(evaluate.loading, "HubEvaluationModuleFactory", NoHub)
    return asked


def test_a_revision_goes_to_the_hub(monkeypatch):
    asked = ask_the_hub(monkeypatch)
    with pytest.raises(FileNotFoundError):
        evaluate.load("anisotropy", revision="v1", module_type="measurement")
    assert asked == [("evaluate-measurement/anisotropy", "v1")]


def test_a_folder_of_the_user_wins(tmp_path):
    (tmp_path / "anisotropy").mkdir()
    (tmp_path / "anisotropy" / "anisotropy.py").write_text(
        textwrap.dedent("""
        import datasets
        import evaluate

        class Mine(evaluate.Measurement):
            def _info(self):
                features = datasets.Features({"references": datasets.Value("float32")})
                return evaluate.MeasurementInfo(description="mine", citation="", features=features)
        """)
    )
    assert evaluate.load("anisotropy").description == "mine"
    assert evaluate.load("patchiness").name == "patchiness"


def test_an_installed_module_cannot_be_copied_by_inspect(monkeypatch, tmp_path):
    ask_the_hub(monkeypatch)
    with pytest.raises(FileNotFoundError):
        evaluate.inspect_evaluation_module("anisotropy", str(tmp_path / "copy"))


def test_installing_the_names_a_second_time_changes_nothing():
    taught = evaluate.loading.evaluation_module_factory
    install()
    assert evaluate.loading.evaluation_module_factory is taught


@pytest.mark.parametrize("name", NAMES)
def test_the_path_loads_the_same_measurement(name, X):
    by_path, by_name = evaluate.load(measurement_path(name)), evaluate.load(name)
    assert by_path.name == name and type(by_path) is not type(by_name)
    given = {"representations": X, **options(name)}
    assert by_path.compute(**given) == by_name.compute(**given)


def test_the_path_of_an_unknown_measurement_is_refused():
    with pytest.raises(UnknownName, match="anisotropy"):
        measurement_path("anisotrpy")


def test_any_configuration_but_the_default_is_refused():
    assert evaluate.load("anisotropy", "default").config_name == "default"
    with pytest.raises(UnknownName, match="configuration of intrinsic_dimension 'mle'"):
        evaluate.load("intrinsic_dimension", "mle")


# --- rows given to compute --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_number_is_that_of_the_pure_function(name, X):
    found = evaluate.load(name).compute(representations=X, **options(name))
    wanted = PURE[name](PointCloud(X), **options(name))
    assert (found[name], found[f"{name}_standard_error"]) == (wanted.value, wanted.standard_error)
    assert found[f"{name}_n"] == 300


@pytest.mark.parametrize("convert", [torch.Tensor.numpy, torch.Tensor.tolist, list, lambda X: list(X.numpy())])
@pytest.mark.parametrize("name", NAMES)
def test_arrays_lists_and_lists_of_rows_give_the_same(name, convert, X):
    module = evaluate.load(name)
    wanted = module.compute(representations=X, **options(name))
    agree(module.compute(representations=convert(X), **options(name)), wanted)


@pytest.mark.parametrize("convert", [lambda X: X, torch.Tensor.numpy])
@pytest.mark.parametrize("name", NAMES)
def test_a_matrix_is_neither_copied_nor_changed(name, convert, X, monkeypatch):
    given, before, seen = convert(X), X.clone(), []

    def spy(rows, **arguments):
        cloud = PointCloud(rows, **arguments)
        seen.append(cloud.rows.data_ptr())
        return cloud

    monkeypatch.setattr(base, "PointCloud", spy)
    evaluate.load(name).compute(representations=given, **options(name))
    assert seen == [X.data_ptr()]
    assert torch.equal(X, before)


def test_gradients_and_modes_are_left_alone(X):
    given = X.clone().requires_grad_()
    assert evaluate.load("anisotropy").compute(representations=given)["anisotropy"] > 0
    assert given.grad is None and torch.is_grad_enabled()


def test_global_generators_are_left_alone(X):
    np_state, torch_state = np.random.get_state()[1].tolist(), torch.get_rng_state()
    evaluate.load("patchiness").compute(representations=X, **FEW_CELLS)
    assert np.random.get_state()[1].tolist() == np_state and torch.equal(torch.get_rng_state(), torch_state)


def test_a_seed_given_to_load_equals_one_given_to_compute(X):
    result = {}
    for seed in (0, 1):
        result[seed] = evaluate.load("patchiness", seed=seed).compute(representations=X, **FEW_CELLS)
        assert evaluate.load("patchiness").compute(representations=X, seed=seed, **FEW_CELLS) == result[seed]
    assert result[0] != result[1]
    assert evaluate.load("patchiness").compute(representations=X, **FEW_CELLS) == result[0]


def test_groups_change_the_standard_error_and_not_the_value(X):
    module = evaluate.load("anisotropy")
    alone = module.compute(representations=X)
    grouped = module.compute(representations=X, groups=torch.arange(300) // 30)
    assert grouped["anisotropy"] == alone["anisotropy"]
    assert grouped["anisotropy_standard_error"] != alone["anisotropy_standard_error"]


def test_nothing_is_written(X, tmp_path):
    for name in NAMES:
        module = evaluate.load(name)
        module.compute(representations=X, **options(name))
        module.add_batch(representations=X)
        module.compute(**options(name))
    assert list(tmp_path.rglob("*")) == []


# --- what comes back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_results_are_flat_plain_numbers_under_the_name_of_the_measure(name, X):
    shape = (9984, 64) if name == "patchiness" else (300, 6)  # enough for a result without warnings, which are words
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result = evaluate.load(name).compute(representations=rows)
    assert all(key.startswith(name) for key in result)
    assert {type(value) for value in result.values()} <= {int, float}
    assert json.loads(json.dumps(result)) == result


@pytest.mark.parametrize("name", NAMES)
def test_a_value_that_cannot_be_computed_is_none_with_its_reason(name):
    result = evaluate.load(name).compute(representations=torch.ones(10, 3))
    assert result[name] is None and result[f"{name}_standard_error"] is None
    assert result[f"{name}_reason"].startswith("no_spread: ")
    assert result[f"{name}_n"] == 10


def test_warnings_of_the_measure_are_in_the_result(X):
    result = evaluate.load("patchiness").compute(representations=torch.cat([X, X]), **FEW_CELLS)
    assert "duplicates: 300 of 600 rows are copies" in result["patchiness_warnings"]
    assert (result["patchiness_n"], result["patchiness_n_distinct"]) == (600, 300)


def test_every_convention_is_there_under_its_own_key(X):
    result = evaluate.load("intrinsic_dimension").compute(representations=X)
    cloud = PointCloud(X)
    assert result["intrinsic_dimension_mle"] == intrinsic_dimension(cloud, "mle").value
    assert result["intrinsic_dimension_razzhigaev"] == intrinsic_dimension(cloud, "razzhigaev").value


# --- combine ----------------------------------------------------------------------------------------------------------


def test_combined_results_are_those_of_each_without_prefixes(X):
    combined = evaluate.combine(list(NAMES))
    wanted = {}
    for name in NAMES:
        wanted |= evaluate.load(name).compute(representations=X, **FEW_CELLS)
    assert combined.compute(representations=X, **FEW_CELLS) == wanted
    for block in X.split(100):
        combined.add_batch(representations=block)
    agree(combined.compute(**FEW_CELLS), wanted)


def test_measurements_combine_with_a_metric_of_another_author(X):
    class Share(evaluate.Metric):
        def _info(self):
            features = {name: datasets.Value("int64") for name in ("predictions", "references")}
            return evaluate.MetricInfo(description="", citation="", features=datasets.Features(features))

        def _compute(self, predictions, references, normalize=True):
            return {"share": sum(p == r for p, r in zip(predictions, references)) / len(predictions)}

    combined = evaluate.combine([Share(), evaluate.load("anisotropy")])
    combined.add_batch(predictions=[1] * 300, references=[1, 0] * 150, representations=X)
    result = combined.compute(normalize=True)
    assert result["share"] == 0.5 and result["anisotropy_n"] == 300


def test_an_unknown_option_is_answered_with_the_nearest_one(X):
    with pytest.raises(UnknownName, match=r"unknown option 'codebook'. Did you mean 'codebooks'"):
        evaluate.load("patchiness").compute(representations=X, codebook=2)


# --- streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 299, 300])
@pytest.mark.parametrize("name", NAMES)
def test_any_split_into_batches_gives_the_same(name, size, X):
    module = evaluate.load(name)
    wanted = module.compute(representations=X, **options(name))
    for batch in X.split(size):
        module.add_batch(representations=batch)
    assert len(module) == 300
    agree(module.compute(**options(name)), wanted)
    assert len(module) == 0


def test_a_long_stream_is_folded_block_by_block():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(20_000, 6, generator=generator) + 1000
    module = evaluate.load("anisotropy")
    for batch in rows.split(700):
        module.add_batch(representations=batch)
        assert sum(map(len, module._stream._rows)) < streams.FOLDED_ROWS
    agree(module.compute(), evaluate.load("anisotropy").compute(representations=rows.double()), 1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_a_column_given_whole_keeps_its_standard_error_and_a_huge_one_is_folded(name, X, monkeypatch):
    column = datasets.Dataset.from_dict({"embedding": X.tolist()}).with_format("numpy")["embedding"]
    module, wanted = evaluate.load(name), evaluate.load(name).compute(representations=X.double(), **options(name))
    agree(module.compute(representations=column, **options(name)), wanted)
    assert module.compute(representations=column, **options(name))[f"{name}_standard_error"] is not None
    monkeypatch.setattr(streams, "WHOLE_BYTES", 100)
    folded = module.compute(representations=column, **options(name))
    assert folded[name] == pytest.approx(wanted[name], rel=1e-6)
    assert (folded[f"{name}_standard_error"] is None) == (name == "anisotropy")


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_rows_changes_no_value_and_with_groups_no_error(name, X, generator):
    order, groups = torch.randperm(len(X), generator=generator), torch.arange(len(X)) // 10
    one, other = (
        evaluate.load(name).compute(representations=X[o], groups=groups[o], **options(name))
        for o in (torch.arange(len(X)), order)
    )
    for key in (name, f"{name}_standard_error"):
        assert other[key] == pytest.approx(one[key], rel=1e-6)


def test_a_stream_without_its_rows_says_that_it_has_no_standard_error(X):
    module = evaluate.load("anisotropy")
    module.add_batch(representations=X)
    result = module.compute()
    assert result["anisotropy_standard_error"] is None
    assert result["anisotropy_warnings"].startswith("no_standard_error: ")


@pytest.mark.parametrize("name", NAMES)
def test_single_rows_and_a_last_batch_in_compute_equal_the_whole(name, X):
    module = evaluate.load(name)
    for row in X[:5]:
        module.add(representations=row.tolist())
    module.add_batch(representations=[])
    agree(
        module.compute(representations=X[5:], **options(name)),
        evaluate.load(name).compute(representations=X.double(), **options(name)),
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_caller_may_reuse_the_memory_of_a_batch(name, X):
    module, memory = evaluate.load(name), torch.empty(100, 6)
    for block in X.split(100):
        memory.copy_(block)
        module.add_batch(representations=memory)
    memory.zero_()
    agree(module.compute(**options(name)), evaluate.load(name).compute(representations=X, **options(name)))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("name", NAMES)
def test_rows_of_very_large_and_very_small_entries_can_be_streamed(name, scale, X):
    module = evaluate.load(name)
    for block in (X.double() * scale).split(100):
        module.add_batch(representations=block)
    agree(module.compute(**options(name)), evaluate.load(name).compute(representations=X.double(), **options(name)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32])
def test_any_precision_streams(dtype, X):
    rows = (X * 8).to(dtype)
    module = evaluate.load("anisotropy")
    for block in rows.split(100):
        module.add_batch(representations=block)
    agree(module.compute(), evaluate.load("anisotropy").compute(representations=rows.double()), 1e-9)


def test_equal_rows_have_no_spread_in_a_stream_either():
    module = evaluate.load("anisotropy")
    for _ in range(10):
        module.add_batch(representations=np.full((1000, 3), 0.1))  # whose float64 mean is not exactly 0.1
    assert module.compute()["anisotropy_reason"].startswith("no_spread: ")


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # that is what the test is about
def test_squares_that_overflow_are_an_error_and_not_a_number():
    module = evaluate.load("anisotropy")
    module.add_batch(representations=[[1e300, 0.0], [0.0, 1e300]])
    with pytest.raises(BadInput, match="overflow"):
        module.compute()


# --- data sets --------------------------------------------------------------------------------------------------------


def dataset(rows, **columns):
    return datasets.Dataset.from_dict({"embedding": rows.tolist(), **columns})


@pytest.mark.parametrize("name", NAMES)
def test_a_column_of_a_data_set_is_streamed(name, X):
    data = dataset(X, text=["a"] * 300)
    wanted = evaluate.load(name).compute(representations=X.double(), **options(name))
    for given in (data, data["embedding"], data.to_iterable_dataset(), data.to_iterable_dataset()["embedding"]):
        agree(evaluate.load(name).compute(representations=given, **options(name)), wanted)


@pytest.mark.parametrize(
    "feature",
    [
        datasets.Sequence(datasets.Value("float32")),
        datasets.Sequence(datasets.Value("float32"), length=6),
        datasets.LargeList(datasets.Value("float32")),
        datasets.Sequence(datasets.Value("float16")),
    ],
)
def test_blocks_keep_order_and_precision(feature, X):
    data = dataset(X.half().float()).cast_column("embedding", feature)
    blocks = list(row_blocks(data, rows=128))
    assert [len(block) for block in blocks] == [128, 128, 44]
    assert blocks[0].dtype == feature.feature.dtype
    assert np.array_equal(np.concatenate(blocks), X.half().numpy())


def test_selected_and_shuffled_rows_are_the_ones_read(X):
    data = dataset(X).select(range(10, 200)).shuffle(seed=0)
    wanted = np.array(data.with_format("numpy", dtype=np.float64)["embedding"][:])
    assert np.array_equal(np.concatenate(list(row_blocks(data, rows=50))), wanted)


def test_a_transform_of_the_user_makes_the_rows(X):
    data = dataset(X).with_transform(lambda batch: {"embedding": [[2 * x for x in row] for row in batch["embedding"]]})
    assert np.array_equal(np.concatenate(list(row_blocks(data, "embedding"))), 2 * X.double().numpy())


def test_a_data_set_without_exactly_one_column_of_vectors_is_refused(X):
    with pytest.raises(BadInput, match=r"2 columns of vectors in \['embedding', 'other'\].*dataset\['embedding'\]"):
        row_blocks(dataset(X, other=X.tolist()))
    with pytest.raises(BadInput, match="0 columns of vectors"):
        row_blocks(datasets.Dataset.from_dict({"text": ["a"]}))
    with pytest.raises(BadInput, match="column 'embeding' of"):
        row_blocks(dataset(X), "embeding")


@pytest.mark.parametrize("rows", [[[1.0, 2.0], [3.0]], [[1.0, 2.0], None], [[1.0, None], [2.0, 3.0]]])
def test_vectors_with_holes_are_refused(rows):
    data = datasets.Dataset.from_dict({"embedding": rows})
    with pytest.raises(BadInput, match="different lengths"):
        list(row_blocks(data))


# --- bad input --------------------------------------------------------------------------------------------------------


def test_computing_without_rows_is_refused():
    module = evaluate.load("anisotropy")
    with pytest.raises(BadInput, match=r"got nothing; wanted rows: compute\(representations=X\)"):
        module.compute()
    with pytest.raises(BadInput, match="got predictions"):
        module.compute(predictions=[[1.0, 2.0]])


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_rows_that_are_not_finite_are_refused_at_once(name, add, X):
    module, bad = evaluate.load(name), X.clone()
    bad[3, 2] = float("nan")
    with pytest.raises(NonFiniteRows, match="`representations`: got NaN or infinity in 1 of 300 rows"):
        (module.add_batch if add else module.compute)(representations=bad)
    assert len(module) == 0


@pytest.mark.parametrize("rows", [5, "abc", [1.0, 2.0], [["a"]], [[[1.0]]], [torch.ones(2), torch.ones(3)]])
@pytest.mark.parametrize("add", [False, True])
def test_what_is_no_matrix_is_refused(rows, add):
    module = evaluate.load("anisotropy")
    with pytest.raises(BadInput, match="`representations`"):
        (module.add_batch if add else module.compute)(representations=rows)


@pytest.mark.parametrize("name", NAMES)
def test_one_row_is_too_few_and_the_next_stream_starts_afresh(name):
    module = evaluate.load(name)
    module.add(representations=[1.0, 2.0])
    with pytest.raises(TooFewRows, match=r"1 row\(s\)"):
        module.compute()
    assert len(module) == 0


def test_batches_of_different_widths_are_refused(X):
    module = evaluate.load("anisotropy")
    module.add_batch(representations=X)
    with pytest.raises(BadInput, match="a batch of 4 columns; wanted 6 columns"):
        module.add_batch(representations=X[:, :4])


# --- several processes ------------------------------------------------------------------------------------------------


def rank(number, name, parts, queue, cache):
    """One of two processes; the answer, or the error, goes into the queue."""
    torch.set_num_threads(1)
    try:
        module = evaluate.load(name, num_process=2, process_id=number, experiment_id=name, cache_dir=cache, timeout=20)
        *batches, last = parts[number].split(70)
        for batch in batches:
            module.add_batch(representations=batch)
        queue.put((number, module.compute(representations=last, **options(name))))
    except Exception as error:
        queue.put((number, repr(error)))


def in_two_processes(name, parts, cache):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=rank, args=(i, name, parts, queue, cache)) for i in range(2)]
    for process in processes:
        process.start()
    answers = dict(queue.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    return answers


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_merge_into_the_number_of_one(name, dtype, X, tmp_path):
    rows = X.to(dtype)
    answers = in_two_processes(name, [rows[:190], rows[190:]], str(tmp_path))
    assert answers[1] is None
    wanted = evaluate.load(name).compute(representations=rows, **options(name))
    rounding = 1e-6 if dtype == torch.float32 else 1e-12  # a BLAS adds up in an order of its own in each process
    assert answers[0].keys() == wanted.keys()
    for key, value in wanted.items():
        assert answers[0][key] == (pytest.approx(value, rel=rounding) if isinstance(value, float) else value), key
    assert not list(tmp_path.rglob("*.arrow"))


@pytest.mark.parametrize("change", [lambda X: X[:, :4], torch.Tensor.double])
def test_processes_that_disagree_about_width_or_dtype_are_refused(change, X, tmp_path):
    answers = in_two_processes("anisotropy", [X, change(X)], str(tmp_path))
    assert "rows of different widths or dtypes in the processes" in answers[0]


FRESH = """
import json, multiprocessing, os, sys
from evaluate import combine, load                    # bound before hf_repgeo is imported
import hf_repgeo
import torch

torch.set_num_threads(1)
X = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))

def work(module):
    return module.compute(representations=X)["anisotropy"]

if __name__ == "__main__":
    module = load("anisotropy")
    answers = {"here": work(module), "combined": combine(["anisotropy"]).compute(representations=X)["anisotropy"]}
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            answers[method] = pool.apply(work, [module])
    module.add_batch(representations=X)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        answers["half full"] = pool.apply(len, [module])
    answers["files"] = [str(path) for path, _, _ in os.walk(os.environ["HF_HOME"])]
    print(json.dumps(answers))
"""


def test_a_fresh_process_that_imports_evaluate_first_agrees_with_its_workers(tmp_path, X):
    script = tmp_path / "script.py"
    script.write_text(FRESH)
    home = tmp_path / "home"
    home.mkdir()
    environment = os.environ | {"HF_HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    answers = json.loads(result.stdout)
    assert answers.pop("files") == [str(home)]  # nothing below it
    assert answers.pop("half full") == 300
    assert len(answers) == 4 and len(set(answers.values())) == 1


def test_null_puts_chance_beside_each_value(generator):
    rows = torch.randn(120, 5, generator=generator)
    result = evaluate.load("anisotropy").compute(representations=rows, null=True)
    assert result["anisotropy_null_low"] < result["anisotropy_null"] < result["anisotropy_null_high"]
    assert 0 <= result["anisotropy_p"] <= 1
    dimension = evaluate.load("intrinsic_dimension").compute(representations=rows, null=True)
    assert {"intrinsic_dimension_p", "intrinsic_dimension_mle_p", "intrinsic_dimension_ball_null"} <= set(dimension)
    streamed = evaluate.load("anisotropy")
    streamed.add_batch(representations=rows)
    with pytest.raises(BadInput, match="folded into moments.*null=True"):
        streamed.compute(null=True)
    with pytest.raises(UnknownName, match="unknown null"):
        evaluate.load("anisotropy").compute(representations=rows, null="noise")
