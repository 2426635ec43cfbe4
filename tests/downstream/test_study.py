"""A study: every job runs once, crashes are recorded, interrupted studies resume, processes share jobs; its tables."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from hf_repgeo import BadInput
from hf_repgeo.downstream import StudySettings, perturb, study
from hf_repgeo.downstream.finetune import FinetuneSettings
from hf_repgeo.downstream.geometry import TokenizedTexts, drift, geometry_of, last_layer, text_means
from hf_repgeo.downstream.probes import own_task, probe_score, probe_task
from hf_repgeo.downstream.results import Result, ResultStore, tidy_rows, wide_rows
from hf_repgeo.errors import UnknownName

SETTINGS = StudySettings(
    alphas=(0.0, 0.2), runs=2, tasks=("geometry", "chunks"), measures=("anisotropy", "patchiness"), sequences=60
)


@pytest.fixture(scope="module")
def folder(encoder_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    study({"tiny": str(encoder_folder)}, out, SETTINGS, progress=False)
    return out


def table(folder) -> list[dict]:
    with (folder / "table.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_wide_table_has_a_row_a_model_and_a_column_a_measure_and_task(folder):
    rows = table(folder)
    assert [(row["alpha"], row["run"]) for row in rows] == [("0.0", "0"), ("0.2", "0"), ("0.2", "1")]
    assert all(float(row["patchiness"]) > 0 and 0 <= float(row["chunks"]) <= 1 for row in rows)
    assert {row["architecture"] for row in rows} == {"bert-2x32"} and rows[1]["seed"] != rows[2]["seed"]
    assert float(rows[0]["drift"]) == pytest.approx(0, abs=1e-6) and float(rows[1]["drift"]) > 0.01


def test_the_tidy_table_holds_the_same_numbers(folder):
    with (folder / "tidy.csv").open() as file:
        rows = list(csv.DictReader(file))
    wide = table(folder)[1]
    mine = {row["quantity"]: row["value"] for row in rows if row["alpha"] == "0.2" and row["run"] == "0"}
    assert mine["patchiness"] == wide["patchiness"] and mine["score"] == wide["chunks"]


def test_a_studys_numbers_are_those_of_a_model_perturbed_by_hand(folder, encoder, tokenizer):
    row = table(folder)[1]
    sample = json.loads((folder / "study.json").read_text())
    from hf_repgeo.downstream import sample_sequences

    texts = TokenizedTexts.of(sample_sequences(n=sample["sequences"]).sequences, tokenizer, encoder)
    with perturb(encoder, 0.2, int(row["seed"])):
        rows = last_layer(encoder, texts)
    assert geometry_of(rows, ["anisotropy"])["anisotropy"] == pytest.approx(float(row["anisotropy"]), rel=1e-5)


def test_the_same_call_again_does_nothing_and_an_interrupted_one_does_the_rest(folder, encoder_folder, monkeypatch):
    lines = (folder / "results-0.jsonl").read_text().splitlines()
    study({"tiny": str(encoder_folder)}, folder, SETTINGS, progress=False)
    assert (folder / "results-0.jsonl").read_text().splitlines() == lines
    (folder / "results-0.jsonl").write_text("\n".join([*lines[:-2], lines[-2][:40]]))  # cut while it was written
    study({"tiny": str(encoder_folder)}, folder, SETTINGS, progress=False)
    assert len(ResultStore(folder).done()) == len(lines)


def test_a_folder_of_another_study_is_refused(folder, encoder_folder):
    with pytest.raises(BadInput, match="a study with another runs: 2"):
        study({"tiny": str(encoder_folder)}, folder, replace(SETTINGS, runs=3), progress=False)


def test_a_task_that_crashes_is_recorded_and_tried_again(tmp_path, encoder_folder, monkeypatch):
    import hf_repgeo.downstream.studies as module

    def crash(*given, **named):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(module, "geometry_of", crash)
        study({"tiny": str(encoder_folder)}, tmp_path, SETTINGS, progress=False)
    results = ResultStore(tmp_path).read()
    assert {r.error for r in results if r.task == "geometry"} == {"RuntimeError: out of memory"}
    assert all(r.error is None for r in results if r.task == "chunks")
    study({"tiny": str(encoder_folder)}, tmp_path, SETTINGS, progress=False)
    assert all(r.error is None for r in ResultStore(tmp_path).read())


def test_processes_of_a_launch_share_the_jobs_and_their_results_join(tmp_path, encoder_folder, monkeypatch):
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        study({"tiny": str(encoder_folder)}, tmp_path, SETTINGS, progress=False)
    parts = [len((tmp_path / f"results-{rank}.jsonl").read_text().splitlines()) for rank in range(2)]
    assert parts == [4, 2] and len(table(tmp_path)) == 3
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    study({"tiny": str(encoder_folder)}, tmp_path / "alone", SETTINGS, progress=False)
    for name in ("table.csv", "tidy.csv"):
        assert (tmp_path / name).read_text() == (tmp_path / "alone" / name).read_text()


def test_glue_tasks_are_fine_tuned_from_the_perturbed_model(tmp_path, encoder_folder):
    for split in ("train", "dev"):
        (tmp_path / "RTE").mkdir(exist_ok=True)
        rows = [
            f"{i}\tthe {word} sees\ta {word}\t{label}"
            for i, (word, label) in enumerate([("cat", "entailment"), ("dog", "not_entailment")] * 16)
        ]
        (tmp_path / "RTE" / f"{split}.tsv").write_text("\n".join(["index\tsentence1\tsentence2\tlabel", *rows]) + "\n")
    finetuning = FinetuneSettings(learning_rate=3e-3, epochs=6, batch_size=8, device_batch_size=8)
    settings = StudySettings((0.0,), 1, tasks=("rte", "frozen_rte"), data=str(tmp_path), finetuning=finetuning)
    study({"tiny": str(encoder_folder)}, tmp_path / "out", settings, progress=False)
    (row,) = table(tmp_path / "out")
    assert float(row["rte"]) > 0.9 and float(row["frozen_rte"]) > 0.9 and float(row["average"]) > 0.9


def test_fine_tuning_on_our_own_sentences_splits_them_as_the_probes_do(tmp_path, encoder_folder):
    task, rows = own_task("tuned_frames")
    probe = probe_task("frames")
    texts = np.array(probe.texts)[probe.columns[0]]
    assert (
        rows["dev"].texts[0] == texts[probe.test].tolist()
        and rows["train"].labels == probe.labels[~probe.test].tolist()
    )
    assert not set(rows["train"].texts[0]) & set(rows["dev"].texts[0]) and len(task.classes) == 8
    finetuning = FinetuneSettings(learning_rate=3e-3, steps=3)
    settings = StudySettings((0.0,), 2, tasks=("tuned_chunks",), finetuning=finetuning)
    study({"tiny": str(encoder_folder)}, tmp_path, settings, progress=False)
    first, second = table(tmp_path)  # dose 0 twice: fine-tuning has seeds of its own
    assert 0 <= float(first["tuned_chunks"]) <= 1 and first["loss_tuned_chunks"] != second["loss_tuned_chunks"]


def test_data_that_is_missing_ends_the_study_before_it_begins(tmp_path, encoder_folder):
    with pytest.raises(BadInput, match="RTE/train.tsv', which is not a file"):
        study([str(encoder_folder)], tmp_path / "out", StudySettings(tasks=("rte",), data=str(tmp_path)))


@pytest.mark.parametrize(
    "settings, error, message",
    [
        ({"tasks": ("qnl",)}, UnknownName, "Did you mean 'qnli'"),
        ({"alphas": (0.1, 2.0)}, BadInput, "Write 0.02"),
        ({"runs": 0}, BadInput, "at least one of each"),
        ({"how": "nose"}, UnknownName, "Did you mean 'noise'"),
    ],
)
def test_impossible_settings_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        StudySettings(**settings)


def test_doses_and_runs_have_seeds_of_their_own_that_do_not_depend_on_the_grid():
    seeds = {(run, r.alpha): r.seed for run, r in StudySettings(alphas=(0.1, 0.2), runs=3).recipes()}
    fewer = {(run, r.alpha): r.seed for run, r in StudySettings(alphas=(0.2,), runs=2).recipes()}
    assert len(set(seeds.values())) == 6 and fewer.items() <= seeds.items()


# --- tables ----------------------------------------------------------------------------------------------------------


def result(task: str, value: float | None, run: int = 0) -> Result:
    return Result("m", "a", "noise", 0.1, run, 7, task, {} if value is None else {"score": value, "loss": 1.0})


def test_averages_need_every_task():
    from hf_repgeo.downstream.glue_files import TASKS

    complete = [result(task, 0.8 if task != "wnli" else 0.4) for task in TASKS]
    missing = [result(task, 0.8, run=1) for task in TASKS if task != "cola"]
    first, second = wide_rows(complete + missing)
    assert first["glue"] == pytest.approx(0.8) and first["glue_with_wnli"] == pytest.approx((6.4 + 0.4) / 9)
    assert second["glue"] is None and "average" not in second


def test_scores_of_fine_tuning_and_of_frozen_probes_are_averaged_apart_where_there_are_both():
    both = [
        result(task, value) for task, value in {"qnli": 0.9, "tuned_frames": 0.7, "frames": 0.5, "chunks": 0.3}.items()
    ]
    (row,) = wide_rows(both)
    assert (row["finetuned"], row["frozen"], row["average"]) == pytest.approx((0.8, 0.4, 0.6))
    (row,) = wide_rows(both[:2])
    assert row["average"] == pytest.approx(0.8) and "finetuned" not in row
    first, second = wide_rows([*both, result("frames", 0.5, run=1), result("chunks", 0.1, run=1)])
    assert second["frozen"] == pytest.approx(0.3) and not {"finetuned", "average"} & set(second)


def test_errors_stand_in_the_tidy_table():
    failed = replace(result("qnli", None), error="RuntimeError: no")
    assert [row["quantity"] for row in tidy_rows([failed])] == ["error: RuntimeError: no"]


# --- what is measured ------------------------------------------------------------------------------------------------


def test_rows_come_back_in_the_order_of_the_texts_whatever_their_length(encoder, tokenizer):
    texts = ["the cat", "a dog sees the old house near the river", "green"]
    together = TokenizedTexts.of(texts, tokenizer, encoder)
    means = text_means(last_layer(encoder, together), together)
    for text, mean in zip(texts, means):
        alone = TokenizedTexts.of([text], tokenizer, encoder)
        assert torch.allclose(last_layer(encoder, alone).mean(0), mean, atol=1e-5)


@pytest.mark.parametrize("fixture", ["encoder", "decoder"])
def test_the_last_layer_is_transformers_own_final_norm_included(fixture, request, tokenizer):
    model = request.getfixturevalue(fixture)
    texts = TokenizedTexts.of(["the cat sees a dog"], tokenizer, model)
    with torch.no_grad():
        expected = model(torch.tensor(texts.windows.ids)).last_hidden_state[0]
    assert torch.allclose(last_layer(model, texts), expected, atol=1e-5)


def test_several_quantizers_stand_side_by_side(generator):
    rows = torch.randn(600, 8, generator=generator)
    found = geometry_of(rows, ["patchiness", "anisotropy", "patchiness@residual"], bits=4)
    assert list(found) == ["patchiness", "anisotropy", "patchiness@residual"]
    assert found["patchiness"] != found["patchiness@residual"]
    with pytest.raises(UnknownName, match="residual"):
        geometry_of(rows, ["patchiness@residul"])


def test_drift_is_zero_for_the_same_rows_and_two_for_opposite_ones(generator):
    rows = torch.randn(50, 8, generator=generator)
    assert drift(rows, 3 * rows) == pytest.approx(0, abs=1e-6) and drift(-rows, rows) == pytest.approx(2)


def test_probes_have_no_lexicon_row_on_both_sides_and_read_what_is_there():
    task = probe_task("chunks")
    onehot = torch.eye(14)[torch.from_numpy(task.labels)] + 0.01 * torch.randn(
        len(task.labels), 14, generator=torch.Generator().manual_seed(0)
    )
    assert probe_score(onehot, task)["score"] == 1.0
    texts = np.array(task.texts)[task.columns[0]]
    assert not set(texts[task.test]) & set(texts[~task.test])
    noise = torch.randn(len(task.texts), 14, generator=torch.Generator().manual_seed(0))
    assert probe_score(noise, task)["score"] < 0.25
    with pytest.raises(UnknownName, match="frozen_qnli"):
        probe_task("frozen_qnl")


def test_a_job_that_failed_after_it_was_done_stays_done_and_damaged_lines_are_left_out(tmp_path):
    store = ResultStore(tmp_path, {"models": {}})
    done = Result("m", "a", "noise", 0.1, 0, 0, "cola", {"score": 0.5})
    store.append(done)
    store.append(replace(done, values={}, error="RuntimeError: later"))
    store.append(replace(done, task="sst2", values={"loss": 1.0}))
    with store.path.open("ab") as file:
        file.write(b'[1]\n{"model": 1}\n\xff\n' + b"[" * 5000 + b"\n" + store.path.read_bytes()[:40])
    assert [result.error for result in store.read()] == [None, None] and len(store.done()) == 2
    store.write_tables()
    [row] = table(tmp_path)
    assert float(row["cola"]) == 0.5 and "sst2" not in row
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(BadInput, match="study.json.*wanted JSON"):
        ResultStore(tmp_path, {"models": {}})


def test_texts_without_a_token_are_refused(encoder, plain_tokenizer):
    with pytest.raises(BadInput, match="`texts`: got 2 texts without a token"):
        TokenizedTexts.of(["", ""], plain_tokenizer, encoder)
