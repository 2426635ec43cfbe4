"""The callback measures every layer, reports everywhere it should, and leaves the training as it was."""

import json
import logging
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import SIZES, WORDS, make_tokenizer, seeded
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import hf_repgeo
from hf_repgeo.callbacks import GeometryCallback
from hf_repgeo.errors import BadInput, UnknownName
from hf_repgeo.measures import PointCloud, evaluate_all, resolve
from hf_repgeo.report import GeometryReport
from hf_repgeo.rows.forward import encoder_of, undisturbed
from hf_repgeo.training.fixed_sample import FixedSample
from hf_repgeo.training.log_values import flags
from hf_repgeo.training.schedule import Thinning, planned_steps

TEXTS = [" ".join(WORDS[(i * k + k) % len(WORDS)] for i in range(4 + k % 9)) for k in range(1, 41)]
CHEAP = {"measures": ["anisotropy", "effective_rank"], "budget": None, "log": "layers"}


def make_model(kind: str):
    if kind == "bert":
        dropout = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2}
        return seeded(BertForMaskedLM, BertConfig(**SIZES, **dropout, max_position_embeddings=64))
    dropout = {"resid_pdrop": 0.2, "embd_pdrop": 0.2, "attn_pdrop": 0.2}
    return seeded(GPT2LMHeadModel, GPT2Config(**dropout, vocab_size=24, n_embd=32, n_layer=2, n_head=2, n_positions=64))


def make_data(n: int = 24) -> list[dict]:
    ids = torch.randint(4, 24, (n, 10), generator=torch.Generator().manual_seed(3))
    return [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row} for row in ids]


def make_trainer(folder, model, kind=Trainer, callbacks=(), **arguments) -> Trainer:
    usual = {"per_device_train_batch_size": 2, "learning_rate": 1e-3, "logging_steps": 1, "save_strategy": "no"}
    usual |= {"max_steps": 6, "report_to": "none", "disable_tqdm": True, "use_cpu": True, "seed": 5}
    return kind(
        model,
        TrainingArguments(str(folder), **usual | arguments),
        train_dataset=make_data(),
        eval_dataset=make_data(4),
        processing_class=make_tokenizer(special=True),
        callbacks=list(callbacks),
    )


def trained(folder, *, callback=None, model=None, resume=None, kind=Trainer, **arguments) -> Trainer:
    """A trainer after its training."""
    trainer = make_trainer(folder, model or make_model("bert"), kind, **arguments)
    if callback is not None:
        callback.attach(trainer)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def everything(trainer: Trainer) -> dict:
    """All that a training leaves behind and a measurement must not change; to be taken right after it."""
    clock = ("runtime", "per_second")
    lines = [{k: v for k, v in line.items() if not k.endswith(clock)} for line in trainer.state.log_history]
    return {
        "generators": [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()],
        "log": [line for line in lines if not any("geometry/" in key for key in line)],
        "weights": {name: p.tolist() for name, p in trainer.model.state_dict().items()},
    }


def geometry_lines(trainer: Trainer, prefix: str = "geometry/") -> list[dict]:
    return [line for line in trainer.state.log_history if any(key.startswith(prefix) for key in line)]


def numbers(report: GeometryReport) -> list[tuple]:
    return [(row["details"]["step"], row["layer"], row["measure"], row["value"]) for row in report]


# --- nothing changes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_training_is_bit_identical_with_and_without_the_callback(tmp_path, kind):
    arguments = {"gradient_accumulation_steps": 2, "eval_strategy": "steps", "eval_steps": 3}
    without = everything(trained(tmp_path / "without", model=make_model(kind), **arguments))
    callback = GeometryCallback(TEXTS, every=1, budget=None)
    with_it = everything(trained(tmp_path / "with", model=make_model(kind), callback=callback, **arguments))
    assert callback.steps == [1, 2, 3, 4, 5, 6]
    assert sum("loss" in line for line in with_it["log"]) == 6
    for what in without:
        assert with_it[what] == without[what], what


def test_parts_that_are_frozen_in_eval_mode_stay_so_and_generators_are_put_back():
    model = make_model("bert").train()
    model.bert.encoder.layer[0].eval()
    before = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    with pytest.raises(KeyError), undisturbed(model):
        assert not any(module.training for module in model.modules()) and not torch.is_grad_enabled()
        torch.rand(1), random.random(), np.random.rand()
        raise KeyError
    assert [module.training for module in model.modules()] == before and True in before and False in before
    assert torch.equal(torch.get_rng_state(), state) and torch.is_grad_enabled()


