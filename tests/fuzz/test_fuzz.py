"""Whatever comes in, what comes out is an answer or a documented error: never another exception, a NaN or a hang.

2,000 cases, the same in every run; `HF_REPGEO_FUZZ_CASES=100000` tries as many new ones.
"""

import io
import json
import math
import os
import resource
import shutil
import signal
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hf_repgeo
from hf_repgeo.blm.lexicon import load_lexicon
from hf_repgeo.blm.loaders import load_fragments, load_genbench, load_matrices, load_sequences
from hf_repgeo.cli.main import main
from hf_repgeo.decisions import Centred, read_groups, read_pairs
from hf_repgeo.decisions.checkpoint import _losses
from hf_repgeo.decisions.embeddings import sentence_pooling
from hf_repgeo.downstream import expect_score, sample_sequences, select_encoder
from hf_repgeo.downstream.glue_files import read_rows, task_of
from hf_repgeo.downstream.results import ResultStore
from hf_repgeo.downstream.tables import read_scores
from hf_repgeo.errors import RepgeoError
from hf_repgeo.hub.cards import update_card
from hf_repgeo.localization.own_sentences import read_sentences
from hf_repgeo.measures import MEASURES
from hf_repgeo.measures.pairs import COMPARISONS, CloudPair, evaluate_pair
from hf_repgeo.report import GeometryReport
from hf_repgeo.rows.texts import corpus_of
from hf_repgeo.rows.yaml_text import read_yaml
from hf_repgeo.sweeps import _of_list

CASES = int(os.environ.get("HF_REPGEO_FUZZ_CASES", "2000"))
PATIENCE = 120  # seconds for one case, on a busy machine
MOST_MEMORY = 2**20  # KiB that one kind of input may add to the process

# --- values ---------------------------------------------------------------------------------------------------------

FINITE = st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.one_of(st.none(), st.booleans(), st.integers(-3, 20), st.integers(), st.floats(), st.text(max_size=8))
NUMPY_TYPES = [
    "?",
    "i1",
    "u1",
    "i2",
    "u2",
    "i4",
    "u4",
    "i8",
    "u8",
    "f2",
    "f4",
    "f8",
    ">f4",
    "g",
    "c8",
    "O",
    "U3",
    "M8[s]",
]
TORCH_TYPES = [
    "float64",
    "float32",
    "bfloat16",
    "float16",
    "float8_e4m3fn",
    "float8_e5m2",
    "int64",
    "uint16",
    "uint64",
    "bool",
    "complex64",
]
SPECIAL = [0.0, -0.0, 1.0, -1.0, 1e-300, 1e-30, 1e30, 1e164, 1e300, math.nan, math.inf, 5e-324, 65504.0]


@st.composite
def matrices(draw) -> np.ndarray:
    """Mostly matrices that can be measured, with traps in them."""
    n, d = draw(st.integers(0, 40)), draw(st.integers(0, 9))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    X = generator.normal(size=(n, d)) * 10.0 ** draw(st.sampled_from([0, 0, 0, -5, 5, -160, 150]))
    for _ in range(draw(st.integers(0, 3)) if X.size else 0):
        kind = draw(st.sampled_from(["copy", "column", "value", "offset", "scale"]))
        row, column = draw(st.integers(0, n - 1)), draw(st.integers(0, d - 1))
        if kind == "copy":
            X[draw(st.integers(0, n - 1))] = X[row]
        elif kind == "column":
            X[:, column] = draw(st.sampled_from(SPECIAL[:4]))
        elif kind == "value":
            X[row, column] = draw(st.sampled_from(SPECIAL))
        elif kind == "offset":
            X += draw(st.sampled_from([1.0, 1e3, 1e8]))
        else:
            X[row] *= draw(st.sampled_from([0.0, 1e-20, 1e20, 1e164]))
    return X


def as_type(X: np.ndarray, kind: str):
    with np.errstate(all="ignore"):
        if kind in TORCH_TYPES:
            return torch.from_numpy(X).to(getattr(torch, kind))
        if kind == "M8[s]":
            return np.zeros(X.shape, kind)
        return X.astype(kind)


