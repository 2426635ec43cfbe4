"""What commands share when they write: reports on the terminal or as JSON, and files that are checked beforehand."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ..errors import BadInput
from ..writing import written_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..report import GeometryReport

BOLD, PALE, YELLOW = "\033[1m", "\033[2m", "\033[33m"


def add_json_flag(parser: argparse.ArgumentParser) -> None:
    """Adds `--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def print_report(report: GeometryReport, options: argparse.Namespace) -> None:
    """Prints the report as a table, or as the JSON that `to_json` writes."""
    print(report.as_json().rstrip() if options.json else coloured(str(report), sys.stdout))


def coloured(text: str, stream: TextIO) -> str:
    """A report's text with a bold heading, pale rules and yellow warnings, if the stream is a terminal with colours.

    `NO_COLOR` in the environment turns it off (https://no-color.org).
    """
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb":
        return text
    table, mark, warnings = text.partition("\nwarnings:\n")
    lines = table.split("\n")
    painted = [_paint(BOLD, lines[0]), *(_paint(PALE, line) if line.startswith("─") else line for line in lines[1:])]
    return "\n".join(painted) + mark + "\n".join(_paint(YELLOW, line) for line in warnings.split("\n"))


def _paint(style: str, line: str) -> str:
    return f"{style}{line}\033[0m" if line else line


def read_report(path: str | Path) -> GeometryReport:
    """A report from its `.json` or `.parquet` file, or from the folder of a profile; a `WhereReport` if it is one.

    Raises:
        BadInput: no report there.
    """
    from ..report import GeometryReport

    path = Path(path)
    path = path / "profile.json" if path.is_dir() else path
    report = GeometryReport.from_parquet(path) if path.suffix == ".parquet" else GeometryReport.from_json(path)
    if "where" in report.provenance:
        from ..localization.where_report import WhereReport

        return WhereReport(report.rows, report.provenance)
    return report


def save_figure(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Draws the figure into a file, which is replaced in one step."""
    with written_whole(path) as unfinished:
        figure.savefig(unfinished, dpi=dpi)


def checked_file(option: str, path: str, endings: Collection[str] = ()) -> Path:
    """A file that can be written, as far as one can tell before the work is done.

    Args:
        option: that names it.
        path: of the file.
        endings: of which its name must have one, such as `"png"`; none given: any.

    Raises:
        BadInput: its folder does not exist or cannot be written, it is not a plain file, or it has another ending.
    """
    file = Path(path)
    if not file.parent.is_dir():
        cure = "" if file.parent.exists() else f"mkdir -p {shlex.quote(str(file.parent))}"
        raise BadInput(option, came=repr(path), wanted="a file in a folder that exists", cure=cure)
    replaceable = file.is_file() or not file.exists()  # a folder or a device is not: files are replaced in one step
    if not replaceable or not os.access(file.parent, os.W_OK):
        raise BadInput(option, came=repr(path), wanted="a file that can be written")
    if endings and file.suffix.removeprefix(".").lower() not in endings:
        raise BadInput(option, came=repr(path), wanted=f"a name that ends in one of .{', .'.join(sorted(endings))}")
    return file
