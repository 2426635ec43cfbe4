"""`hf-repgeo sweep`: many models, or many checkpoints of one, on the same rows."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..errors import BadInput
from .options import add_flags, given
from .output import add_json_flag, print_report, save_figure

ABOUT = """\
Profile many models, or many checkpoints of one, on the same text, into one table.

sweep.parquet has one row per number, with the columns member, model, revision and step in front; sweep.json is the same
as a report; figures are beside them. A model that cannot be measured is a row with the reason. The same command
resumes an interrupted one. torchrun and accelerate launch share the models among their processes.
"""

EXAMPLES = """\
examples:
  hf-repgeo sweep EleutherAI/pythia-70m --revisions 'step*' --out pythia --evict
  hf-repgeo sweep --checkpoints runs/my-training --text corpus.txt --out my-training
  hf-repgeo sweep --models models.txt --tokens all,sink_robust --out models
  hf-repgeo sweep --recipe recipes/pythia.yaml --out pythia
  torchrun --nproc-per-node 4 -m hf_repgeo sweep --recipe recipes/encoders-and-decoders.yaml --out both
"""

PROFILE = "hf_repgeo.profiling.profile"
OPTIONS = (
    ["clean", "tokens", "pooling", "rows", "batch_rows", "window", "pack", "oversample", "layers", "final_norm"]
    + ["measures", "dtype", "device", "batch_size", "seed", "trust_remote_code"]
)  # fmt: skip
RECIPE = ("model", "revisions", "checkpoints", "models", "text", "options")


def add(commands) -> None:
    """Adds `sweep` to the commands of the parser."""
    parser = commands.add_parser(
        "sweep",
        help="many models or checkpoints on the same rows",
        description=ABOUT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run, shared="jobs", interrupted=interrupted)
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a Hub id, with --revisions")
    parser.add_argument("--revisions", metavar="PATTERN", help="branches and tags, such as 'step*'")
    parser.add_argument("--checkpoints", metavar="DIR", help="a folder with a model in each subfolder")
    parser.add_argument("--models", metavar="FILE", help="a model, and perhaps a revision, on each line")
    parser.add_argument("--recipe", metavar="FILE", help="models and options from a YAML file")
    parser.add_argument("--text", metavar="FILE", help="default: the packaged sample of Wikipedia")
    parser.add_argument("--evict", action="store_true", help="delete each model from the cache once it is measured")
    parser.add_argument("--out", metavar="DIR", default="repgeo/sweep", help="default: repgeo/sweep")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    add_flags(parser, PROFILE, *OPTIONS, tokens="POLICY,...", layers="L,...", measures="NAME,...")
    add_json_flag(parser)


def run(options: argparse.Namespace) -> None:
    """Measures, writes the files, and prints the table."""
    import matplotlib

    matplotlib.use("Agg")
    from ..sweeps import sweep

    asked = read_recipe(options.recipe) if options.recipe else {}
    for name in ("model", "revisions", "checkpoints", "models", "text"):
        if getattr(options, name) is not None:
            asked[name] = getattr(options, name)
    text = asked.pop("text", None)
    settings = asked.pop("options", {}) | given(options, *OPTIONS)
    model = asked.pop("model", None)
    shown = {"evict": options.evict, "progress": not options.quiet, "out": options.out}
    report = sweep(model, Path(text) if text else None, **asked, **shown, **settings)
    _draw(report, Path(options.out))
    print_report(report, options)
    for member, reason in report.provenance["failed"].items():
        print(f"{member}: {reason}", file=sys.stderr)


def interrupted(options: argparse.Namespace) -> str:
    """The message after an interruption: how many models are measured, and how to continue."""
    done = len(list(Path(options.out).glob("runs/*/note.json")))
    return f"models measured so far, in {options.out}: {done}; the same command measures the others"


def _draw(report, out: Path) -> None:
    """By layer for each member; over the steps too where the members are checkpoints."""
    from ..errors import RepgeoError
    from ..plots import plot_sweep, plot_training

    figures = {"layers.png": plot_sweep, "training.png": plot_training}
    for name, draw in figures.items():
        try:
            save_figure(draw(report), out / name)
        except RepgeoError:  # nothing of this kind was measured
            continue


def read_recipe(path: str | Path) -> dict:
    """The arguments and options of `sweep` in a recipe. Folders are relative to the recipe's own folder.

    Raises:
        BadInput: no such file, not YAML, or unknown entries.
    """
    from ..rows.yaml_text import read_yaml

    path = Path(path)
    try:
        asked = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput("recipe", came=f"{str(path)!r} ({str(error).splitlines()[0]})", wanted="a YAML file") from None
    unknown = sorted(set(asked) - {*RECIPE, "about", "source"}) if isinstance(asked, dict) else ["no mapping"]
    if unknown:
        raise BadInput("recipe", came=f"{str(path)!r} with {unknown[0]!r}", wanted="only " + ", ".join(RECIPE))
    asked = {name: value for name, value in asked.items() if name in RECIPE}
    for name in ("checkpoints", "text"):
        if name in asked:
            asked[name] = str(path.parent / asked[name])
    if isinstance(asked.get("models"), list):
        asked["models"] = [_model(path.parent, entry) for entry in asked["models"]]
    return asked


def _model(folder: Path, entry):
    """A model's name, or its name and revision; a path that begins with `./` is relative to the recipe's folder."""
    name, *revision = [entry] if isinstance(entry, str) else list(entry)
    return (str(folder / name) if str(name).startswith("./") else str(name), *map(str, revision))