def test_subclasses_of_the_trainer_keep_their_own_training_metrics(tmp_path):
    """trl and others add running means to a log line and empty them; a geometry line must not take them away."""

    class Child(Trainer):
        seen = 0

        def compute_loss(self, *args, **kwargs):
            self.seen += 1
            return super().compute_loss(*args, **kwargs)

        def log(self, logs, start_time=None):
            super().log(logs | {"batches": self.seen}, start_time)
            self.seen = 0

    lines = trained(tmp_path, callback=GeometryCallback(TEXTS, every=1, **CHEAP), kind=Child).state.log_history
    assert [line["batches"] for line in lines if "loss" in line] == [1] * 6


def test_two_processes_train_as_without_and_agree(tmp_path):
    """Two gloo processes; each trains without and with the callback and writes down what it saw."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "import sys, test_callbacks; test_callbacks.one_of_two(sys.argv[1])"
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    here = os.pathsep.join(map(str, Path(__file__).parents[:2]))  # this file and conftest
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            env=os.environ | common | {"RANK": rank, "LOCAL_RANK": rank, "PYTHONPATH": here},
            cwd=Path(__file__).parents[2],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    for process in running:
        _, complaint = process.communicate(timeout=120)
        assert process.returncode == 0, complaint
    seen = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    for rank in (0, 1):
        assert seen[rank]["with"] == seen[rank]["without"]
        assert seen[rank]["world"] == 2
    assert seen[0]["geometry"] == seen[1]["geometry"]
    assert [line["step"] for line in seen[0]["geometry"]] == [1, 3, 4, 6, 7, 9, 3, 6, 9]  # six, and the evaluations
    assert seen[0]["history"] == seen[1]["history"]
    assert seen[0]["skipped"] == seen[1]["skipped"] == [2, 5, 8]
    assert seen[0]["best"] == seen[1]["best"] is not None


def one_of_two(folder: str) -> None:
    """What each process does in the test above."""
    arguments = {"ddp_backend": "gloo", "eval_strategy": "steps", "eval_steps": 3, "max_steps": 9, "use_cpu": True}
    arguments |= {"metric_for_best_model": "eval_geometry/anisotropy/layer_01", "greater_is_better": False}
    arguments |= {"gradient_accumulation_steps": 2}
    plain = arguments | {"metric_for_best_model": None}
    without = everything(trained(f"{folder}/without", model=make_model("gpt2"), **plain))
    callback = GeometryCallback(TEXTS, every=1, budget=1e-9)
    trainer = make_trainer(f"{folder}/with", make_model("gpt2"), **arguments)
    callback.attach(trainer)
    trainer.train()
    seen = {
        "without": without,
        "with": everything(trainer),
        "geometry": geometry_lines(trainer) + geometry_lines(trainer, "eval_geometry/"),
        "history": numbers(callback.history),
        "skipped": callback.history.provenance["skipped"],
        "best": trainer.state.best_metric,
        "world": trainer.args.world_size,
    }
    Path(folder, f"rank{trainer.args.process_index}.json").write_text(json.dumps(seen))


# --- what is said ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One training with every default measure, evaluated and saved at steps 3 and 6."""
    callback = GeometryCallback(TEXTS, every=2, budget=None, layers=[0, -1], log="layers")
    arguments = {"eval_strategy": "steps", "eval_steps": 3, "save_strategy": "steps", "save_steps": 3}
    arguments |= {"metric_for_best_model": "eval_geometry/anisotropy/layer_01", "load_best_model_at_end": True}
    trainer = trained(tmp_path_factory.mktemp("run"), callback=callback, greater_is_better=False, **arguments)
    return trainer, callback


