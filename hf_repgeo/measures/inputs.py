"""Checks the input of a cloud: a matrix of real numbers becomes a dense, finite tensor, or an error says why not."""

from __future__ import annotations

import warnings
from numbers import Integral
from typing import Any, NoReturn

import numpy as np
import torch

from ..errors import BadInput, NonFiniteRows, TooFewRows

MATRIX = "a matrix (n_samples, hidden_size) of real numbers"


def as_matrix(X: Any, argument: str) -> torch.Tensor:
    """The rows as a tensor, without a copy where that is possible.

    Raises:
        BadInput: not a dense matrix of real numbers with at least two rows.
    """
    if isinstance(X, torch.Tensor):
        _check_layout(X, argument)
    elif isinstance(X, np.ndarray):
        X = _from_numpy(X, argument)
    else:
        X = _from_lists(X, argument)
    cure = {
        3: "Take one layer's states and flatten them: X[attention_mask.bool()].",
        1: "One vector has no shape to measure; stack several.",
    }.get(X.ndim, "")
    if X.ndim != 2 or X.shape[1] == 0:
        raise BadInput(argument, came=f"shape {tuple(X.shape)}", wanted=MATRIX, cure=cure)
    if X.dtype == torch.bool or X.is_complex():
        raise BadInput(argument, came=f"dtype {X.dtype}", wanted=MATRIX)
    if X.shape[0] < 2:
        raise TooFewRows(argument, came=f"{X.shape[0]} row(s)", wanted="at least 2")
    return X


def _check_layout(X: torch.Tensor, argument: str) -> None:
    """Refuses tensors that are not plain numbers, and says how to make them plain."""
    kinds = (
        (X.is_nested, "a nested tensor", "Concatenate its parts: torch.cat(X.unbind())."),
        (X.is_meta, "a tensor on the device 'meta', which holds no numbers", "Load the model's weights first."),
        (X.is_quantized, "a quantized tensor", "Pass X.dequantize()."),
        (isinstance(X, torch.masked.MaskedTensor), "a masked tensor", "Leave out the rows that have masked entries."),
        (X.layout != torch.strided, "a sparse tensor", "Pass X.to_dense()."),
    )
    for found, came, cure in kinds:
        if found:
            raise BadInput(argument, came=came, wanted=f"{MATRIX}, dense", cure=cure)


def _from_lists(X: Any, argument: str) -> torch.Tensor:
    """Nested lists, data frames, and whatever else numpy reads as numbers; masks, which it would drop, are refused."""
    if isinstance(X, (list, tuple)) and any(isinstance(row, np.ma.MaskedArray) for row in X):
        return _from_numpy(np.ma.array(X), argument)
    try:
        return torch.from_numpy(np.asarray(X, dtype=np.float64)) if X is not None else _refused(X, argument)
    except (TypeError, ValueError):
        return _refused(X, argument)


def _refused(X: Any, argument: str) -> NoReturn:
    raise BadInput(argument, came=f"a {type(X).__name__} that is not a table of numbers", wanted=MATRIX)


def _from_numpy(X: np.ndarray, argument: str) -> torch.Tensor:
    if isinstance(X, np.ma.MaskedArray):
        if np.ma.is_masked(X):
            came = f"an array with {int(np.ma.count_masked(X))} masked entries"
            cure = "Drop the rows that have them: np.ma.compress_rows(X), or fill them: X.filled(0)."
            raise BadInput(argument, came=came, wanted="a number in every place", cure=cure)
        X = X.data
    if X.dtype == np.longdouble or X.dtype.byteorder == ">":
        X = X.astype(np.float64)
    if any(stride < 0 for stride in X.strides):
        X = np.ascontiguousarray(X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # read-only memory: nothing here writes to it
        try:
            return torch.from_numpy(X)
        except TypeError:
            raise BadInput(argument, came=f"dtype {X.dtype}", wanted=MATRIX) from None


def in_working_dtype(X: torch.Tensor) -> torch.Tensor:
    """float32 and float64 as they are, shorter floats in float32, integers in float64."""
    if X.dtype in (torch.float32, torch.float64):
        return X
    return X.to(torch.float32 if X.dtype.is_floating_point else torch.float64)


def finite_peak(X: torch.Tensor, given: torch.dtype, argument: str) -> float:
    """The largest magnitude of float32 or float64 entries.

    Raises:
        NonFiniteRows: an entry is not finite.
    """
    low, high = (float(end) for end in torch.aminmax(X))
    peak = max(abs(low), abs(high))
    if np.isfinite(peak):
        return peak
    bad = int((~torch.isfinite(X)).any(dim=1).sum())
    cause = " float16 overflows above 65504: collect in bfloat16 or float32." if given == torch.float16 else ""
    raise NonFiniteRows(
        argument,
        came=f"NaN or infinity in {bad} of {X.shape[0]} rows",
        wanted="finite numbers",
        cure="Find where the model overflows, or leave those rows out knowingly." + cause,
    )


def as_groups(groups: Any, n: int, device: torch.device) -> torch.Tensor:
    """`(n,)` integers; labels of any other kind, such as names of documents, are numbered.

    Raises:
        BadInput: not one integer or label for each row.
    """
    if groups is None:
        return torch.arange(n, device=device)
    if not isinstance(groups, torch.Tensor):
        labels = _plain_labels(groups)
        if labels.dtype.kind in "US" and labels.shape == (n,):
            labels = np.unique(labels, return_inverse=True)[1]
        wrong = labels.dtype.kind not in "iub" or labels.shape != (n,)
        groups = labels if wrong else torch.as_tensor(labels.astype(np.int64))
    if tuple(groups.shape) != (n,) or not isinstance(groups, torch.Tensor) or groups.is_floating_point():
        came = f"shape {tuple(groups.shape)}, {groups.dtype}"
        raise BadInput("groups", came=came, wanted=f"{n} integers, one per row", cure="Names of documents will do too.")
    return groups.to(device)


def _plain_labels(groups: Any) -> np.ndarray:
    """Labels as an array; a data frame's column of Python objects becomes one of names or of whole numbers."""
    labels = np.asarray(groups)
    if np.ma.is_masked(groups):
        return labels.astype(object)  # refused
    if labels.dtype.kind != "O":
        return labels
    for kind, plain in ((str, np.str_), (Integral, np.int64)):
        if all(isinstance(label, kind) for label in labels.flat):
            return labels.astype(plain)
    return labels


def as_seed(seed: Any) -> int:
    """A seed that every generator accepts.

    Raises:
        BadInput: not a whole number from 0 to 2^63 - 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= int(seed) < 2**63:
        raise BadInput("seed", came=repr(seed), wanted="a whole number from 0 to 2^63 - 1")
    return int(seed)


def check_count(argument: str, count: Any, least: int) -> None:
    """Raises:
    BadInput: not a whole number of at least `least`, or one that 32 bits don't hold.
    """
    if isinstance(count, bool) or not isinstance(count, Integral) or count < least:
        raise BadInput(argument, came=repr(count), wanted=f"a whole number of at least {least}")
    if int(count) >= 2**31:
        raise BadInput(argument, came="a larger one", wanted="a whole number below 2^31")
