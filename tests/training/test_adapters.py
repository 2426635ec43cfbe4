"""Training loops other than the Trainer's: Accelerate's own loops, plain torch, Lightning."""

import pytest
import torch
from test_callbacks import TEXTS, make_data, make_model, numbers
from tiny import make_tokenizer

from hf_repgeo import GeometryMonitor, GeometryReport
from hf_repgeo.errors import RepgeoError

CHEAP = {"measures": ["anisotropy", "effective_rank"], "budget": None}


def loop(model, after_step, steps: int = 12, accelerator=None):
    """Plain training, one example per step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    if accelerator is not None:
        model, optimizer = accelerator.prepare(model, optimizer)
    data = make_data(steps)
    model.train()
    for step in range(1, steps + 1):
        example = {key: value[None] for key, value in data[step - 1].items()}
        loss = model(**example).loss
        loss.backward() if accelerator is None else accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        after_step(step)
    return {name: weight.tolist() for name, weight in model.state_dict().items()}


def test_a_loop_of_your_own_is_measured_and_left_as_it_was(tmp_path):
    model, tokenizer = make_model("gpt2"), make_tokenizer(special=True)
    torch.random.manual_seed(0)
    without = loop(make_model("gpt2"), lambda step: None)
    monitor = GeometryMonitor(TEXTS, **CHEAP).start(model, tokenizer, steps=12, folder=tmp_path)
    torch.random.manual_seed(0)
    assert loop(model, monitor.step) == without
    assert monitor.steps == [1, 2, 3, 5, 10, 12]
    assert numbers(GeometryReport.from_json(tmp_path / "geometry.json")) == numbers(monitor.history)


def test_a_loop_that_is_resumed_goes_on_with_its_history(tmp_path):
    model, tokenizer = make_model("gpt2"), make_tokenizer(special=True)
    first = GeometryMonitor(TEXTS, every=2, **CHEAP).start(model, tokenizer, steps=8, folder=tmp_path)
    for step in range(1, 5):
        first.step(step)
    second = GeometryMonitor(TEXTS, every=2, **CHEAP).start(model, tokenizer, steps=8, at=4, folder=tmp_path)
    for step in range(5, 9):
        second.step(step)
    assert second.steps == [2, 4, 6, 8]


def test_accelerates_trackers_get_the_numbers_at_the_step(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    pytest.importorskip("tensorboard")
    accelerator = accelerate.Accelerator(cpu=True, log_with="tensorboard", project_dir=str(tmp_path))
    accelerator.init_trackers("run")
    model, tokenizer = make_model("gpt2"), make_tokenizer(special=True)
    monitor = GeometryMonitor(TEXTS, **CHEAP).start(model, tokenizer, steps=12, accelerator=accelerator)
    loop(model, monitor.step, accelerator=accelerator)
    accelerator.end_training()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run")).Reload().Scalars("geometry/effective_rank/mean")
    assert [event.step for event in events] == monitor.steps


def test_a_monitor_that_was_not_started_says_so():
    with pytest.raises(RepgeoError, match=r"call start\(model, tokenizer, steps=...\)"):
        GeometryMonitor(TEXTS).step(1)


@pytest.fixture
def lightning_run(tmp_path):
    lightning = pytest.importorskip("lightning")
    from lightning.pytorch.loggers import CSVLogger

    from hf_repgeo import LightningGeometryCallback

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = make_model("gpt2")

        def training_step(self, batch, place):
            return self.network(**batch).loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.05)

    def run(callbacks=(), steps=12, resume=None, folder=tmp_path, **options):
        torch.random.manual_seed(0)
        settings = {"max_steps": steps, "accelerator": "cpu", "enable_progress_bar": False, "barebones": False}
        settings |= {"enable_model_summary": False, "logger": CSVLogger(folder), "default_root_dir": folder}
        trainer = lightning.Trainer(callbacks=list(callbacks), **settings | options)
        batches = torch.utils.data.DataLoader(make_data(24), batch_size=2)
        module = Module()
        trainer.fit(module, batches, ckpt_path=resume)
        return trainer, {name: weight.tolist() for name, weight in module.state_dict().items()}

    def callback(**options):
        return LightningGeometryCallback(TEXTS, tokenizer=make_tokenizer(special=True), **CHEAP | options)

    return run, callback


def test_lightning_is_measured_logged_and_left_as_it_was(lightning_run, tmp_path):
    run, make = lightning_run
    callback = make()
    trainer, weights = run([callback])
    assert run(folder=tmp_path / "without")[1] == weights
    assert callback.steps == [1, 2, 3, 5, 10, 12]
    table = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()
    names = table[0].split(",")
    steps = [int(line.split(",")[names.index("step")]) for line in table[1:]]
    assert "geometry/anisotropy/mean" in names and set(callback.steps) <= set(steps)
    assert numbers(GeometryReport.from_json(tmp_path / "geometry.json")) == numbers(callback.history)


def test_two_callbacks_of_one_lightning_training_have_a_name_and_a_history_each(lightning_run, tmp_path):
    run, make = lightning_run
    one, other = make(), make(name="geometry_other")
    trainer, _ = run([one, other])
    assert one.state_key != other.state_key and one.steps == other.steps
    assert numbers(GeometryReport.from_json(tmp_path / "geometry_other.json")) == numbers(other.history)
    table = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()
    assert {"geometry/anisotropy/mean", "geometry_other/anisotropy/mean"} <= set(table[0].split(","))


def test_lightning_goes_on_with_the_history_and_steps_over_accumulated_batches(lightning_run, tmp_path):
    run, make = lightning_run
    trainer, _ = run([make(every=2)], steps=4, accumulate_grad_batches=2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed = make(every=2)
    run([resumed], steps=8, resume=tmp_path / "half.ckpt", accumulate_grad_batches=2)
    assert resumed.steps == [2, 4, 6, 8]


def test_lightning_stops_at_a_collapse(lightning_run):
    run, make = lightning_run
    trainer, _ = run([make(every=1, collapse={"effective_rank": (1e6, None)}, stop=True)])
    assert trainer.global_step == 1