def test_the_numbers_are_those_of_the_models_own_hidden_states(tmp_path):
    callback = GeometryCallback(TEXTS, every=6, budget=None, layers=[0, -1], log="layers")
    trainer = trained(tmp_path, callback=callback)
    tokenizer, model = trainer.processing_class, trainer.model.eval()
    with torch.no_grad():
        alone = [model(**tokenizer(t, return_tensors="pt"), output_hidden_states=True).hidden_states for t in TEXTS]
    line = geometry_lines(trainer)[0]
    for layer in range(3):
        cloud = PointCloud(torch.cat([states[layer][0] for states in alone]))
        for estimate in evaluate_all(cloud, resolve(["anisotropy", "effective_rank"])):
            assert line[f"geometry/{estimate.measure}/layer_{layer:02d}"] == pytest.approx(estimate.value, rel=1e-4)
        dimension = line.get(f"geometry/intrinsic_dimension/layer_{layer:02d}")
        if layer == 1:
            assert dimension is None and "geometry/patchiness/layer_01" not in line
        else:
            expected = hf_repgeo.measure(cloud.rows, ["intrinsic_dimension:facco"]).value("intrinsic_dimension")
            assert dimension == pytest.approx(expected, rel=1e-2)


def test_a_line_has_every_layer_and_their_summary_as_plain_numbers(run):
    trainer, _ = run
    line = geometry_lines(trainer)[0]
    layers = [line[f"geometry/anisotropy/layer_{layer:02d}"] for layer in range(3)]
    assert line["geometry/anisotropy/mean"] == pytest.approx(sum(layers) / 3)
    assert [line["geometry/anisotropy/min"], line["geometry/anisotropy/max"]] == [min(layers), max(layers)]
    assert layers[line["geometry/anisotropy/max_layer"]] == max(layers)
    assert line["geometry/failed"] == 0 and line["geometry/skipped"] == 0 and line["geometry/seconds"] > 0
    assert line["step"] == 2 and 0 < line["epoch"] < 1
    assert {type(value) for line in trainer.state.log_history for value in line.values()} <= {int, float}
    json.dumps(trainer.state.log_history, allow_nan=False)


def test_trackers_receive_the_values_like_any_other_metric(tmp_path):
    from transformers import TrainerCallback

    class Tracker(TrainerCallback):
        told: dict = {}

        def on_log(self, args, state, control, logs, **kwargs):
            self.told.setdefault(state.global_step, {}).update(logs)

    trainer = make_trainer(tmp_path, make_model("bert"), max_steps=2)
    trainer.callback_handler.callbacks.insert(0, Tracker())  # where the Trainer puts those of report_to
    GeometryCallback(TEXTS, every=2, **CHEAP).attach(trainer)
    trainer.train()
    assert "loss" in Tracker.told[2] and Tracker.told[2]["geometry/anisotropy/layer_02"] > 0
    assert "loss" in Tracker.told[1] and "geometry/anisotropy/layer_02" not in Tracker.told[1]


def test_an_evaluation_is_measured_and_can_choose_the_best_model(run):
    trainer, callback = run
    lines = geometry_lines(trainer, "eval_geometry/")
    assert [line["step"] for line in lines] == [3, 6]
    found = [line["eval_geometry/anisotropy/layer_01"] for line in lines]
    assert trainer.state.best_metric == min(found)
    assert trainer.state.best_global_step == [3, 6][found.index(min(found))]
    assert callback.at(6).value("anisotropy", layer=1) == found[1]


def test_a_step_and_its_evaluation_share_one_pass_but_other_weights_have_their_own(tmp_path, monkeypatch):
    from hf_repgeo.training import sample_run

    passes = []
    kept = sample_run.sample_representations
    monkeypatch.setattr(sample_run, "sample_representations", lambda *a: passes.append(1) or kept(*a))
    callback = GeometryCallback(TEXTS, every=3, **CHEAP)
    trainer = trained(tmp_path, callback=callback, eval_strategy="steps", eval_steps=3)
    assert len(passes) == 2 and callback.steps == [3, 6]
    first = trainer.evaluate()["eval_geometry/anisotropy/layer_02"]
    assert len(passes) == 2 and first == callback.at(6).value("anisotropy", layer=2)
    with torch.no_grad():
        trainer.model.bert.encoder.layer[1].output.LayerNorm.weight[:16] *= 3
    assert trainer.evaluate()["eval_geometry/anisotropy/layer_02"] != first and len(passes) == 3


