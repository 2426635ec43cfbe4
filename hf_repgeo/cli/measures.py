"""`hf-repgeo measures`: the list of measures."""

from __future__ import annotations

import argparse
import json

from .output import add_json_flag


def add(commands) -> None:
    """Adds `measures` to the commands of the parser."""
    parser = commands.add_parser("measures", help="list the measures", description="List the measures.")
    parser.set_defaults(run=run)
    add_json_flag(parser)


def run(options: argparse.Namespace) -> None:
    """Prints the table of measures."""
    from ..measures import MEASURES

    if options.json:
        print(json.dumps({name: _facts(measure) for name, measure in MEASURES.items()}, indent=1))
        return
    for name, measure in MEASURES.items():
        low, high = ("?" if end is None else f"{end:g}" for end in measure.range)
        print(f"{name}  [{low}, {high}] {measure.unit}; {measure.direction}")
        print(f"    conventions: {', '.join(measure.conventions)}; needs {measure.minimum_rows} rows; {measure.cost}")
        print(f"    {measure.source}")


def _facts(measure) -> dict:
    facts = vars(measure) | {"invariances": sorted(measure.invariances)}
    del facts["function"]
    return facts
