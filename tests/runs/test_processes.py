"""Several processes that share a profile or a file: the numbers of one process, and a clear end if one is lost."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import hf_repgeo
from hf_repgeo import profiling
from hf_repgeo.measures.kernels.neighbors import nearest, nearest_of
from hf_repgeo.report import GeometryReport
from hf_repgeo.rows.processes import Team, current_team, interleaved, working_together

MEASURES = ["anisotropy", "effective_rank", "mean_cosine", "intrinsic_dimension", "patchiness"]


def start(rank: int, count: int, folder: Path, work: str) -> subprocess.Popen:
    """Runs a function of this module as one of several gloo processes; they meet at the port in the folder."""
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": (folder / "port").read_text()}
    here = os.pathsep.join([*map(str, Path(__file__).parents[:2]), str(Path(__file__).parents[2])])
    code = f"import sys, test_processes; test_processes.run(test_processes.{work}, sys.argv[1])"
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        env=os.environ
        | common
        | {"RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": here, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


def in_processes(work: str, folder: Path, count: int = 2) -> list[tuple[int, str]]:
    """Exit status and error output of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        (folder / "port").write_text(str(free.getsockname()[1]))
    processes = [start(rank, count, folder, work) for rank in range(count)]
    try:
        return [(process.wait(timeout=300), process.stderr.read()) for process in processes]
    finally:
        for process in processes:
            process.kill()


def run(work, folder: str) -> None:
    try:
        with working_together() as team:
            work(Path(folder), team)
        status = 0
    except hf_repgeo.errors.RepgeoError as error:
        print(error, file=sys.stderr)
        status = 2
    sys.stderr.flush()
    os._exit(status)  # the work is written down; threads of the libraries may abort an orderly exit


# --- what the processes do ------------------------------------------------------------------------------------------


def everything(folder: Path, team: Team) -> None:
    measured(folder, team)
    second_is_lost(folder, team)


def measured(folder: Path, team: Team) -> None:
    reports = all_reports(folder)
    if team.first:
        for name, report in reports.items():
            report.to_json(folder / f"{name}.json")
    else:
        (folder / f"lengths-{team.rank}").write_text(json.dumps([len(report) for report in reports.values()]))


