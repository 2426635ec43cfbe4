"""`hf-repgeo sparse-vae train` and `hf-repgeo sparse-vae localize`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..errors import BadInput, RepgeoError
from ..writing import write_whole
from .options import add_flag, add_flags, given
from .output import save_figure

PRESETS = ("base", "sparse", "sparse_units", "dense_stride", "released")
PROPERTIES = {"chunks": ("subject", "pp1", "pp2", "length"), "roles": ("role", "voice", "frame")}
CACHE, NULLS = ".cache/embeddings", 200

GENERATE, GENERATING = "hf_repgeo.blm.export.generate", ("type", "split", "negatives")
EMBED, EMBEDDING = "hf_repgeo.sparse_vae.embeddings.embed_sentences", ("layer", "pooling")
CONFIG = "hf_repgeo.sparse_vae.configuration_sparse_vae.SparseVAEConfig"
CONFIGURING = ("mask", "latents_per_unit", "permutation_seed")
TRAINING = "hf_repgeo.sparse_vae.training"
TRAIN, RUNS = ("epochs", "resume"), ("seeds", "jobs")
LOCALIZE, LOCALIZING = "hf_repgeo.localization.ablation.localize", ("how", "n_null", "seed")


def add(commands) -> None:
    """Adds `sparse-vae` to the commands of the parser."""
    room = commands.add_parser("sparse-vae", help="where does a sentence embedding keep its information?")
    commands = room.add_subparsers(required=True, metavar="command")
    _add_train(commands)
    _add_localize(commands)


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument("encoder", help="Hub id, folder or pip:PACKAGE of a text encoder")
    add_flags(command, GENERATE, "language")
    add_flags(command, EMBED, *EMBEDDING)
    add_flag(command, EMBED, "cache_dir", flag="--cache", metavar="DIR", default=CACHE)
    add_flags(command, EMBED, "trust_remote_code")
    command.add_argument("--output", required=True, metavar="DIR", help="folder to write")
    command.add_argument(
        "--kernel", type=int, nargs="+", help="one or two integers; also the stride, unless the preset is base"
    )


def _add_train(commands) -> None:
    command = commands.add_parser("train", help="train sparse VAEs on chunk patterns or matrices, from several seeds")
    _add_common(command)
    command.add_argument("--task", choices=("chunks", "agreement", "alternation"), default="chunks")
    add_flags(command, GENERATE, *GENERATING)
    command.add_argument("--preset", choices=PRESETS, default="sparse", help="a model of the paper's comparison")
    for name in CONFIGURING:
        add_flag(command, CONFIG, name, default="the preset's")
    add_flags(command, f"{TRAINING}.training_arguments", "epochs")
    add_flags(command, f"{TRAINING}.train", "resume")
    add_flags(command, f"{TRAINING}.train_runs", *RUNS)
    command.set_defaults(run=run_train, interrupted=interrupted)


def _add_localize(commands) -> None:
    command = commands.add_parser("localize", help="ablate regions of the array, beside random sets of the same size")
    _add_common(command)
    command.add_argument(
        "--sentences", choices=tuple(PROPERTIES), default="chunks", help="14 patterns, or events in 8 frames (English)"
    )
    command.add_argument("--properties", nargs="+", choices=sum(PROPERTIES.values(), ()), help="default: all of these")
    add_flags(command, LOCALIZE, "how", "seed")
    add_flag(command, LOCALIZE, "n_null", flag="--nulls", default=NULLS)
    command.set_defaults(run=run_localize)


def _kernel_settings(args: argparse.Namespace) -> dict:
    if not args.kernel:
        return {}
    kernel = args.kernel * 2 if len(args.kernel) == 1 else args.kernel
    return {"kernel": kernel} if getattr(args, "preset", "") == "base" else {"kernel": kernel, "stride": kernel}


def _embedding_options(args: argparse.Namespace) -> dict:
    return {"cache_dir": CACHE} | given(args, *EMBEDDING, "cache_dir", "trust_remote_code")


def run_train(args: argparse.Namespace) -> int:
    """Train, choose, and write the models, their figures per run and their mean."""
    from ..blm import generate
    from ..rows.options import made_folder
    from ..sparse_vae.cards import save_with_card
    from ..sparse_vae.configuration_sparse_vae import SparseVAEConfig, SparseVAEForBLMConfig
    from ..sparse_vae.embeddings import embed_dataset
    from ..sparse_vae.scoring import evaluate_model, over_runs
    from ..sparse_vae.training import train_runs

    output = made_folder("--output", args.output)
    data = generate(args.task, **given(args, "language", *GENERATING))
    table = embed_dataset(data, args.encoder, **_embedding_options(args))
    settings = {
        "hidden_size": table.rows.shape[1],
        "encoder": args.encoder,
        "embedding": table.source,
        "pooling": "cls",
        **_kernel_settings(args),
        **given(args, *EMBEDDING, *CONFIGURING),
    }
    config_class = SparseVAEConfig if args.task == "chunks" else SparseVAEForBLMConfig
    try:
        config = config_class.preset(args.preset, **settings)
    except ValueError as error:  # the configuration's file is pushed with models: it knows no error class of ours
        raise RepgeoError(str(error)) from None
    if "validation" not in data:  # matrices have two published parts; a tenth of training chooses the epoch
        parts = data["train"].train_test_split(0.1, seed=0)
        data["train"], data["validation"] = parts["train"], parts["test"]
    options = given(args, *TRAIN, *RUNS)
    runs = train_runs(config, data, table, output / "checkpoints", quiet=options.get("jobs", 1) > 1, **options)
    results = []
    for run in runs:
        told = {"task": args.task, "preset": args.preset, "seed": run.seed, **given(args, "language", *GENERATING)}
        save_with_card(run.model, output / f"model-seed-{run.seed}", told)
        results.append(
            {"seed": run.seed, "best_epoch": run.best_epoch, **evaluate_model(run.model, data["test"], table).as_dict()}
        )
    summary = over_runs([result["accuracy"] for result in results])
    figures = {"source": table.source, "accuracy": summary, "runs": results}
    write_whole(output / "results.json", json.dumps(figures, indent=1) + "\n")
    print(f"accuracy {summary['mean']:.3f}, runs {', '.join(f'{value:.3f}' for value in summary['runs'])}")
    return 0


def interrupted(args: argparse.Namespace) -> str:
    """The message after an interruption: what is finished, and how to continue."""
    return f"finished epochs are in {Path(args.output) / 'checkpoints'}; the same command with --resume continues"


def run_localize(args: argparse.Namespace) -> int:
    """Localise properties of sentences, and write numbers and heat maps."""
    from ..blm import chunk_sentences, role_sentences
    from ..localization.ablation import corrected
    from ..localization.controls import without_outliers
    from ..localization.figures import plot_localizations
    from ..localization.regions import receptive_fields
    from ..localization.reports import localization_report
    from ..localization.scores import localize_property
    from ..rows.options import made_folder
    from ..sparse_vae.configuration_sparse_vae import SparseVAEConfig
    from ..sparse_vae.embeddings import embed_sentences

    language = given(args, "language").get("language", "en")
    if args.sentences == "roles" and language != "en":
        raise BadInput("language", came=repr(language), wanted="'en', the only one with role sentences")
    output = made_folder("--output", args.output)
    sentences = role_sentences() if args.sentences == "roles" else chunk_sentences(language)
    properties = args.properties or PROPERTIES[args.sentences]
    table = embed_sentences([sentence.text for sentence in sentences], args.encoder, **_embedding_options(args))
    config = SparseVAEConfig(hidden_size=table.rows.shape[1], **_kernel_settings(args))
    regions = receptive_fields(config).flatten(1)
    test_rows = [row for row in {sentence.row for sentence in sentences} if row % 4 == 0]  # one row of every group
    options: dict[str, Any] = {"test_rows": test_rows, "n_null": NULLS} | given(args, *LOCALIZING)
    localized = {}
    for name, rows in (("all dimensions", table), ("without outliers", without_outliers(table))):
        found = corrected({prop: localize_property(sentences, rows, prop, regions, **options) for prop in properties})
        localized[name] = found
        picture = output / f"{name.replace(' ', '-')}.png"
        save_figure(plot_localizations(found, regions, config.shape), picture, dpi=120)
        for prop, one in found.items():
            interval = "" if one.null_low is None else f"[{one.null_low:.2f}, {one.null_high:.2f}] "
            index = "-" if one.index is None else f"{one.index:.2f}"
            p = "" if one.p_value is None else f"p {one.p_value:.3f} "
            print(f"{name}, {prop}: log-probability {one.score:.2f}, index {index} {interval}{p}{one.verdict}")
    localization_report(localized, table.source).to_json(output / "localization.json")
    return 0
