"""GLUE: the nine layouts, errors that name file and line, scores against scikit-learn and scipy, and fine-tuning."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import f1_score, matthews_corrcoef

from hf_repgeo import BadInput
from hf_repgeo.downstream.finetune import FinetuneSettings, classifier, finetune
from hf_repgeo.downstream.glue_files import TASKS, Rows, glue_average, load_task, task_of
from hf_repgeo.downstream.perturbation import Perturbation
from hf_repgeo.errors import UnknownName

# Header and one row of every file as the benchmark's archives have them; the texts are ours.
LAYOUTS = {
    "CoLA": (None, "ab12\t1\t\tThe cat sees the dog.", (["The cat sees the dog."],), 1),
    "SST-2": ("sentence\tlabel", "a fine film \t1", (["a fine film "],), 1),
    "MRPC": (
        "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        '0\t7\t8\tHe said "no.\tShe left.',
        (['He said "no.'], ["She left."]),
        0,
    ),
    "QQP": ("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "0\t1\t2\tWhy?\tHow?\t1", (["Why?"], ["How?"]), 1),
    "STS-B": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        "0\tmain\tx\t2012\t1\tnone\tnone\tA plane.\tAn aeroplane.\t4.6",
        (["A plane."], ["An aeroplane."]),
        4.6,
    ),
    "MNLI": (
        "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t"
        "sentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label",
        "0\t1\t1n\tfiction\t( a )\t( b )\t(A)\t(B)\tIt rains.\tIt is wet.\tneutral\tneutral",
        (["It rains."], ["It is wet."]),
        1,
    ),
    "QNLI": ("index\tquestion\tsentence\tlabel", "0\tWho?\tHe did.\tnot_entailment", (["Who?"], ["He did."]), 1),
    "RTE": ("index\tsentence1\tsentence2\tlabel", "0\tIt is so.\tIt is.\tentailment", (["It is so."], ["It is."]), 0),
    "WNLI": ("index\tsentence1\tsentence2\tlabel", "0\tIt broke.\tIt is new.\t0", (["It broke."], ["It is new."]), 0),
}


def write(folder, task: str, header: str | None, rows: list[str]) -> None:
    (folder / task).mkdir(parents=True, exist_ok=True)
    for split in ("train", task_of(task).dev):
        (folder / task / f"{split}.tsv").write_text("\n".join([*([header] if header else []), *rows]) + "\n")


@pytest.mark.parametrize("folder", LAYOUTS)
def test_every_tasks_layout_is_read(tmp_path, folder):
    header, row, texts, label = LAYOUTS[folder]
    write(tmp_path, folder, header, [row])
    parts = load_task(task_of(folder).name, tmp_path)
    assert parts["train"] == parts["dev"] == Rows(texts, [label])
    assert load_task(folder, tmp_path / folder) == parts  # the task's own folder is accepted too


def test_all_nine_tasks_are_known_by_either_name():
    assert {task_of(folder).name for folder in LAYOUTS} == set(TASKS)
    with pytest.raises(UnknownName, match="cola, sst2, mrpc"):
        task_of("squad")


@pytest.mark.parametrize(
    "rows, message",
    [
        (["0\tWho?\tHe did.\tmaybe"], r"train.tsv, line 2, label 'maybe'; wanted one of entailment, not_entailment"),
        (["0\tWho?\tHe did.\tentailment", "1\tWhat?"], r"train.tsv, line 3, with 2 column\(s\); wanted at least 4"),
        ([], r"train.tsv without a row"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, rows, message):
    write(tmp_path, "QNLI", LAYOUTS["QNLI"][0], rows)
    with pytest.raises(BadInput, match=message):
        load_task("qnli", tmp_path)


def test_a_wrong_header_and_a_missing_file_are_named(tmp_path):
    write(tmp_path, "RTE", "index,sentence1,sentence2,label", ["0,a,b,entailment"])
    with pytest.raises(BadInput, match=r"train.tsv, line 1, without the column 'sentence1'"):
        load_task("rte", tmp_path)
    write(tmp_path, "MNLI", LAYOUTS["MNLI"][0], [LAYOUTS["MNLI"][1]])
    (tmp_path / "MNLI" / "dev_matched.tsv").unlink()
    with pytest.raises(BadInput, match=r"dev_matched.tsv', which is not a file; wanted MNLI/train.tsv and MNLI/dev_"):
        load_task("mnli", tmp_path)


def test_a_score_that_is_no_number_is_named(tmp_path):
    write(tmp_path, "STS-B", LAYOUTS["STS-B"][0], [LAYOUTS["STS-B"][1].replace("4.6", "nan")])
    with pytest.raises(BadInput, match="line 2, label 'nan'; wanted a finite number"):
        load_task("stsb", tmp_path)


def test_text_that_is_not_utf8_is_named_by_line(tmp_path):
    write(tmp_path, "SST-2", LAYOUTS["SST-2"][0], ["good\t1"])
    (tmp_path / "SST-2" / "train.tsv").write_bytes(b"sentence\tlabel\nbad \xff\t1\n")
    with pytest.raises(BadInput, match="line 2, not UTF-8 at byte 4"):
        load_task("sst2", tmp_path)


def test_a_few_broken_rows_of_qqp_are_left_out_and_many_are_refused(tmp_path):
    header, row, *_ = LAYOUTS["QQP"]
    write(tmp_path, "QQP", header, [row] * 2000 + ["12\t3", row])
    assert len(load_task("qqp", tmp_path)["train"]) == 2001
    write(tmp_path, "QQP", header, [row] * 20 + ["12\t3"])
    with pytest.raises(BadInput, match="line 22, with 2 column"):
        load_task("qqp", tmp_path)


# --- scores ----------------------------------------------------------------------------------------------------------


def test_scores_are_scikit_learns_and_scipys():
    rng = np.random.default_rng(0)
    predicted, labels = rng.integers(0, 2, 60), rng.integers(0, 2, 60)
    x, y = rng.normal(size=60).round(1), rng.normal(size=60).round(1)
    assert TASKS["cola"].score(predicted, labels) == pytest.approx(matthews_corrcoef(labels, predicted))
    both = (f1_score(labels, predicted) + np.mean(predicted == labels)) / 2
    assert TASKS["mrpc"].score(predicted, labels) == pytest.approx(both)
    both = (stats.pearsonr(x, y)[0] + stats.spearmanr(x, y)[0]) / 2
    assert TASKS["stsb"].score(x, y) == pytest.approx(both)


def test_constant_predictions_of_a_collapsed_model_score_zero_where_correlation_is_asked():
    labels = np.array([0, 1, 1, 0])
    assert TASKS["cola"].score(np.ones(4), labels) == TASKS["stsb"].score(np.ones(4), labels) == 0.0


def test_the_papers_average_leaves_wnli_out():
    scores = dict.fromkeys(TASKS, 0.8) | {"wnli": 0.35}
    assert glue_average(scores) == pytest.approx(0.8)
    assert glue_average(scores, wnli=True) == pytest.approx((8 * 0.8 + 0.35) / 9)
    assert glue_average({"cola": 0.5}) is None


# --- fine-tuning -----------------------------------------------------------------------------------------------------

ROWS = Rows((["the cat sees the dog", "a dog in the river"] * 32,), [0, 1] * 32)


def test_two_classes_that_differ_by_a_word_are_learnt(encoder_folder, tokenizer):
    settings = FinetuneSettings(learning_rate=3e-3, epochs=6, device_batch_size=16)
    found = finetune(str(encoder_folder), TASKS["sst2"], {"train": ROWS, "dev": ROWS.head(20)}, settings, tokenizer)
    assert found["score"] == 1.0 and found["loss"] < 0.5


def test_steps_count_updates_whatever_the_size_of_the_task(encoder_folder, tokenizer, monkeypatch):
    from transformers import Trainer

    counted, train = [], Trainer.train

    def recorded(trainer):
        found = train(trainer)
        counted.append(trainer.state.global_step)
        return found

    monkeypatch.setattr(Trainer, "train", recorded)
    for rows in (ROWS, ROWS.head(20)):
        finetune(str(encoder_folder), TASKS["sst2"], {"train": rows, "dev": rows}, FinetuneSettings(steps=5), tokenizer)
    assert counted == [5, 5]
    with pytest.raises(BadInput, match="1 or more"):
        FinetuneSettings(steps=0)


def test_a_run_is_repeated_exactly_and_the_global_generator_stays(encoder_folder, tokenizer):
    settings, rows = FinetuneSettings(epochs=1), {"train": ROWS, "dev": ROWS.head(20)}
    before = torch.random.get_rng_state()
    recipe = Perturbation(0.1, 3)
    runs = [
        finetune(str(encoder_folder), TASKS["sst2"], rows, settings, tokenizer, recipe=recipe, run=run)["loss"]
        for run in (0, 0, 1)
    ]
    assert runs[0] == runs[1] != runs[2] and torch.equal(before, torch.random.get_rng_state())


def test_regression_predicts_numbers(encoder_folder, tokenizer):
    rows = Rows((["the cat", "the dog"] * 16, ["a cat", "a house"] * 16), [5.0, 1.0] * 16)
    settings = FinetuneSettings(learning_rate=1e-2, epochs=8)
    found = finetune(str(encoder_folder), TASKS["stsb"], {"train": rows, "dev": rows}, settings, tokenizer)
    assert found["score"] > 0.9


def test_the_head_depends_on_the_seed_alone(encoder_folder):
    weights = [classifier(str(encoder_folder), TASKS["mnli"], seed, {}).classifier.weight for seed in (1, 1, 2)]
    assert weights[0].shape[0] == 3 and torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_a_device_batch_that_does_not_divide_the_batch_is_refused():
    with pytest.raises(BadInput, match="a divisor of the batch size, 32"):
        FinetuneSettings(device_batch_size=12)


def test_without_a_folder_the_task_comes_from_the_hub_or_the_way_out_is_named(monkeypatch):
    import datasets

    asked = []

    def load(name, task, split):
        asked.append((task, split))
        return {"premise": ["a"], "hypothesis": ["b"], "label": [1]}

    monkeypatch.setattr(datasets, "load_dataset", load)
    found = load_task("mnli")
    assert asked == [("mnli", "train"), ("mnli", "validation_matched")]
    assert found["dev"].texts == (["a"], ["b"]) and found["dev"].labels == [1]

    def unreachable(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(BadInput, match=r"\(ConnectionError: no network\).*Without a network, give a folder"):
        load_task("mnli")
