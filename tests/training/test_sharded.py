"""No process holds the whole model: FSDP, both versions of it, in two gloo processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_callbacks import TEXTS, make_data, make_model, numbers
from tiny import make_tokenizer

from hf_repgeo import GeometryMonitor
from hf_repgeo.training import sample_run
from hf_repgeo.training.processes import agreed, first_of, is_sharded

SETTINGS = {"measures": ["anisotropy", "effective_rank"], "budget": None}


def in_two_processes(work: str, folder: Path) -> list[dict]:
    """Runs a function of this module in two gloo processes; what each of them returned."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    here = os.pathsep.join([*map(str, Path(__file__).parents[:2]), str(Path(__file__).parents[2])])
    code = f"import sys, test_sharded; test_sharded.run(test_sharded.{work}, sys.argv[1])"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder)],
            env=os.environ | common | {"RANK": rank, "LOCAL_RANK": rank, "PYTHONPATH": here},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    for process in processes:
        _, complaint = process.communicate(timeout=120)
        assert process.returncode == 0, complaint
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def run(work, folder: str) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo")
    Path(folder, f"{dist.get_rank()}.json").write_text(json.dumps(work()))
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # the work is written down; threads of the libraries may abort an orderly exit


def sharded(version: int):
    model = make_model("gpt2")
    if version == 1:
        from torch.distributed.fsdp import FullyShardedDataParallel

        return FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=True)
    from torch.distributed.fsdp import fully_shard

    for block in model.transformer.h:
        fully_shard(block)
    return fully_shard(model)


def train(model, after_step) -> list[float]:
    """Four steps of plain training; the losses of this process."""
    import torch.distributed as dist

    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    data, losses = make_data(8)[dist.get_rank() :: 2], []
    torch.random.manual_seed(dist.get_rank())
    model.train()
    for step in range(1, 5):
        loss = model(**{key: value[None] for key, value in data[step - 1].items()}).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        after_step(step)
        losses.append(loss.item())
    return losses


def every_case() -> dict:
    return {"1": with_and_without(1), "2": with_and_without(2), "failure": second_process_fails()}


def with_and_without(version: int) -> dict:
    without = train(sharded(version), lambda step: None)
    model = sharded(version)
    monitor = GeometryMonitor(TEXTS, **SETTINGS).start(model, make_tokenizer(special=True), steps=4)
    first = monitor.measure(model, 0)
    same = train(model, monitor.step) == without  # its optimizer is made after a measurement
    return {"same": same, "sharded": is_sharded(model), "first": first.layers, "history": numbers(monitor.history)}


def second_process_fails() -> dict:
    import torch.distributed as dist

    if dist.get_rank() == 1:
        kept = sample_run.sample_representations

        def fails(*arguments):
            kept(*arguments)
            raise MemoryError("of the second process")

        sample_run.sample_representations = fails
    model = sharded(2)
    monitor = GeometryMonitor(TEXTS, **SETTINGS).start(model, make_tokenizer(special=True), steps=4)
    monitor.step(1)
    return {"warning": monitor.history.rows[0]["warnings"][0], "rows": monitor.sample.rows}


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    return in_two_processes("every_case", tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("version", "12")
def test_every_process_takes_part_and_the_training_is_as_without(two_processes, version):
    one, two = (process[version] for process in two_processes)
    assert one["sharded"] and two["sharded"] and one["same"] and two["same"]
    assert one["history"] == two["history"] and {row[0] for row in one["history"]} == {0, 1, 2, 3, 4}
    alone = GeometryMonitor(TEXTS, **SETTINGS)
    model = make_model("gpt2")
    expected = alone.start(model, make_tokenizer(special=True), steps=4).measure(model, 0).layers
    for key in ("anisotropy/layer_00", "anisotropy/layer_02", "effective_rank/layer_01"):
        assert one["first"][key] == pytest.approx(expected[key], rel=1e-5)


def test_all_processes_learn_that_one_ran_out_of_memory(two_processes):
    one, two = (process["failure"] for process in two_processes)
    assert one == two and one["warning"] == "out_of_memory: MemoryError: of the second process" and one["rows"] < 250


def test_one_process_agrees_with_itself():
    assert agreed([1]) == [1] and first_of(None) is None and not is_sharded(make_model("gpt2"))
