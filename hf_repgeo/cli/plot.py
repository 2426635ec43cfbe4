"""`hf-repgeo plot`: reports in one figure."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..report_text import shown_name
from .options import name_list
from .output import checked_file, read_report, save_figure

if TYPE_CHECKING:
    from ..report_table import ReportTable

ABOUT = "Draw the layer profiles of one or several reports in one figure, by relative depth when there are several."


def add(commands) -> None:
    """Adds `plot` to the commands of the parser."""
    parser = commands.add_parser("plot", help="reports in one figure", description=ABOUT)
    parser.set_defaults(run=run)
    parser.add_argument("reports", nargs="+", metavar="[NAME=]REPORT.json", help="what `profile` wrote, and its legend")
    parser.add_argument("--measures", type=name_list, metavar="NAME,...", help="one panel each")
    parser.add_argument("--tokens", type=name_list, metavar="POLICY,...", help="token policies to draw")
    parser.add_argument("--out", required=True, metavar="FILE", help="png, pdf or svg")


def run(options: argparse.Namespace) -> None:
    """Draws the reports and prints the file's name."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.backend_bases import FigureCanvasBase

    from ..plots import plot_layers

    out = checked_file("--out", options.out, FigureCanvasBase.get_supported_filetypes())
    named: dict[str, ReportTable] = {}
    for place, entry in enumerate(options.reports):
        name, _, path = entry.rpartition("=")
        report = read_report(path)
        name = name or shown_name(report.provenance.get("model")) or Path(path).stem
        named[f"{name} ({place})" if name in named else name] = report
    chosen = named if len(named) > 1 else next(iter(named.values()))
    if not isinstance(chosen, dict) and "where" in chosen.provenance:
        from ..localization.where_report import plot_where

        save_figure(plot_where(chosen), out)
    else:
        save_figure(plot_layers(chosen, options.measures, options.tokens), out)
    print(options.out)
