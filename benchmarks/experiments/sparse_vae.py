"""The trained models of docs/sparse-vae.md, one line of JSON per run; finished runs are not repeated.

    python benchmarks/experiments/sparse_vae.py FOLDER --output runs            every experiment; hours on one core
    python benchmarks/experiments/sparse_vae.py FOLDER --output runs --only masks kernels
    python benchmarks/experiments/sparse_vae.py FOLDER --output runs --embed agreement-I    cache embeddings only

Chunk data are split by `pairs` (the paper's), `seeds` or `patterns`; matrices are named `task-type[-split]`. Each run
trains on the paper's settings, keeps the epoch of least validation loss and is scored on the test part; a model of
matrices also on the test parts of the other types.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from hf_repgeo.blm import agreement_matrices, alternation_matrices, chunk_sentences, pair_instances, to_dataset
from hf_repgeo.sparse_vae import (
    BLMBaselineConfig,
    EmbeddingTable,
    SparseVAEConfig,
    SparseVAEForBLMConfig,
    embed_sentences,
    evaluate_model,
    planted_table,
    train,
)
from hf_repgeo.sparse_vae.embeddings import dataset_texts

SEEDS = (0, 1, 2)
BASELINES = ("ffnn", "cnn", "vae")
SIZES = (1000, 250)  # matrices for training and test, of every task and type: 15,000 sentences each to embed
SEEDS_SIZES = (600, 200)  # where the test's words are held out
BATCH_OF_TEXTS = 4000


@dataclass(frozen=True)
class Job:
    """One model on one data set, trained from each seed.

    Args:
        data: a split of the chunk data or the name of a set of matrices.
        preset: of `SparseVAEConfig`, or a baseline of matrices.
        settings: override the preset's.
        epochs: of training.
        layer: of the encoder.
        language: of the chunk sentences.
        noise: random vectors instead of embeddings.
        seeds: one run each.
    """

    data: str
    preset: str
    settings: dict = field(default_factory=dict, hash=False)
    epochs: int = 100
    layer: int = -1
    language: str = "en"
    noise: bool = False
    seeds: tuple[int, ...] = SEEDS


CHUNKS = ("sparse_units", "dense_stride", "released")
KERNELS = ((4, 4), (8, 6), (8, 8), (16, 12), (32, 24), (1, 24))
MATRICES = ("sparse_units", "dense_stride", "released")

EXPERIMENTS = {
    "presets": [Job(split, preset) for split in ("pairs", "seeds", "patterns") for preset in CHUNKS]
    + [Job(split, "base") for split in ("pairs", "seeds")],
    "long": [Job("pairs", preset, epochs=400) for preset in CHUNKS],
    "controls": [
        Job("pairs", "sparse_units", noise=True),
        Job("pairs", "sparse_units", {"permutation_seed": 1}),
        Job("pairs", "base", {"permutation_seed": 1}),
    ],
    "sparsity": [
        Job(split, "sparse_units", {"latents_per_unit": count, "mask": "balanced"})
        for count in (1, 2, 3, 4, 5)
        for split in ("pairs", "seeds")
    ],
    "masks": [
        *(Job("pairs", "sparse_units", {"mask": "learned", "mask_temperature": t}) for t in (1.0, 0.1)),
        *(Job("pairs", "sparse_units", {"mask": "random", "mask_seed": seed}, seeds=(seed,)) for seed in (1, 2)),
        *(Job("pairs", "sparse_units", {"mask": mask}) for mask in ("per_channel", "per_region")),
    ],
    "kernels": [
        Job(split, "sparse_units", {"kernel": kernel, "stride": kernel})
        for split in ("pairs", "seeds")
        for kernel in KERNELS
    ],
    "layers": [Job(split, preset, layer=6) for split in ("pairs", "seeds") for preset in (*CHUNKS, "base")],
    "languages": [Job(split, "sparse_units", language=code) for code in ("fr", "it") for split in ("pairs", "seeds")],
    "encoders": [Job(split, preset) for split in ("pairs", "seeds") for preset in ("sparse_units", "dense_stride")],
    **{
        f"{task}-types": [
            Job(f"{task}-{type}", preset, epochs=epochs)
            for type in ("I", "II", "III")
            for preset, epochs in (*((preset, 100) for preset in MATRICES), ("ffnn", 20), ("vae", 100))
        ]
        for task in ("agreement", "alternation")
    },
    **{
        f"{task}-sparsity{split}": [
            Job(f"{task}-I{split}", "sparse_units", {"latents_per_unit": count, "mask": "balanced"})
            for count in (1, 2, 3, 4, 5)
        ]
        for task in ("agreement", "alternation")
        for split in ("", "-seeds")
    },
    **{
        f"{task}-seeds": [
            Job(f"{task}-I-seeds", preset, epochs=epochs)
            for preset, epochs in (("sparse_units", 100), ("dense_stride", 100), ("ffnn", 20))
        ]
        for task in ("agreement", "alternation")
    },
    **{
        f"{task}-large": [Job(f"{task}-I", "base", epochs=60), Job(f"{task}-I", "cnn", epochs=20)]
        for task in ("agreement", "alternation")
    },
}


# --- data and embeddings --------------------------------------------------------------------------------------------


@cache
def chunk_data(split: str, language: str):
    return to_dataset(pair_instances(language, split=split))


@cache
def matrix_data(name: str):
    """`agreement-I` or `alternation-II-seeds` as train, validation (a tenth of training) and test."""
    task, type, *split = name.split("-")
    options = {"sizes": SEEDS_SIZES if split else SIZES, "split": split[0] if split else "answers"}
    made = (
        agreement_matrices("en", type, **options)
        if task == "agreement"
        else alternation_matrices(None, "ALT-ATL", type, **options)
    )
    data = to_dataset(made)
    parts = data["train"].train_test_split(0.1, seed=0)
    data["train"], data["validation"] = parts["train"], parts["test"]
    return data


@dataclass(frozen=True)
class Encoder:
    """An encoder, how its tokens are pooled, and where its embeddings are kept."""

    name: str
    cache_dir: Path
    pooling: str

    @property
    def short(self) -> str:
        return Path(self.name).name.removeprefix("pip:")

    def embed(self, texts: list[str], folder: str, layer: int = -1) -> EmbeddingTable:
        cache_dir = self.cache_dir / self.short / folder
        return embed_sentences(texts, self.name, layer=layer, pooling=self.pooling, cache_dir=cache_dir)


@cache
def chunk_table(encoder: Encoder, layer: int, language: str) -> EmbeddingTable:
    return encoder.embed([sentence.text for sentence in chunk_sentences(language)], "chunks", layer)


@cache
def matrix_table(encoder: Encoder, name: str) -> EmbeddingTable:
    """In bfloat16, which takes half the time; saved after each batch, so that an interruption costs at most one."""
    texts = dataset_texts(matrix_data(name))
    for start in range(0, len(texts), BATCH_OF_TEXTS):
        began = time.monotonic()
        with torch.autocast("cpu", torch.bfloat16):
            table = encoder.embed(texts[: start + BATCH_OF_TEXTS], name)
        print(f"{name}: {len(table.texts)} of {len(texts)} texts, {time.monotonic() - began:.0f} s", flush=True)
    return table


def table_of(encoder: Encoder, job: Job) -> EmbeddingTable:
    if "-" in job.data:
        return matrix_table(encoder, job.data)
    if job.noise:
        return planted_table(chunk_sentences(job.language), 768, strength=0.0)
    return chunk_table(encoder, job.layer, job.language)


# --- runs -----------------------------------------------------------------------------------------------------------


def configuration(job: Job, hidden_size: int):
    if job.preset in BASELINES:
        return BLMBaselineConfig(architecture=job.preset, hidden_size=hidden_size, **job.settings)
    settings = dict(job.settings)
    if hidden_size == 384:
        settings = {"kernel": 8, "stride": 8, **settings} if job.preset != "base" else {"kernel": 8, **settings}
    made = SparseVAEForBLMConfig if "-" in job.data else SparseVAEConfig
    return made.preset(job.preset, hidden_size=hidden_size, **settings)


def run(encoder: Encoder, job: Job, seed: int, output: Path) -> dict:
    """Train and score one model; the model is kept under `output/models`."""
    is_matrix = "-" in job.data
    data = matrix_data(job.data) if is_matrix else chunk_data(job.data, job.language)
    table = table_of(encoder, job)
    folder = output / "checkpoints" / slug(encoder, job, seed)
    options = {"epochs": job.epochs, "save_only_model": True, "save_total_limit": 1}
    found = train(configuration(job, table.rows.shape[1]), data, table, folder, seed=seed, **options)
    found.model.save_pretrained(output / "models" / slug(encoder, job, seed))
    scored = evaluate_model(found.model, data["test"], table)
    row = {"best_epoch": found.best_epoch, "seconds": round(found.seconds, 1), **brief(scored)}
    if is_matrix and job.data.count("-") == 1:
        row["tests"] = other_types(encoder, found.model, job.data)
    return row


def other_types(encoder: Encoder, model, name: str) -> dict:
    """Scores on the tests of the types that the model was not trained on."""
    task, own = name.split("-")
    names = [f"{task}-{type}" for type in ("I", "II", "III") if type != own]
    return {
        other.split("-")[1]: brief(evaluate_model(model, matrix_data(other)["test"], matrix_table(encoder, other)))
        for other in names
    }


def brief(scored) -> dict:
    return {"accuracy": scored.accuracy, "macro_f1": scored.macro_f1, "errors": scored.errors}


def facts(job: Job) -> dict:
    return {name: value for name, value in asdict(job).items() if name != "seeds"}


def slug(encoder: Encoder, job: Job, seed: int) -> str:
    """A name for files, from the settings that differ from a plain job."""
    settings = [f"{name}={value}".replace(" ", "") for name, value in sorted(job.settings.items())]
    layer = [f"layer{job.layer}"] if job.layer != -1 else []
    epochs = [f"epochs{job.epochs}"] if job.epochs > Job.epochs else []
    parts = [encoder.short, job.data, job.preset, *settings, *layer, *epochs, job.language, *(["noise"] * job.noise)]
    return "_".join([*parts, f"seed{seed}"])


def arguments(description: str, choices) -> argparse.ArgumentParser:
    """The options that every experiment takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=choices, default=list(choices))
    parser.add_argument("--pooling", default="cls")
    return parser