@st.composite
def arrays(draw):
    """Matrices of many types and layouts, and arrays of other shapes."""
    X = draw(matrices())
    with np.errstate(all="ignore"):
        X = as_type(X, draw(st.sampled_from(["f8", "f4", "float32", "f8", *NUMPY_TYPES, *TORCH_TYPES])))
    layout = draw(
        st.sampled_from(["plain"] * 6 + ["reversed", "transposed", "3d", "1d", "masked", "sparse", "meta", "list"])
    )
    if isinstance(X, torch.Tensor):
        ways = {"3d": X[None], "1d": X.reshape(-1), "transposed": X.T, "meta": X.to("meta")}
        if layout == "sparse" and X.dtype == torch.float32:
            return X.to_sparse()
        return ways.get(layout, X)
    ways = {"3d": X[None], "1d": X.reshape(-1), "transposed": X.T, "reversed": X[::-1, ::-1], "list": X.tolist()}
    if layout == "masked" and X.dtype.kind == "f":
        return np.ma.masked_invalid(X)
    return ways.get(layout, X)


NESTED = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
)
NAMES = st.sampled_from([*MEASURES, "", "no such", "intrinsic_dimension:mle", "patchiness:marbut", "all", ":"])
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "groups": st.lists(st.integers(0, 5), max_size=40) | PLAIN,
        "seed": PLAIN,
        "interval": st.sampled_from([None] * 9 + [0.9, -1, True, "a", math.nan]),
        "max_rows": PLAIN,
        "null": st.sampled_from([False] * 12 + [True, "gaussian", "x", 3]),
        "k": PLAIN,
        "n1": PLAIN,
        "n2": PLAIN,
        "bits": st.integers(-1, 6) | st.text(max_size=2),
        "codebooks": st.integers(-1, 6) | PLAIN,
        "quantizer": st.sampled_from(["product", "residual", "nothing", 3]),
    },
)
SOME = st.one_of(NAMES, NAMES, NAMES, st.lists(NAMES, max_size=3), PLAIN)


# --- what is tried --------------------------------------------------------------------------------------------------


def check_report(report: GeometryReport) -> None:
    """A report holds finite numbers in range, and comes back from JSON."""
    for row in report:
        ends, value = MEASURES[row["measure"]].range, row["value"]
        low, high = (default if end is None else end for end, default in zip(ends, (-math.inf, math.inf)))
        assert value is None or (math.isfinite(value) and low - 1e-6 <= value <= high + 1e-6), row
        assert value is not None or row["warnings"], row
    json.dumps(report.as_dict(), allow_nan=False)
    assert repr(report)


def try_measure(case, folder) -> None:
    X, names, options = case
    check_report(hf_repgeo.measure(X, names, **options))


def try_one_measure(case, folder) -> None:
    X, name = case
    check_report(hf_repgeo.measure(X, name))


def try_pair(case, folder) -> None:
    X, Y, name = case
    for estimate in evaluate_pair(CloudPair(X, Y), [(name, COMPARISONS[name].conventions[0])]):
        assert estimate.value is None or math.isfinite(estimate.value)


def try_file(case, folder) -> None:
    kind, content = case
    path = folder / f"file{kind}"
    path.write_bytes(content)
    if kind in (".npy", ".safetensors", ".parquet"):
        hf_repgeo.measure(path, "participation_ratio")
    elif kind == ".yaml":
        from hf_repgeo.cli.sweep import read_recipe

        read_recipe(path)
    elif kind == ".report":
        GeometryReport.from_json(path)
    else:
        corpus_of(path)


def try_small_file(case, folder) -> None:
    kind, content = case
    reader, name = SMALL_FILES[kind]
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    reader(path)


def try_saved(case, folder) -> None:
    """A matrix of any type through a file gives what the matrix gives, or is refused as that is."""
    path = folder / "saved.npy"
    np.save(path, np.asarray(case), allow_pickle=False)
    hf_repgeo.measure(path, ["anisotropy", "mean_cosine"], max_rows=7)


def try_report(case, folder) -> None:
    path = folder / "report.json"
    path.write_text(json.dumps(case))
    report = GeometryReport.from_json(path)
    repr(report)
    report.to_parquet(folder / "report.parquet")


def try_texts(case, folder) -> None:
    texts, clean, column = case
    corpus = corpus_of(texts, clean, column)
    assert corpus.fingerprint() and all(corpus.texts(None) for _ in "a")


