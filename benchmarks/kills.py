"""Kills jobs at random moments (SIGKILL) and runs them again: the table must equal that of an undisturbed run.

PYTHONPATH=.:tests OMP_NUM_THREADS=1 python benchmarks/kills.py [--kills 170] [--jobs profile,sweep,...]

Each attempt begins in an empty folder, is killed up to ten times, each time after a random part of the time that the
job takes, and then runs to its end. A job runs in a fork of this process, which ran the job once itself: no attempt is
killed while Python starts or imports a module.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from loopback_double import ME, LoopbackDouble
from tiny import SIZES, WORDS, make_tokenizer, seeded
from tqdm.std import TqdmDefaultWriteLock, tqdm

import hf_repgeo
from hf_repgeo.report import GeometryReport

DOCUMENTS = [" ".join(WORDS[(i * k + k * k) % len(WORDS)] for i in range(60)) for k in range(1, 61)]
# Forks share the lock of progress bars: if one is killed while it holds the lock, all others hang.
TqdmDefaultWriteLock.mp_lock, tqdm.monitor_interval = None, 0
MOST_KILLS = 10
PATIENCE = 300  # seconds, for an undisturbed run


class Jobs:
    """The jobs, each a function of an output folder, and what to compare afterwards."""

    def __init__(self, models: Path):
        self.models = [self._model(models / name, layers) for name, layers in (("one", 4), ("two", 3))]
        self.report = hf_repgeo.measure(torch.randn(60, 8, generator=torch.Generator().manual_seed(0)), ["anisotropy"])
        self.owner = f"me/{models.parent.name}"  # names of this run alone: the client keeps what it downloads
        self.double = LoopbackDouble()
        self.double.__enter__()

    @staticmethod
    def _model(folder: Path, layers: int) -> str:
        from transformers import BertConfig, BertModel

        config = BertConfig(**SIZES | {"num_hidden_layers": layers}, max_position_embeddings=64)
        seeded(BertModel, config).save_pretrained(folder)
        make_tokenizer(special=True).save_pretrained(folder)
        return str(folder)

    def profile(self, out: Path) -> None:
        hf_repgeo.profile(self.models[0], DOCUMENTS, rows=1000, batch_rows=500, out=out, progress=False)

    def profile_table(self, out: Path):
        return GeometryReport.from_json(out / "profile.json").rows

    def sweep(self, out: Path) -> None:
        settings = {"rows": 300, "measures": ["anisotropy", "effective_rank"], "progress": False}
        hf_repgeo.sweep(models=self.models, texts=DOCUMENTS, out=out, **settings)

    def sweep_table(self, out: Path):
        return GeometryReport.from_json(out / "sweep.json").rows

    def training(self, out: Path) -> None:
        from hf_repgeo.blm import pair_instances, to_dataset
        from hf_repgeo.sparse_vae import EmbeddingTable, SparseVAEConfig
        from hf_repgeo.sparse_vae.embeddings import dataset_texts
        from hf_repgeo.sparse_vae.training import train

        data = to_dataset(pair_instances("en", n=420))
        texts = dataset_texts(data)
        rows = torch.randn(len(texts), 64, generator=torch.Generator().manual_seed(0))
        config = SparseVAEConfig(hidden_size=64, kernel=4, stride=4)
        run = train(config, data, EmbeddingTable(texts, rows, "random"), out / "run", epochs=4, resume=True)
        run.model.save_pretrained(out / "model")

    def training_table(self, out: Path):
        return hashlib.sha256((out / "model" / "model.safetensors").read_bytes()).hexdigest()

    def localize(self, out: Path) -> None:
        from hf_repgeo.cli.main import main

        settings = ["--kernel", "4", "--nulls", "39", "--cache", str(out / "cache"), "--output", str(out / "found")]
        if main(["sparse-vae", "localize", self.models[0], *settings]):
            raise SystemExit(1)

    def localize_table(self, out: Path):
        return GeometryReport.from_json(out / "found" / "localization.json").rows

    def push(self, out: Path) -> None:
        from huggingface_hub import HfApi

        api = HfApi(endpoint=self.double.endpoint, token=ME)
        hf_repgeo.push_report(
            self.report, f"{self.owner}-{out.name}", name="killed", api=api, sleep=lambda seconds: None
        )

    def push_table(self, out: Path):
        from huggingface_hub import HfApi

        api = HfApi(endpoint=self.double.endpoint, token=ME)
        return hf_repgeo.load_report(f"{self.owner}-{out.name}", api=api).rows

    def study(self, out: Path) -> None:
        from hf_repgeo.downstream import StudySettings, study

        settings = StudySettings(tasks=("geometry",), alphas=(0.0, 0.3, 0.6), runs=2, sequences=60)
        study({"one": self.models[0]}, out, settings, progress=False)

    def study_table(self, out: Path):
        return (out / "table.csv").read_text()


def forked(job: Callable[[Path], None], out: Path) -> int:
    """Starts a job in a process of its own and returns its id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        sys.stdout = sys.stderr = open(out.with_suffix(".log"), "a")
        job(out)
        status = 0
    finally:
        sys.stderr.flush()
        os._exit(status)