def test_evaluating_before_and_without_training_works(tmp_path):
    callback = GeometryCallback(TEXTS, every=2, **CHEAP)
    trainer = make_trainer(tmp_path, make_model("bert"), max_steps=2)
    callback.attach(trainer)
    assert trainer.evaluate()["eval_geometry/effective_rank/mean"] > 1
    assert GeometryReport.from_json(tmp_path / "geometry.json").rows == callback.history.rows
    trainer.train()
    assert callback.steps == [0, 2]
    trainer.train()  # another training begins another history
    assert callback.steps == [2]


@pytest.mark.parametrize(
    "asked, arguments, steps",
    [
        ({"schedule": "steps", "every": 4}, {}, [4, 8, 12]),
        ({"schedule": "log-spaced"}, {}, [1, 2, 5, 10]),
        ({"schedule": "log-spaced", "every": 2}, {}, [2, 4, 10]),
        ({"schedule": "epochs"}, {}, [6, 12]),
        ({"schedule": "epochs", "every": 2}, {}, [12]),
        ({"schedule": "evaluate"}, {"eval_strategy": "steps", "eval_steps": 4}, [4, 8, 12]),
        ({"schedule": "evaluate", "every": 2}, {"eval_strategy": "steps", "eval_steps": 4}, [8]),
        ({"schedule": "save"}, {"save_strategy": "steps", "save_steps": 5}, [5, 10, 12]),
        ({"schedule": "epochs"}, {"eval_strategy": "steps", "eval_steps": 5}, [5, 6, 10, 12]),
    ],
)
def test_the_callback_measures_at_the_steps_of_its_schedule(tmp_path, asked, arguments, steps):
    callback = GeometryCallback(TEXTS[:3], measures="anisotropy", budget=None, **asked)
    trained(tmp_path, callback=callback, max_steps=12, per_device_train_batch_size=4, **arguments)
    assert callback.steps == steps


def test_a_default_run_has_six_points_from_the_first_to_the_last_step(tmp_path, caplog):
    """No attach, no options, and measurements that cost far more than the budget."""
    callback = GeometryCallback(TEXTS)
    trainer = make_trainer(tmp_path, make_model("gpt2"), max_steps=60, logging_steps=10, callbacks=[callback])
    with caplog.at_level(logging.WARNING, "hf_repgeo"):
        trainer.train()
    assert len(callback.steps) >= 6 and callback.steps[0] == 1 and callback.steps[-1] == 60
    assert [line["step"] for line in geometry_lines(trainer)] == callback.steps
    assert sum("loss" in line for line in trainer.state.log_history) == 6


@pytest.mark.parametrize("last", [1, 2, 5, 6, 7, 10, 13, 20, 30, 61, 99, 1000, 123456])
def test_the_default_plan_spans_the_training_with_six_points_where_there_are_six(last):
    plan = planned_steps(None, 1, last)
    assert plan == sorted(set(plan)) and plan[0] == 1 and plan[-1] == last
    assert len(plan) >= min(6, last) and len(plan) < 6 + 3 * len(str(last))


def test_the_budget_widens_the_gaps_evenly_and_keeps_six_points(tmp_path, caplog):
    callback = GeometryCallback(TEXTS, every=1, measures="anisotropy", budget=1e-9)
    with caplog.at_level(logging.WARNING, "hf_repgeo"):
        trained(tmp_path, callback=callback, max_steps=9)
    assert callback.steps == [1, 3, 4, 6, 7, 9]
    assert callback.history.provenance["skipped"] == [2, 5, 8]
    assert len([m for m in caplog.messages if m.startswith("budget: no geometry at step 2")]) == 1
    generous = GeometryCallback(TEXTS, every=1, measures="anisotropy", budget=1e9)
    trained(tmp_path / "generous", callback=generous)
    assert generous.steps == [1, 2, 3, 4, 5, 6]


def test_thinning_keeps_the_share_of_time_and_even_gaps():
    """A clock of our own: a step takes 1 s, a measurement 1 s, and a tenth of the time is allowed."""
    thinning, now, taken = Thinning(list(range(1, 1001)), 0.1, (0, 0.0)), 0.0, []
    for step in range(1, 1001):
        now += 1.0
        if thinning.keeps(step, thinning.stride(step, now)):
            taken.append(step)
            thinning.took(1.0)
            now += 1.0
    assert 50 <= len(taken) <= 106
    regular = [step for step in taken if step % 16 == 0]
    assert regular == list(range(16, 1001, 16)) and len(taken) - len(regular) <= 7
    free = Thinning(list(range(1, 1001)), None, (0, 0.0))
    free.took(9.0)
    assert free.stride(500, 10.0) == 1


