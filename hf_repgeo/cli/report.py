"""The command line for reports that are already measured: hf-repgeo report push."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..report import GeometryReport

PUSH = """\
Put a report into a model repository on the Hub: its files under repgeo/, a section in the card, the summary in the
card's model-index; with --results-dataset also its rows into a data set.

What is not yours gets a pull request. With --to nothing is pushed: what would go up is written into a folder. Log in
with 'hf auth login' before; there is no option for a token, so that none ends up in a shell's history.
"""

EXAMPLES = """\
examples:
  hf-repgeo report push repgeo/gpt2/profile.json me/my-gpt2 --to look-first
  hf-repgeo report push repgeo/gpt2/profile.json me/my-gpt2 --results-dataset me/geometry --private
"""


def add_report_commands(commands) -> None:
    """Adds `report push` to the subparsers of the command line.

    Args:
        commands: what `ArgumentParser.add_subparsers` returned. Parsed options carry `run`, a function of the options.
    """
    reports = commands.add_parser("report", help="what to do with a report", description="What to do with a report.")
    verbs = reports.add_subparsers(required=True, metavar="VERB")
    form = argparse.RawDescriptionHelpFormatter
    parser = verbs.add_parser("push", help="to the Hub", description=PUSH, epilog=EXAMPLES, formatter_class=form)
    parser.set_defaults(run=_push)
    parser.add_argument("report", metavar="REPORT", help="a .json or .parquet report, or a folder with profile.json")
    parser.add_argument("repo_id", metavar="OWNER/NAME", help="the model repository")
    parser.add_argument("--to", metavar="DIR", help="a dry run: only write what would go up")
    parser.add_argument("--results-dataset", metavar="OWNER/NAME", help="a data set to append the rows to")
    parser.add_argument("--name", metavar="NAME", help="of the files (default: the text's name and a hash)")
    _add_switches(parser)


def _add_switches(parser: argparse.ArgumentParser) -> None:
    switch = argparse.BooleanOptionalAction
    parser.add_argument("--private", action=switch, help="visibility of a repository that is created")
    parser.add_argument("--create-pr", action=switch, help="by pull request (default: where it is not yours)")
    parser.add_argument("--card", action=switch, default=True, help="write the card's section and summary")
    parser.add_argument("--overwrite", action="store_true", help="replace results of the same run in the card")


def _push(options: argparse.Namespace) -> None:
    from ..hub.push import push_report

    names = ("to", "results_dataset", "name", "private", "create_pr", "card", "overwrite")
    print(push_report(_read(Path(options.report)), options.repo_id, **{name: getattr(options, name) for name in names}))


def _read(path: Path) -> GeometryReport:
    from ..report import GeometryReport

    path = path / "profile.json" if path.is_dir() else path
    return GeometryReport.from_parquet(path) if path.suffix == ".parquet" else GeometryReport.from_json(path)
