"""A training step of the sentence models, compared with a restatement of the release; one thread, CPU time.

    OMP_NUM_THREADS=1 python benchmarks/sparse_vae_step.py

Forward, backward and Adam on a batch of 100 with 8 candidates; 26 steps are an epoch of the paper's 2,576 instances.
"""

import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from released_twin import made_batch, restated  # noqa: E402

from hf_repgeo.sparse_vae import SparseVAEConfig, SparseVAEForSentenceEmbedding  # noqa: E402

REPEATS = 30


def stepper(loss_of, parameters, batch):
    """A function that makes one training step and returns its CPU seconds."""
    optimizer = torch.optim.Adam(list(parameters), lr=1e-3)

    def step():
        start = time.process_time()
        optimizer.zero_grad()
        loss_of(*batch).backward()
        optimizer.step()
        return time.process_time() - start

    return step


def steppers():
    """One for the restated release, one for each preset, on the same batch."""
    torch.default_generator.manual_seed(0)
    batch = made_batch()
    models = {
        name: SparseVAEForSentenceEmbedding(SparseVAEConfig.preset(name)).train()
        for name in ("released", "sparse_units", "dense_stride", "base")
    }
    found = {"released, unit by unit": stepper(*restated(models["released"]), batch)}
    for name, model in models.items():
        loss_of = lambda x, candidates, labels, model=model: model(x, candidates=candidates, labels=labels).loss  # noqa: E731
        found[name] = stepper(loss_of, model.parameters(), batch)
    return found


def main():
    torch.set_num_threads(1)
    found = steppers()
    times = {name: [] for name in found}
    for _ in range(REPEATS):  # in turn, so that other programs slow all of them alike
        for name, step in found.items():
            times[name].append(step())
    slow = statistics.median(times["released, unit by unit"])
    print("| | ms per step | s for 100 epochs | |")
    print("| --- | ---: | ---: | ---: |")
    for name, seconds in times.items():
        median = statistics.median(seconds)
        print(f"| {name} | {1000 * median:.2f} | {2600 * median:.0f} | {slow / median:.1f} x |")


if __name__ == "__main__":
    main()