def try_card(case, folder) -> None:
    readme, name = case
    report = GeometryReport(provenance={"model": name, "commit": "a" * 40})
    report.add(measure="anisotropy", convention=name, value=0.5, protocol="whole", n=3)
    update_card(readme, report, repo_id="me/model", path="repgeo/x.json", url="http://127.0.0.1/")


def try_yaml(case, folder) -> None:
    try:
        read_yaml(case)
    except ValueError:
        pass


def try_command(case, folder) -> None:
    """Exit codes are 0, 1 or 2; `argparse` ends with 2."""
    np.save(folder / "x.npy", np.eye(5))
    words = [str(folder / "x.npy") if word == "FILE" else word for word in case]
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as said:
        try:
            status = main(words)
        except SystemExit as end:
            status = end.code
    assert status in (0, 1, 2) and "Traceback" not in said.getvalue()


ROW = {"layer": 0, "stack": "encoder", "point": None, "tokens": "all", "measure": "anisotropy", "convention": "x"}
ROW |= {"protocol": "whole", "value": 0.5, "sd": None, "se": 0.1, "se_method": None, "n": 4, "n_distinct": 4}
ROW |= {"n_per_batch": 4, "n_batches": 1, "warnings": [], "details": {}}
DETAILS = st.dictionaries(st.sampled_from(["step", "low", "high", "null", "null_low", "null_high", "p"]), NESTED)
CHANGES = st.dictionaries(st.sampled_from([*ROW]), NESTED, max_size=3)
WITH_DETAILS = st.builds(lambda changed, details: changed | {"details": details}, CHANGES, DETAILS)
ROWS = (CHANGES | WITH_DETAILS).map(lambda changed: ROW | changed)
REPORTS = st.fixed_dictionaries(
    {"format": st.just(2) | PLAIN, "provenance": st.just({}) | NESTED, "rows": st.lists(ROWS, max_size=3) | NESTED}
)
FRONT = st.text("ab:-[]{}&*!#'\"\n >|%@0123456789.", max_size=60)
KINDS = [".npy", ".safetensors", ".parquet", ".yaml", ".report", ".txt", ".json", ".jsonl"]
STARTS = [
    b"",
    b"\x93NUMPY\x01\x00v\x00",
    b"\x08\x00\x00\x00\x00\x00\x00\x00",
    b"PAR1",
    b"{",
    b"[",
    b'{"text": ',
    b"a: ",
]
CONTENT = st.builds(lambda start, rest: start + rest, st.sampled_from(STARTS), st.binary(max_size=200))


def with_its_siblings(path):
    """The folder of `x.json`, with the other files of its layout: copies."""
    for name in ("y.json", "truth_bool.json", "x_templates.json"):
        shutil.copy(path, path.with_name(name))
    return path.parent


