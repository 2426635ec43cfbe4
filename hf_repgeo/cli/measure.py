"""`hf-repgeo measure`: the geometry of the rows of a file."""

from __future__ import annotations

import argparse

from .options import add_flags, given
from .output import add_json_flag, checked_file, print_report
from .profile import QUANTIZE, QUANTIZER

ABOUT = "Measure the rows of a file: a matrix in .npy or .safetensors, or a column of vectors in Parquet."
MEASURE = "hf_repgeo.profiling.measure"
KEYWORDS = ("measures", "null", "interval", "max_rows", "seed")
FORMATS = {
    "json": lambda report, path: report.to_json(path),
    "parquet": lambda report, path: report.to_parquet(path),
}


def add(commands) -> None:
    """Adds `measure` to the commands of the parser."""
    parser = commands.add_parser("measure", help="geometry of the rows of a file", description=ABOUT)
    parser.set_defaults(run=run, shared="work")
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--column", metavar="NAME", help="tensor or column to read (default: the only one)")
    add_flags(parser, MEASURE, *KEYWORDS, measures="NAME,...", interval="LEVEL")
    add_flags(parser, QUANTIZE, *QUANTIZER, quantizer="NAME")
    parser.add_argument("--out", metavar="FILE", help="also write the report, as .json or .parquet")
    add_json_flag(parser)


def run(options: argparse.Namespace) -> None:
    """Measures the file's rows, writes the report if asked to, and prints it."""
    out = checked_file("--out", options.out, FORMATS) if options.out else None
    from ..profiling import measure
    from ..rows.files import read_rows
    from ..rows.processes import current_team

    rows = read_rows(options.file, options.column)
    report = measure(rows, **given(options, *KEYWORDS, *QUANTIZER))
    report.provenance |= {"file": options.file, "column": options.column}
    if out and current_team().first:
        FORMATS[out.suffix.removeprefix(".").lower()](report, out)
    print_report(report, options)
