"""Options of a command: flags made from the keywords of the function that it calls.

A flag that is not given is absent from the parsed options, so that defaults are in the functions' signatures only.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from .keywords import Keyword, keywords

METAVARS = {"int": "N", "float": "X"}
SEVERAL = "Sequence[int]"  # several numbers, as in --seeds 0 1 2


def add_flags(parser: argparse._ActionsContainer, function: str, *names: str, **metavars: str) -> None:
    """Adds a flag for each of the named keywords of a function.

    Args:
        parser: a parser, or a group of one.
        function: its full name, such as `"hf_repgeo.profiling.profile"`.
        names: of the keywords; `batch_rows` becomes `--batch-rows`.
        metavars: names of the values in the help, where the type does not give one.
    """
    for name in names:
        add_flag(parser, function, name, metavar=metavars.get(name))


def add_flag(
    parser: argparse._ActionsContainer,
    function: str,
    name: str,
    *,
    flag: str | None = None,
    metavar: str | None = None,
    default: object = None,
) -> None:
    """Adds a flag for one keyword of a function.

    Args:
        parser, function, metavar: as in `add_flags`.
        name: of the keyword, and of the parsed option.
        flag: its name on the command line, such as `"--cache"`; default: the keyword's.
        default: the command's own default, for the help, if it differs from the function's.
    """
    keyword = keywords(function)[name]
    keyword = keyword if default is None else replace(keyword, default=default)
    settings: dict[str, Any] = {"default": argparse.SUPPRESS, "help": _help(keyword), "dest": name}
    kinds = set(re.sub(r"\[[^]]*\]", "", keyword.annotation).split(" | ")) - {"None"}
    if "bool" in kinds:  # further values are for callers in Python
        two_way = keyword.default is not False
        settings["action"] = argparse.BooleanOptionalAction if two_way else "store_true"
    elif keyword.choices and "int" not in kinds:
        settings["choices"] = keyword.choices
    else:
        settings |= {"type": _reader(keyword), "metavar": metavar or METAVARS.get(min(kinds), keyword.name.upper())}
        settings |= {"nargs": "+", "metavar": metavar or "N"} if keyword.annotation == SEVERAL else {}
    parser.add_argument(flag or "--" + name.replace("_", "-"), **settings)


def given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The options of these names that were given on the command line."""
    return {name: getattr(options, name) for name in names if hasattr(options, name)}


def _reader(keyword: Keyword) -> Any:
    """The function that reads a value of the keyword's type."""
    if "list[int]" in keyword.annotation:
        return layer_list
    if "list[str]" in keyword.annotation or "tuple[str" in keyword.annotation:
        return name_list
    if "tuple[float" in keyword.annotation:
        return number_list
    if keyword.choices:
        return partial(number_or_word, keyword.choices)
    return {"int": int, "float": float, SEVERAL: int}.get(keyword.annotation.split(" | ")[0], str)


def _help(keyword: Keyword) -> str:
    """The docstring's words, as help for a terminal, with the default."""
    text = re.sub(r'`"?|"?`', "", keyword.help).replace("%", "%%").rstrip(".")
    if keyword.default is None or isinstance(keyword.default, bool) or "efault" in text:
        return text
    shown = " ".join(map(str, keyword.default)) if isinstance(keyword.default, tuple) else keyword.default
    return f"{text} (default: {shown})"


def name_list(text: str) -> list[str]:
    """Reads `a,b`."""
    return [name.strip() for name in text.split(",") if name.strip()]


def number_list(text: str) -> list[float]:
    """Reads `0,0.01,0.1`.

    Raises:
        ArgumentTypeError: a part is not a number.
    """
    try:
        return [float(number) for number in name_list(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: wanted numbers, such as 0,0.01,0.1") from None


def number_or_word(words: Sequence[str], text: str) -> int | str:
    """Reads `4096`, or one of the words.

    Raises:
        ArgumentTypeError: neither.
    """
    try:
        return text if text in words else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: wanted a whole number or {' or '.join(words)}") from None


def layer_list(text: str) -> list[int]:
    """Reads `0,3-6,-1`.

    Raises:
        ArgumentTypeError: a part is neither a number nor a range.
    """
    found: list[int] = []
    for part in name_list(text):
        span = re.fullmatch(r"(\d+)-(\d+)", part)
        try:
            found += range(int(span[1]), int(span[2]) + 1) if span else [int(part)]
        except ValueError:
            raise argparse.ArgumentTypeError(f"{part!r} is not a layer; write 0,3-6,-1") from None
    return found
