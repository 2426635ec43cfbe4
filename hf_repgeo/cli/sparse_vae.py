"""`hf-repgeo sparse-vae train` and `hf-repgeo sparse-vae localize`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..blm.lexicon import LANGUAGES
from ..errors import BadInput
from ..writing import write_whole
from .output import save_figure

PRESETS = ("base", "sparse", "dense_stride", "released")
PROPERTIES = {"chunks": ("subject", "pp1", "pp2", "length"), "roles": ("role", "voice", "frame")}


def add(commands) -> None:
    """Adds `sparse-vae` to the commands of the parser."""
    room = commands.add_parser("sparse-vae", help="where does a sentence embedding keep its information?")
    commands = room.add_subparsers(required=True, metavar="command")
    _add_train(commands)
    _add_localize(commands)


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument("encoder", help="Hub id, folder or pip:PACKAGE of a text encoder")
    command.add_argument("--language", choices=LANGUAGES, default="en")
    command.add_argument("--layer", type=int, default=-1, help="of hidden_states; default: the last")
    command.add_argument("--pooling", choices=("cls", "mean", "first-last"), default="cls")
    command.add_argument("--cache", default=".cache/embeddings", help="folder of cached embeddings")
    command.add_argument("--output", required=True, help="folder to write")
    command.add_argument(
        "--kernel", type=int, nargs="+", help="one or two integers; also the stride, unless the preset is base"
    )


def _add_train(commands) -> None:
    command = commands.add_parser("train", help="train sparse VAEs on chunk patterns or matrices, from several seeds")
    _add_common(command)
    command.add_argument("--task", choices=("chunks", "agreement", "alternation"), default="chunks")
    command.add_argument("--type", choices=("I", "II", "III"), default="I", help="of matrix")
    command.add_argument("--split", choices=("pairs", "seeds", "patterns", "answers"), help="default: the paper's")
    command.add_argument("--preset", choices=PRESETS, default="sparse")
    command.add_argument("--mask", help="layout; default: the preset's")
    command.add_argument("--latents-per-unit", type=int, help="1 to 5: sparsity 0.8 to 0; default: the preset's")
    command.add_argument("--permutation-seed", type=int, help="shuffle the dimensions first: the control for place")
    command.add_argument("--epochs", type=int, default=100)
    command.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run each")
    command.add_argument("--jobs", type=int, default=1, help="runs at a time")
    command.add_argument("--resume", action="store_true")
    command.set_defaults(run=run_train, interrupted=interrupted)


def _add_localize(commands) -> None:
    command = commands.add_parser("localize", help="ablate regions of the array, beside random sets of the same size")
    _add_common(command)
    command.add_argument(
        "--sentences", choices=tuple(PROPERTIES), default="chunks", help="14 patterns, or events in 8 frames (English)"
    )
    command.add_argument("--properties", nargs="+", choices=sum(PROPERTIES.values(), ()), help="default: all of these")
    command.add_argument("--how", choices=("mean", "noise", "resample"), default="mean")
    command.add_argument("--nulls", type=int, default=200, help="shufflings of the dimensions")
    command.add_argument("--seed", type=int, default=0)
    command.set_defaults(run=run_localize)


def _kernel_settings(args: argparse.Namespace) -> dict:
    if not args.kernel:
        return {}
    kernel = args.kernel * 2 if len(args.kernel) == 1 else args.kernel
    return {"kernel": kernel} if getattr(args, "preset", "") == "base" else {"kernel": kernel, "stride": kernel}


def _embedding_options(args: argparse.Namespace) -> dict:
    return {"layer": args.layer, "pooling": args.pooling, "cache_dir": args.cache}


def run_train(args: argparse.Namespace) -> int:
    """Train, choose, and write the models, their figures per run and their mean."""
    from ..blm import generate
    from ..sparse_vae.configuration_sparse_vae import SparseVAEConfig, SparseVAEForBLMConfig
    from ..sparse_vae.embeddings import embed_dataset
    from ..sparse_vae.scoring import evaluate_model, over_runs
    from ..sparse_vae.training import train_runs

    data = generate(args.task, args.language, type=args.type, split=args.split)
    table = embed_dataset(data, args.encoder, **_embedding_options(args))
    settings = {
        "hidden_size": table.rows.shape[1],
        **_kernel_settings(args),
        "permutation_seed": args.permutation_seed,
        **{name: getattr(args, name) for name in ("mask", "latents_per_unit") if getattr(args, name)},
    }
    config_class = SparseVAEConfig if args.task == "chunks" else SparseVAEForBLMConfig
    config = config_class.preset(args.preset, **settings)
    if "validation" not in data:  # matrices have two published parts; a tenth of training chooses the epoch
        parts = data["train"].train_test_split(0.1, seed=0)
        data["train"], data["validation"] = parts["train"], parts["test"]
    output = Path(args.output)
    options = {"epochs": args.epochs, "resume": args.resume, "quiet": args.jobs > 1}
    runs = train_runs(config, data, table, output / "checkpoints", seeds=args.seeds, jobs=args.jobs, **options)
    results = []
    for run in runs:
        run.model.save_pretrained(output / f"model-seed-{run.seed}")
        results.append(
            {"seed": run.seed, "best_epoch": run.best_epoch, **evaluate_model(run.model, data["test"], table).as_dict()}
        )
    summary = over_runs([result["accuracy"] for result in results])
    figures = {"source": table.source, "accuracy": summary, "runs": results}
    write_whole(output / "results.json", json.dumps(figures, indent=1) + "\n")
    print(f"accuracy {summary['mean']:.3f}, runs {', '.join(f'{value:.3f}' for value in summary['runs'])}")
    return 0


def interrupted(args: argparse.Namespace) -> str:
    """What is left of an interrupted training."""
    return f"finished epochs are in {Path(args.output) / 'checkpoints'}; the same command with --resume goes on"


def run_localize(args: argparse.Namespace) -> int:
    """Localise properties of sentences, and write numbers and heat maps."""
    from ..blm import chunk_sentences, role_sentences
    from ..localization.ablation import corrected, localize_property
    from ..localization.controls import without_outliers
    from ..localization.figures import plot_localizations
    from ..localization.regions import receptive_fields
    from ..localization.reports import localization_report
    from ..sparse_vae.configuration_sparse_vae import SparseVAEConfig
    from ..sparse_vae.embeddings import embed_sentences

    if args.sentences == "roles" and args.language != "en":
        raise BadInput("language", came=repr(args.language), wanted="'en', the only one with role sentences")
    sentences = role_sentences() if args.sentences == "roles" else chunk_sentences(args.language)
    properties = args.properties or PROPERTIES[args.sentences]
    table = embed_sentences([sentence.text for sentence in sentences], args.encoder, **_embedding_options(args))
    config = SparseVAEConfig(hidden_size=table.rows.shape[1], **_kernel_settings(args))
    regions = receptive_fields(config).flatten(1)
    test_rows = [row for row in {sentence.row for sentence in sentences} if row % 4 == 0]  # one row of every group
    options = {"test_rows": test_rows, "how": args.how, "n_null": args.nulls, "seed": args.seed}
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
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