STUDY = {"models": {"tiny": "x"}}
SMALL_FILES = {  # reader, and the name of the file that it reads
    "pairs.csv": (read_pairs, "pairs.csv"),
    "pairs.tsv": (read_pairs, "pairs.tsv"),
    "pairs.jsonl": (read_pairs, "pairs.jsonl"),
    "groups": (read_groups, "groups.csv"),
    "labels": (lambda path: read_groups(["a", "b", "c"], path), "labels.txt"),
    "losses": (lambda path: _losses(path.parent), "trainer_state.json"),
    "pooling": (lambda path: sentence_pooling(str(path.parents[1])), "1_Pooling/config.json"),
    "sentences.csv": (read_sentences, "sentences.csv"),
    "sentences.jsonl": (read_sentences, "sentences.jsonl"),
    "sentences.json": (read_sentences, "sentences.json"),
    "corpora": (lambda path: sample_sequences([path], 1), "lines.txt"),
    "probe": (lambda path: select_encoder({"a": "nowhere"}, path), "probe.csv"),
    "scores": (lambda path: read_scores(path, "score"), "scores.csv"),
    "study": (lambda path: expect_score("nowhere", path.with_name("table.csv")), "table.json"),
    "settings": (lambda path: ResultStore(path.parent, STUDY), "study.json"),
    "results": (lambda path: ResultStore(path.parent).write_tables(), "results-0.jsonl"),
    "models": (_of_list, "models.txt"),
    "matrices": (load_matrices, "matrices.csv"),
    "matrices of JSON": (lambda path: load_matrices(with_its_siblings(path)), "x.json"),
    "genbench": (load_genbench, "genbench.jsonl"),
    "lexicon": (load_lexicon, "lexicon.csv"),
    "repair": (lambda path: Centred.load(str(path.parent)), "model.safetensors"),
    "sequences": (load_sequences, "sequences.csv"),
    "fragments": (load_fragments, "fragments.csv"),
    "GLUE": (lambda path: read_rows(task_of("cola"), path), "cola.tsv"),
}
RESULT = {"model": "m", "architecture": "a", "how": "noise", "alpha": 0.1, "run": 0, "seed": 0, "task": "geometry"}
KEYS = ["text", "query", "document", "label", "group", "log_history", "pooling_mode", "values", "measures"]
OBJECTS = st.dictionaries(st.sampled_from(KEYS), NESTED, max_size=4)
OBJECTS |= st.dictionaries(st.sampled_from([*RESULT, "values", "error"]), NESTED, max_size=2).map(RESULT.__or__)
HEADERS = ["query,document", "query\tdocument", "text,group", "text,label", "model,score,a", "np-s vp-s;a", ""]
LINES = [b"a,b\n", b"a\tb\n", b'"a\n', b"\xe9,\xe9\n", "a\u2028b,c\n".encode(), b"\r", b"\n", b"0"]
LISTS = st.lists(st.sampled_from(LINES), max_size=40).map(b"".join)
SMALL = CONTENT | OBJECTS.map(lambda found: json.dumps(found).encode())
SMALL |= st.builds(lambda head, lines: f"{head}\n".encode() + lines, st.sampled_from(HEADERS), LISTS)
WORDS = [
    "measure",
    "report",
    "show",
    "verify",
    "compare",
    "plot",
    "measures",
    "FILE",
    "--seed",
    "--measures",
    "anisotropy",
    "--max-rows",
    "3",
    "-1",
    "--json",
    "--null",
    "--out",
    "/",
    "nowhere/x.json",
    "--column",
    "x",
    "",
    "1e9",
]

TARGETS = {
    "measure": (st.tuples(arrays(), SOME, OPTIONS), try_measure, 4),
    "one measure": (st.tuples(matrices(), st.sampled_from([*MEASURES])), try_one_measure, 5),
    "pairs": (st.tuples(arrays(), arrays(), st.sampled_from([*COMPARISONS])), try_pair, 3),
    "files": (st.tuples(st.sampled_from(KINDS), CONTENT), try_file, 3),
    "small files": (st.tuples(st.sampled_from([*SMALL_FILES]), SMALL), try_small_file, 3),
    "saved": (arrays().filter(lambda X: isinstance(X, np.ndarray) and X.dtype != object), try_saved, 1),
    "reports": (REPORTS, try_report, 2),
    "texts": (
        st.tuples(
            NESTED | st.lists(st.text(min_size=1)) | st.lists(NESTED),
            st.sampled_from(["none", "wikitext"]) | PLAIN,
            PLAIN,
        ),
        try_texts,
        1,
    ),
    "cards": (st.tuples(FRONT | FRONT.map(lambda front: f"---\n{front}\n---\n"), st.text(max_size=12)), try_card, 1),
    "yaml": (FRONT | st.text(max_size=40), try_yaml, 1),
    "commands": (st.lists(st.sampled_from(WORDS), max_size=6), try_command, 1),
}


@contextmanager
def limited():
    """Ends a case that takes too long."""

    def stop(*_):
        raise AssertionError(f"no end after {PATIENCE} s")

    earlier = signal.signal(signal.SIGALRM, stop)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, earlier)


@pytest.mark.filterwarnings("ignore")  # of numpy and torch about the values we choose
@pytest.mark.parametrize("name", TARGETS)
def test_whatever_comes_in_is_answered_or_refused_in_words(name, tmp_path, monkeypatch):
    cases, attempt, share = TARGETS[name]
    whole = sum(weight for *_, weight in TARGETS.values())
    monkeypatch.chdir(tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @settings(
        max_examples=max(20, CASES * share // whole),
        deadline=None,
        database=None,
        derandomize="HF_REPGEO_FUZZ_CASES" not in os.environ,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def check(case):
        with limited():
            try:
                attempt(case, tmp_path)
                answered.append(True)
            except RepgeoError as error:
                assert str(error) and "\n" not in str(error).strip()

    answered = []
    check()
    assert answered  # not everything is refused
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MEMORY