def test_values_that_cannot_be_computed_are_left_out_counted_and_explained(tmp_path, caplog):
    model = make_model("bert")
    with torch.no_grad():
        model.bert.encoder.layer[1].output.LayerNorm.bias[0] = float("nan")
    callback = GeometryCallback(TEXTS, measures=["anisotropy"])
    trainer = make_trainer(tmp_path, model)
    callback.attach(trainer)
    with caplog.at_level(logging.WARNING, "hf_repgeo"):
        metrics = trainer.evaluate()
    assert metrics["eval_geometry/failed"] == 1 and "eval_geometry/anisotropy/layer_01" in metrics
    assert not {"eval_geometry/anisotropy/layer_02", "eval_geometry/anisotropy/mean"} & set(metrics)
    assert callback.at(0).row("anisotropy", layer=2)["warnings"][0].startswith("non_finite: ")
    assert any(message.startswith("failed at step 0: encoder layer 2: non_finite") for message in caplog.messages)


def test_an_arithmetic_failure_of_a_measure_does_not_end_the_training(tmp_path, monkeypatch):
    def fails(*args, **kwargs):
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr("hf_repgeo.training.fixed_sample.evaluate_all", fails)
    callback = GeometryCallback(TEXTS, every=6, budget=None)
    trainer = trained(tmp_path, callback=callback)
    assert geometry_lines(trainer)[0]["geometry/failed"] == 2 * 3 + 2
    assert callback.at(6).row("anisotropy", layer=0)["warnings"] == ["failed: did not converge"]


# --- warnings -------------------------------------------------------------------------------------------------------


def rows_of(cloud: torch.Tensor) -> list[dict]:
    report = hf_repgeo.measure(cloud, ["anisotropy", "massive_share"])
    return [{**row, "stack": "encoder", "layer": 7} for row in report]


def test_rows_along_a_line_are_a_collapse_a_few_long_rows_a_sink_and_a_round_cloud_neither(generator):
    round_cloud = torch.randn(400, 8, generator=generator)
    line = round_cloud * torch.tensor([9.0] + [0.5] * 7)
    line = line + 40  # so that no row is long beside the others
    sink = round_cloud.clone()
    sink[:2] += 100.0
    equal = torch.ones(400, 8)
    assert flags(rows_of(round_cloud), 0.9, 0.001) == []
    assert [flag[:3] for flag in flags(rows_of(line), 0.9, 0.001)] == [("collapse", "encoder", 7)]
    assert flags(rows_of(line), 0.999, 0.001) == []
    assert [flag[:3] for flag in flags(rows_of(sink), 0.9, 0.001)] == [("sink", "encoder", 7)]
    assert flags(rows_of(sink), 1.0, 0.01) == [] and flags(rows_of(sink), 0.9, 0.01)[0][0] == "collapse"
    assert flags(rows_of(equal), 0.9, 0.001)[0][3] == "all rows are equal"


def test_a_collapse_is_counted_in_the_log_and_warned_of_once(tmp_path, caplog):
    model = make_model("bert")
    with torch.no_grad():
        model.bert.encoder.layer[1].output.LayerNorm.weight.zero_()  # every row becomes the bias
    model.bert.encoder.layer[1].output.LayerNorm.requires_grad_(False)
    with caplog.at_level(logging.WARNING, "hf_repgeo"):
        trainer = trained(tmp_path, model=model, callback=GeometryCallback(TEXTS, every=3, **CHEAP))
    assert [line["geometry/collapsed_layers"] for line in geometry_lines(trainer)] == [1, 1]
    assert [line["geometry/sink_layers"] for line in geometry_lines(trainer)] == [0, 0]
    told = [message for message in caplog.messages if message.startswith("collapse")]
    assert told == ["collapse at step 3: encoder layer 2: all rows are equal"]


# --- the history ----------------------------------------------------------------------------------------------------


def test_the_history_lies_in_every_checkpoint_and_in_the_output_folder(run):
    trainer, callback = run
    folder = Path(trainer.args.output_dir)
    assert GeometryReport.from_json(folder / "geometry.json") == callback.history
    part = GeometryReport.from_json(folder / "checkpoint-3" / "geometry.json")
    assert {row["details"]["step"] for row in part} == {2, 3}
    assert callback.steps == [2, 3, 4, 6]
    with pytest.raises(UnknownName, match="unknown step 5"):
        callback.at(5)


