"""Passes of a model from several threads: each reads its own rows, and the model stays as it was."""

import random
import threading

import numpy as np
import pytest
import torch
from torch import nn

from hf_repgeo.rows.capture import Layout, Place, Tap, copied, read_places
from hf_repgeo.rows.passes import one_at_a_time, run


class Meeting(nn.Module):
    """Waits in its forward pass for a second thread to come in, and then draws: dropout in train mode."""

    def __init__(self):
        super().__init__()
        self.block = nn.Dropout(0.5)
        self.door = threading.Barrier(2)
        self.met = False

    def forward(self, x):
        try:
            self.door.wait(timeout=0.1)
            self.met = True
        except threading.BrokenBarrierError:
            self.door.reset()
        return self.block(x)


def in_two_threads(work):
    found, failures = {}, []

    def collect(number):
        try:
            found[number] = work(number)
        except BaseException as error:  # a thread's own exceptions are lost otherwise
            failures.append(error)

    threads = [threading.Thread(target=collect, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    return found


@pytest.fixture
def model():
    return Meeting().train()


def inputs(number):
    return torch.full((1, 2, 3), number + 1.0)


def read_block(model, number):
    tap = Tap(Place("encoder", 1, "residual"), "block", 0, "output", 0, Layout(0, (1,)))
    with read_places(model, [tap], copied) as found:
        run(model, x=inputs(number))
        return found[tap.place]


def test_two_threads_are_never_in_one_model_together(model):
    found = in_two_threads(lambda number: run(model, x=inputs(number)))
    assert not model.met and model.training and model.block.training
    assert all(torch.equal(found[number], inputs(number)) for number in (0, 1))


def test_each_thread_reads_the_rows_of_its_own_pass(model):
    found = in_two_threads(lambda number: read_block(model, number))
    assert all(torch.equal(found[number], inputs(number)) for number in (0, 1))
    assert not model.block._forward_hooks and not model._forward_pre_hooks


def test_passes_in_threads_leave_every_global_generator_alone(model):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    in_two_threads(lambda number: run(model, x=inputs(number)))
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]


def test_a_failure_lets_the_next_thread_in():
    @one_at_a_time
    def fail():
        raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            fail()
    assert in_two_threads(lambda number: number) == {0: 0, 1: 1}
