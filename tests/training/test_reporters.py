"""What trackers see: the real clients of TensorBoard, W&B (offline) and trackio, with and without attach."""

import json

import pytest
from test_callbacks import TEXTS, geometry_lines, make_model, make_trainer
from transformers import TrainerCallback

from hf_repgeo.callbacks import GeometryCallback

QUICK = {"measures": ["anisotropy", "effective_rank"], "budget": None, "every": 4}
TRACKED = {"max_steps": 12, "logging_steps": 4, "eval_strategy": "steps", "eval_steps": 6}
SUMMARY = {
    "geometry/anisotropy/mean",
    "geometry/effective_rank/mean",
    "geometry/failed",
    "geometry/collapsed_layers",
    "geometry/sink_layers",
    "geometry/seconds",
}


@pytest.fixture(params=["list", "attach"])
def tracked(request, tmp_path, monkeypatch):
    """A training with one reporter; the callback comes in either way."""

    def run(reporter: str, **options):
        callback = GeometryCallback(TEXTS, **QUICK | options)
        given = [callback] if request.param == "list" else []
        trainer = make_trainer(tmp_path, make_model("gpt2"), callbacks=given, **TRACKED | {"report_to": reporter})
        if request.param == "attach":
            callback.attach(trainer)
        trainer.train()
        return trainer

    return run


def test_tensorboard_has_few_keys_at_the_global_step(tracked, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracked("tensorboard")
    [folder] = (tmp_path / "runs").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    tags = {tag for tag in events.Tags()["scalars"] if "geometry" in tag}
    assert tags == SUMMARY | {f"eval/{key}" for key in SUMMARY}
    assert [event.step for event in events.Scalars("geometry/anisotropy/mean")] == [4, 8, 12]
    assert [event.step for event in events.Scalars("eval/geometry/anisotropy/mean")] == [6, 12]
    assert [event.step for event in events.Scalars("train/loss")] == [4, 8, 12]


def test_trackio_has_geometry_and_loss_at_the_same_step(tracked, tmp_path, monkeypatch):
    trackio = pytest.importorskip("trackio")
    import trackio.sqlite_storage as storage
    import trackio.utils as utils

    for module in (storage, utils):
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    monkeypatch.setenv("TRACKIO_PROJECT", "geometry-test")
    lines = []
    kept = trackio.run.Run.log
    monkeypatch.setattr(trackio.run.Run, "log", lambda run, metrics, step=None: lines.append(_line(run, metrics, step)))
    assert kept is not trackio.run.Run.log
    tracked("trackio")
    steps = {key: [step for step, keys in lines if key in keys] for key in ("geometry/anisotropy/mean", "train/loss")}
    assert steps == {"geometry/anisotropy/mean": [4, 8, 12], "train/loss": [4, 8, 12]}
    assert [step for step, keys in lines if "eval/geometry/anisotropy/mean" in keys] == [6, 12]
    assert [step for step, keys in lines if "eval/loss" in keys] == [6, 12]


def _line(run, metrics: dict, step: int | None) -> tuple[int, set[str]]:
    """What trackio stores: its own counter where it was given no step, as in `Run.log`."""
    step = run._next_step if step is None else step
    run._next_step = max(run._next_step, step + 1)
    return step, set(metrics)


def test_wandb_has_the_global_step_beside_the_numbers(tracked, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    lines, alerts = [], []
    kept = wandb.sdk.wandb_run.Run.log
    monkeypatch.setattr(
        wandb.sdk.wandb_run.Run, "log", lambda run, data, *a, **k: lines.append(dict(data)) or kept(run, data, *a, **k)
    )
    monkeypatch.setattr(wandb.sdk.wandb_run.Run, "alert", lambda run, title, text: alerts.append(text))
    tracked("wandb", collapse={"effective_rank": (1e6, None)})
    wandb.finish()
    geometry = [line for line in lines if "geometry/anisotropy/mean" in line]
    assert [line["train/global_step"] for line in geometry] == [4, 8, 12]
    assert set(geometry[0]) == SUMMARY | {"train/global_step"}
    assert [text.split(":")[0] for text in alerts] == [f"step 4, decoder layer {layer}" for layer in range(3)]


def test_a_tracker_that_gets_no_values_is_named_and_attach_reaches_it(tmp_path, caplog):
    class Other(TrainerCallback):
        seen: list = []

        def on_log(self, args, state, control, logs, **kwargs):
            self.seen.append(set(logs))

    trainer = make_trainer(tmp_path, make_model("gpt2"), callbacks=[Other()], max_steps=4)
    callback = GeometryCallback(TEXTS, **QUICK).attach(trainer)
    callback.reporters.names = ["mlflow"]
    trainer.train()
    assert SUMMARY in Other.seen and not any("will not get" in message for message in caplog.messages)
    Other.seen.clear()
    trainer = make_trainer(tmp_path, make_model("gpt2"), callbacks=[Other(), again := GeometryCallback(TEXTS, **QUICK)])
    again.reporters.names = ["mlflow", "tensorboard"]
    again.guarded = lambda *a, **k: None
    trainer.train()
    assert not any("geometry/failed" in keys for keys in Other.seen)
    assert "trackers: mlflow will not get the geometry; call attach(trainer) to reach them" in caplog.messages


def test_a_tracker_that_fails_is_logged_once_and_the_training_goes_on(tmp_path, caplog, monkeypatch):
    callback = GeometryCallback(TEXTS, **QUICK | {"every": 1})
    trainer = make_trainer(tmp_path, make_model("gpt2"), callbacks=[callback])

    def fails(*arguments):
        raise ConnectionError("no network")

    monkeypatch.setattr(callback.reporters, "write", fails)
    trainer.train()
    told = [message for message in caplog.messages if "no network" in message]
    assert told == ["trackers: ConnectionError: no network; the training continues"]
    assert len(geometry_lines(trainer)) == 6


def test_the_training_log_has_a_handful_of_keys_and_the_console_none(tmp_path, capsys):
    callback = GeometryCallback(TEXTS, every=3, budget=None)
    trainer = make_trainer(tmp_path, make_model("gpt2"), callbacks=[callback], eval_strategy="steps", eval_steps=6)
    trainer.train()
    line = geometry_lines(trainer)[0]
    measured = {"geometry/intrinsic_dimension/layer_02", "geometry/patchiness/layer_02"}
    missing = {key for key in measured if key not in line}  # patchiness needs more rows than these texts have
    assert set(line) == (SUMMARY | measured | {"step", "epoch"}) - missing and line["geometry/failed"] == len(missing)
    evaluated = geometry_lines(trainer, "eval_geometry/")[0]
    assert {f"eval_geometry/anisotropy/layer_{layer:02d}" for layer in range(3)} <= set(evaluated)
    assert "geometry" not in capsys.readouterr().out
    json.dumps(trainer.state.log_history, allow_nan=False)


def test_one_line_a_measurement_is_printed_if_asked(tmp_path, capsys):
    callback = GeometryCallback(TEXTS, **QUICK | {"every": 3}, verbose=True)
    make_trainer(tmp_path, make_model("gpt2"), callbacks=[callback]).train()
    shown = [line for line in capsys.readouterr().out.splitlines() if "geometry" in line]
    assert [line.split(":")[0] for line in shown] == ["geometry at step 3", "geometry at step 6"]