def killed(job: Callable[[Path], None], out: Path, after: float) -> bool:
    """Whether a job was killed before it was done."""
    child = forked(job, out)
    time.sleep(after)
    try:
        os.kill(child, signal.SIGKILL)
    except ProcessLookupError:
        pass
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def undisturbed(job: Callable[[Path], None], out: Path) -> bool:
    """Whether a job ran to its end without an error; one that hangs is killed."""
    child = forked(job, out)
    watch = threading.Timer(PATIENCE, os.kill, (child, signal.SIGKILL))
    watch.start()
    try:
        return os.waitpid(child, 0)[1] == 0
    finally:
        watch.cancel()


def attempts(job: Callable, table: Callable, place: Path, kills: int, chance: random.Random) -> tuple:
    """Seconds of an undisturbed run, number of attempts, of kills and of equal tables, and the other outcomes."""
    job(place / "first")  # imports what the job needs
    start, whole = time.monotonic(), place / "whole"
    if not undisturbed(job, whole):
        raise SystemExit(f"does not run: {whole.with_suffix('.log').read_text()[-300:]}")
    took, wanted = time.monotonic() - start, table(whole)
    done, killed_so_far, others = 0, 0, []
    while killed_so_far < kills:
        out = place / f"attempt-{done}"
        killed_so_far += sum(killed(job, out, chance.uniform(0, took)) for _ in range(chance.randint(1, MOST_KILLS)))
        ends = undisturbed(job, out)
        if not ends or table(out) != wanted:
            others.append(f"{out}: {'another table' if ends else 'an error'}")
        else:
            shutil.rmtree(out, ignore_errors=True)
        done += 1
    return took, done, killed_so_far, done - len(others), others


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each job, at least")
    parser.add_argument("--jobs", default="profile,sweep,training,localize,push,study")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, place = random.Random(options.seed), Path(tempfile.mkdtemp(prefix="kills-"))
    os.environ |= {"HF_REPGEO_CACHE": str(place / "cache"), "HF_HUB_DISABLE_XET": "1"}
    jobs = Jobs(place / "models")
    print("| job | seconds | attempts | kills | equal tables | other |\n|---|---|---|---|---|---|")
    for name in options.jobs.split(","):
        (place / name).mkdir()
        took, *counts, others = attempts(
            getattr(jobs, name), getattr(jobs, f"{name}_table"), place / name, options.kills, chance
        )
        print(f"| {name} | {took:.1f} | {' | '.join(map(str, counts))} | {'; '.join(others)} |", flush=True)
    print(json.dumps({"staging folders left": len(list((place / "cache").rglob("pushes/*")))}))


if __name__ == "__main__":
    main()
