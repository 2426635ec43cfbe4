"""Options of the doors as plain values, checked before a model is loaded: counts, layers, names, folders."""

from __future__ import annotations

import os
from collections.abc import Iterable
from numbers import Integral
from pathlib import Path
from typing import Any

from ..errors import BadInput
from ..measures.inputs import check_count


def as_count(argument: str, count: Any, least: int) -> int:
    """A whole number, of numpy too, as Python's own.

    Raises:
        BadInput: not a whole number of at least `least`.
    """
    check_count(argument, count, least)
    return int(count)


def as_layers(layers: Any) -> list[int] | None:
    """Numbers of layers, each once; `None`: all of them.

    Raises:
        BadInput: not a list of whole numbers, or an empty one.

    Example:
        >>> as_layers(range(3)), as_layers([-1, -1])
        ([0, 1, 2], [-1])
    """
    if layers is None:
        return None
    listed = isinstance(layers, Iterable) and not isinstance(layers, (str, dict))
    numbers: list[Any] = list(layers) if listed else []
    if not numbers or not all(isinstance(layer, Integral) and not isinstance(layer, bool) for layer in numbers):
        wanted = "a list of whole numbers, such as [0, -1], or None for all layers"
        raise BadInput("layers", came=repr(layers)[:60], wanted=wanted)
    return list(dict.fromkeys(int(layer) for layer in numbers))


def as_names(argument: str, names: Any) -> list[str] | None:
    """One name or several as a list; `None` stays.

    Raises:
        BadInput: not names, or none.
    """
    if names is None:
        return None
    found = [names] if isinstance(names, str) else list(names) if isinstance(names, (list, tuple, set)) else []
    if not found or not all(isinstance(name, str) for name in found):
        raise BadInput(argument, came=repr(names)[:60], wanted="a name or a list of names")
    return found


def as_text(argument: str, text: Any) -> str:
    """A string.

    Raises:
        BadInput: something else.
    """
    if not isinstance(text, str):
        raise BadInput(argument, came=f"a {type(text).__name__}", wanted="a string")
    return text


def as_folder(argument: str, folder: Any) -> Path | None:
    """A folder for files, which need not exist; `None` stays.

    Raises:
        BadInput: no path, or a file.
    """
    return None if folder is None else _folder(argument, folder)


def made_folder(argument: str, folder: Any) -> Path:
    """A folder that can be written, created before the work begins.

    Raises:
        BadInput: no path, a file, or a folder that cannot be created or written.
    """
    place = _folder(argument, folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        came = f"{str(folder)!r} ({error.strerror})"
        raise BadInput(argument, came=came, wanted="a folder that can be made") from None
    if not os.access(place, os.W_OK):
        raise BadInput(argument, came=repr(str(folder)), wanted="a folder that can be written")
    return place


def _folder(argument: str, folder: Any) -> Path:
    if not isinstance(folder, (str, Path)):
        raise BadInput(argument, came=f"a {type(folder).__name__}", wanted="the path of a folder")
    place = Path(folder)
    taken = next((part for part in (place, *place.parents) if part.exists() and not part.is_dir()), None)
    if taken is not None:
        raise BadInput(argument, came=f"{str(folder)!r}, where {taken.name!r} is a file", wanted="a folder")
    return place
