"""`hf-repgeo report show`, `verify` and `push`: what to do with a report that is measured already."""

from __future__ import annotations

import argparse

from .options import add_flags, given
from .output import add_json_flag, print_report, read_report

ABOUT_PUSH = """\
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

PUSH = "hf_repgeo.hub.push.push_report"
KEYWORDS = ("to", "results_dataset", "atlas", "name", "private", "create_pr", "card", "license", "overwrite")
REPORT = {"metavar": "REPORT", "help": "a .json or .parquet report, or a folder with profile.json"}


def add(commands) -> None:
    """Adds `report` to the commands of the parser."""
    reports = commands.add_parser("report", help="what to do with a report", description="What to do with a report.")
    verbs = reports.add_subparsers(required=True, metavar="VERB")
    _add_show(verbs)
    _add_verify(verbs)
    _add_push(verbs)


def _add_show(verbs) -> None:
    parser = verbs.add_parser("show", help="on the terminal", description="Print a report.")
    parser.set_defaults(run=show)
    parser.add_argument("report", **REPORT)
    add_json_flag(parser)


def _add_verify(verbs) -> None:
    about = "Measure a report again from its own provenance, and say what differs. Exit code 1: more than is tolerated."
    parser = verbs.add_parser("verify", help="measure again and compare", description=about)
    parser.set_defaults(run=verify)
    parser.add_argument("report", **REPORT)
    parser.add_argument("--model", help="in place of the one that the report names")
    parser.add_argument("--text", metavar="FILE", help="the texts, unless they are the packaged sample")
    parser.add_argument("--file", metavar="FILE", help="the rows, in place of the file that the report names")
    parser.add_argument("--images", metavar="PATH", help="the image or folder of images that the report is of")
    parser.add_argument("--tokenizer", metavar="NAME", help="its folder or Hub id, if it is not beside the model")
    parser.add_argument("--audio", metavar="PATH", help="the sound or folder of sounds that the report is of")


def _add_push(verbs) -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = verbs.add_parser("push", help="to the Hub", description=ABOUT_PUSH, epilog=EXAMPLES, formatter_class=form)
    parser.set_defaults(run=push)
    parser.add_argument("report", **REPORT)
    parser.add_argument("repo_id", metavar="OWNER/NAME", help="the model repository")
    add_flags(parser, PUSH, *KEYWORDS, to="DIR", results_dataset="OWNER/NAME", atlas="OWNER/NAME")


def show(options: argparse.Namespace) -> None:
    """Prints the report."""
    print_report(read_report(options.report), options)


def verify(options: argparse.Namespace) -> int:
    """Measures the report again, and prints what differs."""
    from ..verification import verify_report

    same = {name: getattr(options, name) for name in ("model", "file", "images", "audio", "tokenizer")}
    found = verify_report(read_report(options.report), texts=options.text, **same)
    print(found)
    return 0 if found.holds else 1


def push(options: argparse.Namespace) -> None:
    """Pushes the report, and prints where it is."""
    from ..hub.push import push_report

    print(push_report(read_report(options.report), options.repo_id, **given(options, *KEYWORDS)))