def test_a_resumed_training_and_its_history_are_those_of_an_uninterrupted_one(tmp_path):
    arguments = {"save_strategy": "steps", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 3}
    asked = {"schedule": "evaluate", "every": 2, **CHEAP}
    whole = GeometryCallback(TEXTS, **asked)
    weights = everything(trained(tmp_path, callback=whole, max_steps=12, **arguments))["weights"]
    resumed = GeometryCallback(TEXTS, **asked)
    checkpoint = str(tmp_path / "checkpoint-9")
    again = everything(trained(tmp_path, callback=resumed, max_steps=12, resume=checkpoint, **arguments))
    assert again["weights"] == weights
    assert numbers(resumed.history) == numbers(whole.history) and resumed.steps == [6, 12]


def test_two_callbacks_with_names_keep_their_keys_and_their_histories_apart(tmp_path, caplog):
    arguments = {"save_strategy": "steps", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 3}

    def both():
        return [
            GeometryCallback(TEXTS, every=3, **CHEAP),
            GeometryCallback(TEXTS[1:], every=3, name="geometry_short", **CHEAP),
        ]

    make_trainer(tmp_path, make_model("bert"), callbacks=both(), **arguments).train()
    resumed = both()
    trainer = make_trainer(tmp_path, make_model("bert"), callbacks=resumed, **arguments)
    with caplog.at_level(logging.WARNING, "hf_repgeo"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert [callback.steps for callback in resumed] == [[3, 6]] * 2
    assert not [message for message in caplog.messages if "begins again" in message]
    keys = set().union(*trainer.state.log_history)
    for name in ("geometry", "eval_geometry", "geometry_short", "eval_geometry_short"):
        assert f"{name}/anisotropy/layer_02" in keys
    with pytest.raises(BadInput, match="`name`.*'a/b'"):
        GeometryCallback(TEXTS, name="a/b")


def test_a_resumption_without_its_history_or_with_another_probe_says_so(tmp_path, caplog):
    arguments = {"save_strategy": "steps", "save_steps": 3}
    trained(tmp_path, callback=GeometryCallback(TEXTS, every=3, **CHEAP), **arguments)
    resume = {"resume": str(tmp_path / "checkpoint-3"), **arguments}
    other = GeometryCallback(TEXTS[1:], every=3, **CHEAP)
    with caplog.at_level(logging.WARNING, "hf_repgeo"):
        trained(tmp_path, callback=other, **resume)
        (tmp_path / "checkpoint-3" / "geometry.json").unlink()
        trained(tmp_path, callback=GeometryCallback(TEXTS, every=3, **CHEAP), **resume)
    told = [message for message in caplog.messages if "begins again at step 3" in message]
    assert len(told) == 2 and "other texts" in told[0] and "no geometry.json" in told[1]
    assert other.steps == [6]


# --- probes ---------------------------------------------------------------------------------------------------------


def test_every_form_of_a_probe_is_the_same_probe():
    import datasets

    model, tokenizer = make_model("bert"), make_tokenizer(special=True)
    encoded = tokenizer(TEXTS)
    tokenizer.padding_side = "left"
    padded = tokenizer(TEXTS, padding=True, return_tensors="pt")
    ones = [{"input_ids": torch.tensor(ids), "attention_mask": torch.ones(len(ids))} for ids in encoded["input_ids"]]
    forms = [
        (text for text in TEXTS),
        datasets.Dataset.from_dict({"text": TEXTS, "label": [0] * len(TEXTS)}),
        datasets.Dataset.from_dict({"input_ids": encoded["input_ids"]}),
        encoded,
        padded,
        dict(padded),
        ones,
        [dict(padded)],
        [{key: value.numpy() for key, value in padded.items()}],
    ]
    expected = FixedSample.of(TEXTS, tokenizer, model)
    assert expected.rows == sum(map(len, encoded["input_ids"]))
    for form in forms:
        assert FixedSample.of(form, tokenizer, model) == expected
    assert FixedSample.of(ones[0], None, model).windows.ids == [encoded["input_ids"][0]]
    with pytest.raises(BadInput, match="`texts`: got the string 'a cat'; .*pass one text in a list"):
        FixedSample.of("a cat", tokenizer, model)
    assert FixedSample.of(ones[0], None, model).provenance() != FixedSample.of(ones[1], None, model).provenance()


def test_long_texts_are_cut_at_the_models_limit():
    tokenizer = make_tokenizer(special=True)
    assert FixedSample.of(["cat " * 500], tokenizer, make_model("bert")).rows == 64


@pytest.mark.parametrize(
    "probe, message",
    [
        (["", "  "], "2 example.s. that tokenize to nothing"),
        ([], "`texts`: got none"),
        ({"input_ids": torch.zeros(2, 3), "attention_mask": torch.zeros(2, 3)}, "tokenize to nothing"),
        ({"input_ids": []}, "tokenize to nothing"),
        ({"input_ids": torch.ones(2, 3)}, "got no attention_mask; wanted attention_mask beside a batch"),
        ({"input_ids": [[5, 6]], "attention_mask": [[1]]}, "different shapes"),
        ({"input_ids": [5] * 65}, "a sequence of 65 tokens; wanted at most 64"),
        ({"train": ["a cat"]}, "got columns train; wanted texts"),
        ([5, 6], "got a int in it; wanted texts"),
        (5, "got a int; wanted texts"),
        (torch.ones(3), "got a Tensor; wanted texts"),
    ],
)
def test_a_probe_that_says_nothing_is_refused_when_attached(tmp_path, probe, message):
    with pytest.raises(BadInput, match=message):
        GeometryCallback(probe).attach(make_trainer(tmp_path, make_model("bert")))


def test_texts_need_a_tokenizer():
    with pytest.raises(BadInput, match="a Trainer without a tokenizer"):
        FixedSample.of(["a cat"], None, make_model("bert"))


def test_a_small_probe_is_warned_about_and_used(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "hf_repgeo"):
        GeometryCallback(TEXTS).attach(make_trainer(tmp_path, make_model("bert")))
    assert sum(message.startswith("few_rows: the input has") for message in caplog.messages) == 1
    caplog.clear()
    with caplog.at_level(logging.WARNING, "hf_repgeo"):
        GeometryCallback(TEXTS * 20).attach(make_trainer(tmp_path, make_model("bert")))
    assert not caplog.messages


# --- errors before the training starts ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked, error, message",
    [
        ({"schedule": "step"}, UnknownName, "unknown schedule 'step'. Did you mean 'steps'"),
        ({"measures": ["anisotropi"]}, UnknownName, "unknown measure 'anisotropi'"),
        ({"measures": "patchiness:loyd"}, UnknownName, "unknown convention of patchiness 'loyd'"),
        ({"codebook": 4}, UnknownName, "unknown option 'codebook'"),
        ({"measures": "anisotropy", "bits": 4}, BadInput, "`bits`: got 4, which none of the measures asked for takes"),
        ({"quantizer": "produkt"}, UnknownName, "unknown quantizer 'produkt'"),
        ({"every": 0}, BadInput, "`every`: got 0"),
        ({"every": 0.5}, BadInput, "`every`: got 0.5"),
        ({"budget": 0}, BadInput, "`budget`: got 0"),
    ],
)
def test_wrong_arguments_are_refused_at_once(asked, error, message):
    with pytest.raises(error, match=message):
        GeometryCallback(TEXTS, **asked)