def all_reports(folder: Path) -> dict[str, GeometryReport]:
    options = {"measures": MEASURES, "rows": 300, "batch_rows": 150, "batch_size": 3, "progress": False}
    few = {"measures": MEASURES, "max_rows": 700, "seed": 3}
    return {
        "profile": hf_repgeo.profile(folder / "model", read_documents(folder), **options, out=folder / "out"),
        "pooled": hf_repgeo.profile(folder / "model", read_documents(folder), **options, pooling="mean"),
        "corpus": hf_repgeo.profile(
            folder / "model", read_documents(folder), **options | {"rows": "all", "window": 16}
        ),
        "npy": hf_repgeo.measure(folder / "x.npy", **few),
        "parquet": hf_repgeo.measure(folder / "x.parquet", **few, groups=np.arange(9000) // 40),
        "whole": hf_repgeo.measure(folder / "x.npy", MEASURES, null=True),
    }


def read_documents(folder: Path) -> list[str]:
    return json.loads((folder / "documents.json").read_text())


def second_is_lost(folder: Path, team: Team) -> None:
    """The second process ends, as if it were killed, while it measures the last of three places."""
    if team.rank == 1:
        kept, seen = profiling.BatchMeans.measure, []

        def measure(*arguments):
            seen.append(0)
            return kept(*arguments) if len(seen) < 2 else os._exit(9)

        profiling.BatchMeans.measure = measure
    options = {"measures": ["anisotropy"], "rows": 100, "batch_rows": 50, "progress": False, "final_norm": "raw"}
    texts = read_documents(folder)
    hf_repgeo.profile(folder / "deep", texts, **options, layers=[0, 1, 2, 3], out=folder / "lost")


# --- tests ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(encoder, tokenizer, documents, tmp_path_factory):
    return filled(tmp_path_factory.mktemp("shared"), encoder, tokenizer, documents)


def filled(folder: Path, encoder, tokenizer, documents) -> Path:
    import pyarrow as pa
    import pyarrow.parquet
    from tiny import SIZES, seeded
    from transformers import BertConfig, BertModel

    documents = documents * 4  # more windows than one chunk holds
    deep = seeded(BertModel, BertConfig(**SIZES | {"num_hidden_layers": 3}, max_position_embeddings=64))
    for name, model in (("model", encoder), ("deep", deep)):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    (folder / "documents.json").write_text(json.dumps(documents))
    X = np.random.default_rng(0).normal(size=(9000, 40)).astype(np.float32) * np.arange(1, 41) ** -0.5 + 1
    np.save(folder / "x.npy", X)
    pyarrow.parquet.write_table(pa.table({"x": list(X)}), folder / "x.parquet", row_group_size=3000)
    return folder


@pytest.fixture(scope="module")
def ends(folder):
    return in_processes("everything", folder)


def test_two_processes_give_the_numbers_of_one(folder, ends):
    check_the_numbers_of_one(folder, 2, ends)


@pytest.mark.slow
def test_four_processes_give_the_numbers_of_one(encoder, tokenizer, documents, tmp_path):
    filled(tmp_path, encoder, tokenizer, documents)
    ends = in_processes("measured", tmp_path, 4)
    assert [status for status, _ in ends] == [0] * 4, ends
    check_the_numbers_of_one(tmp_path, 4, ends)


def check_the_numbers_of_one(folder: Path, count: int, ends: list) -> None:
    assert (folder / "whole.json").exists(), ends
    shared = {path.stem: GeometryReport.from_json(path) for path in folder.glob("*.json") if path.stem != "documents"}
    alone = {name: report for name, report in all_reports(folder).items()}
    for rank in range(1, count):
        lengths = json.loads((folder / f"lengths-{rank}").read_text())
        assert lengths == [len(report) for report in alone.values()]
    for name, report in alone.items():
        assert len(shared[name]) == len(report) > 0
        for one, two in zip(report, shared[name], strict=True):
            assert {c: one[c] for c in one if c not in NUMBERS} == {c: two[c] for c in two if c not in NUMBERS}
            exact = one["measure"] in ("intrinsic_dimension", "patchiness") or name in ("profile", "pooled")
            for column in NUMBERS[:2]:
                wanted = one[column] if exact or one[column] is None else pytest.approx(one[column], rel=1e-10)
                assert two[column] == wanted, (name, one["measure"], column)
    assert GeometryReport.from_json(folder / "out" / "profile.json").rows == shared["profile"].rows
    assert shared["profile"].provenance["processes"] == count


NUMBERS = ["value", "se", "sd", "details"]


def test_a_process_that_dies_ends_the_run_in_words_and_finished_layers_are_on_disk(folder, ends):
    (first, said), (second, _) = ends
    assert second == 9 and first == 2
    assert "another process of this run ended before its work was done" in said and "on disk" in said
    kept = GeometryReport.from_json(folder / "lost" / "profile.json")
    assert kept.unique("layer") == [0, 1] and "finished" not in kept.provenance


def test_neighbours_of_some_rows_are_those_of_the_whole_search(generator):
    rows = torch.randn(1500, 20, generator=generator)
    which = torch.arange(1, 1500, 3)
    whole, part = nearest(rows), nearest_of(rows, which)
    assert torch.equal(part.distances, whole.distances[which]) and torch.equal(part.indices, whole.indices[which])


def test_a_team_of_one_process_keeps_everything():
    with working_together() as team:
        assert team == current_team() == Team() and team.first
    assert Team().all_gather(1) == [1] == Team().gather(1, to=0) and Team().from_first(2) == 2
    items = list(range(7))
    assert interleaved([Team(rank, 3).share(items) for rank in range(3)]) == items


def test_commands_that_cannot_be_shared_say_so(monkeypatch, capsys):
    from hf_repgeo.cli import main

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(os, "_exit", lambda status: status)
    assert main(["measures"]) == 2
    assert "this command runs in one process" in capsys.readouterr().err