def encoder_of(options: argparse.Namespace) -> Encoder:
    torch.set_num_threads(1)
    disable_progress_bar()
    return Encoder(options.model, options.output / "embeddings", options.pooling)


def jobs_and_seeds(experiment: str) -> list[tuple[Job, int]]:
    return [(job, seed) for job in EXPERIMENTS[experiment] for seed in job.seeds]


def names_in(log: Path) -> set[str]:
    return {json.loads(line)["name"] for line in log.open()} if log.exists() else set()


def append(log: Path, row: dict) -> None:
    with log.open("a") as file:
        file.write(json.dumps(row) + "\n")


def main() -> None:
    parser = arguments(__doc__, EXPERIMENTS)
    parser.add_argument("--embed", nargs="+", default=[], help="sets of matrices to embed, and nothing else")
    options = parser.parse_args()
    encoder = encoder_of(options)
    for name in options.embed:
        matrix_table(encoder, name)
    log = options.output / f"{encoder.short}.jsonl"
    done = names_in(log)
    for experiment in [] if options.embed else options.only:
        for job, seed in jobs_and_seeds(experiment):
            name = slug(encoder, job, seed)
            if name in done:
                continue
            found = run(encoder, job, seed, options.output)
            line = {"name": name, "experiment": experiment, "encoder": encoder.short, "seed": seed, **facts(job)}
            append(log, line | found)
            print(f"{name}: {found['accuracy']:.3f} at epoch {found['best_epoch']:g}", flush=True)


if __name__ == "__main__":
    main()