def test_it_works_however_it_is_added(tmp_path):
    """In the Trainer's list, by add_callback, attached, or all of them: the same history."""
    histories = []
    for way in ("list", "add", "attach", "list, attach"):
        callback = GeometryCallback(TEXTS, every=3, **CHEAP)
        given = [callback] if "list" in way else []
        trainer = make_trainer(tmp_path / way, make_model("bert"), callbacks=given)
        if way == "add":
            trainer.add_callback(callback)
        if "attach" in way:
            callback.attach(trainer)
        assert sum(each is callback for each in trainer.callback_handler.callbacks) == 1
        trainer.train()
        assert "geometry/anisotropy/layer_01" in geometry_lines(trainer)[0]
        histories.append(numbers(callback.history))
    assert all(history == histories[0] for history in histories)


def test_an_unknown_layer_is_refused_before_the_first_step(tmp_path):
    trainer = make_trainer(tmp_path, make_model("bert"))
    GeometryCallback(TEXTS, layers=[3]).attach(trainer)
    with pytest.raises(UnknownName, match=r"unknown layer 3\. Known: 0 \(embeddings\) to 2"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_a_model_without_blocks_is_refused_before_the_first_step(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match="Linear, with no PreTrainedModel inside"):
        encoder_of(torch.nn.Linear(2, 2))
    trainer = make_trainer(tmp_path, make_model("bert"))
    GeometryCallback(TEXTS).attach(trainer)

    def silent(self, input_ids, attention_mask, output_hidden_states=None, **kwargs):
        return self.embeddings(input_ids)

    monkeypatch.setattr(type(trainer.model.bert), "forward", silent)
    with pytest.raises(BadInput, match="BertModel, in which none was seen to run"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_a_model_that_reads_no_text_is_refused(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, make_model("bert"))
    GeometryCallback(TEXTS).attach(trainer)
    monkeypatch.setattr(type(trainer.model.bert), "forward", lambda self, pixel_values: None)
    with pytest.raises(BadInput, match="wanted a model that takes input_ids"):
        trainer.train()


# --- models ---------------------------------------------------------------------------------------------------------


def test_the_head_is_not_run_and_wrappers_are_looked_into():
    model = make_model("gpt2")
    assert encoder_of(model) is model.transformer
    assert encoder_of(torch.nn.Sequential(torch.nn.Linear(2, 2), model)) is model.transformer
    assert encoder_of(model.transformer) is model.transformer


def test_both_stacks_of_an_encoder_decoder_have_their_keys(tmp_path):
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=24, d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2, decoder_start_token_id=0)
    trainer = make_trainer(tmp_path, seeded(T5ForConditionalGeneration, config))
    callback = GeometryCallback(TEXTS, measures=["anisotropy", "intrinsic_dimension:mle"]).attach(trainer)
    metrics = trainer.evaluate()
    for stack in ("encoder", "decoder"):
        assert {f"eval_geometry/anisotropy/{stack}_layer_{layer:02d}" for layer in range(3)} <= set(metrics)
        assert f"eval_geometry/intrinsic_dimension_mle/{stack}_layer_02" in metrics
    assert callback.at(0).unique("stack") == ["encoder", "decoder"]


def test_hooks_of_a_training_that_never_began_change_nothing(tmp_path):
    from transformers import TrainerControl, TrainerState

    callback, state = GeometryCallback(TEXTS, **CHEAP), TrainerState(global_step=3, max_steps=3)
    arguments = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    callback.on_init_end(arguments, state, TrainerControl())
    callback.on_log(arguments, state, TrainerControl())
    callback.on_train_end(arguments, state, TrainerControl())
    assert callback.reporters is None and len(callback.history) == 0


def test_a_trainer_that_makes_its_model_later_is_joined_when_training_begins(tmp_path):
    callback = GeometryCallback(TEXTS, **CHEAP)
    arguments = TrainingArguments(str(tmp_path), max_steps=1, report_to="none", disable_tqdm=True, use_cpu=True)
    trainer = Trainer(
        model_init=lambda: make_model("bert"), args=arguments, train_dataset=make_data(4),
        processing_class=make_tokenizer(special=True),
    )  # fmt: skip
    trainer.model = None
    callback.attach(trainer)
    assert callback.reporters is None
    trainer.train()
    assert callback.reporters is not None and len(callback.history) > 0


def test_an_evaluation_without_metrics_is_recorded_and_a_named_checkpoint_gives_the_history(tmp_path):
    first = GeometryCallback(TEXTS, **CHEAP)
    trainer = trained(tmp_path / "first", callback=first, save_strategy="steps", save_steps=3)
    first.on_evaluate(trainer.args, trainer.state, trainer.control, model=trainer.model, metrics=None)
    checkpoint = str(tmp_path / "first" / "checkpoint-3")
    again = GeometryCallback(TEXTS, **CHEAP)
    trained(tmp_path / "second", callback=again, resume=checkpoint, resume_from_checkpoint=checkpoint)
    steps = {row["details"]["step"] for row in again.history}
    assert steps >= {row["details"]["step"] for row in GeometryReport.from_json(Path(checkpoint) / "geometry.json")}
