"""Small files that users give, read whole: text, JSON, tables. What they are not is said in words."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

from ..errors import BadInput


def utf8_text(path: str | Path, argument: str) -> str:
    """The file's text without byte order mark, with lines that end in `\\n`.

    Raises:
        BadInput: not a file, or not UTF-8.
    """
    path = Path(path)
    if not path.is_file():
        what = "a folder" if path.is_dir() else "which is not a file"
        raise BadInput(argument, came=f"{str(path)!r}, {what}", wanted="a file")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        came = f"{str(path)!r}, not UTF-8 at byte {error.start}"
        raise BadInput(argument, came=came, wanted="text in UTF-8", cure="Save it in that encoding.") from None


def json_value(text: str, argument: str, place: str) -> Any:
    """The value of a JSON text; `place` is its file and line, for the error.

    Raises:
        BadInput: not JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(argument, came=f"{place}: {text.strip()[:40]!r} ({error})", wanted="JSON") from None


def table_records(text: str, argument: str, place: str, **options: Any) -> Iterator[tuple[int, list[str]]]:
    """The line on which each record of a table begins, and its cells. Only a line feed ends a line: U+2028 and other
    breaks occur in texts.

    Args:
        text: as `utf8_text` reads it.
        argument, place: the argument that named the file, and the file, for the error.
        options: of `csv.reader`, such as `delimiter`.

    Raises:
        BadInput: a cell that csv refuses.
    """
    reader = csv.reader(StringIO(text), **options)
    began = 1
    try:
        for cells in reader:
            yield began, cells
            began = reader.line_num + 1
    except csv.Error as error:
        raise BadInput(argument, came=f"{place}, line {began} ({error})", wanted="a table") from None
