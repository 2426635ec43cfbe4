"""What a measurement keeps of added batches: moments if they are enough, else the rows themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch

from ..errors import BadInput, TooFewRows
from ..measures import Estimate, Moments, PointCloud, evaluate_all, resolve, with_chance
from ..measures.spectrum import anisotropy_of_moments
from ..rows.files import row_blocks

ARGUMENT = "representations"
FOLDED_ROWS = 8192  # folded at once, since folding costs d^2 even for a few rows
WHOLE_BYTES = 2**31  # of a column that is read at once
NO_ERROR = "no_standard_error: batches were folded into moments; give `compute` all rows at once for a standard error"


def checked_rows(batch) -> torch.Tensor:
    """A batch as `(n, hidden_size)` rows in float32 or float64 on its own device; a single row is allowed.

    Args:
        batch: a tensor, an array, or a list of numbers, tensors or arrays.

    Raises:
        BadInput: not a matrix of finite numbers.
    """
    batch = as_matrix(batch)
    single = count_of(batch) == 1
    cloud = PointCloud(_twice(batch) if single else batch, argument=ARGUMENT)  # a cloud needs two rows
    return cloud.unscaled_rows[:1] if single else cloud.unscaled_rows


def whole_column(data):
    """The rows of a data set of known length as one array, if they take at most 2 GiB; else the data set as it came."""
    count = count_of(data)
    first = next(iter(row_blocks(data)), None) if count else None
    if first is None or count * first.shape[1] * first.dtype.itemsize > WHOLE_BYTES:
        return data
    return torch.from_numpy(np.concatenate(list(row_blocks(data))))


def count_of(batch) -> int | None:
    """How many rows a batch seems to have; `None` if it cannot be a batch."""
    try:
        return len(batch)
    except TypeError:
        return None


def as_matrix(batch):
    """Lists of tensors or arrays are stacked, so that they keep their dtype and device; anything else is unchanged."""
    if isinstance(batch, torch.Tensor):
        return batch.detach()
    if isinstance(batch, (list, tuple)) and batch:
        try:
            if isinstance(batch[0], torch.Tensor):
                return torch.stack(tuple(batch))
            if isinstance(batch[0], np.ndarray):
                return np.stack(batch)
        except (RuntimeError, TypeError, ValueError) as error:
            raise BadInput(ARGUMENT, came=f"rows that do not fit ({error})", wanted="rows of one length") from None
    return batch


def _twice(batch) -> torch.Tensor | np.ndarray:
    return torch.cat([batch, batch]) if isinstance(batch, torch.Tensor) else np.repeat(np.asarray(batch), 2, axis=0)


def estimates_of(name: str, cloud: PointCloud, options: dict, null: bool | str = False) -> list[Estimate]:
    """A measure's estimates in all its conventions, the default one first; with the chance level if asked."""
    with torch.no_grad():
        estimates = evaluate_all(cloud, resolve(name), **options)
        return with_chance(cloud, estimates, null, **options) if null else estimates


class Stream(ABC):
    """Batches in, estimates out."""

    def __init__(self) -> None:
        self._n = 0
        self._rows: list[torch.Tensor] = []
        self._width: int | None = None
        self._device: torch.device | None = None

    def __len__(self) -> int:
        return self._n

    def add(self, rows: torch.Tensor) -> None:
        """Takes in `rows`, from `checked_rows`; the caller may overwrite them afterwards.

        Raises:
            BadInput: another number of columns than the rows before.
        """
        if self._width is None:
            self._width, self._device = rows.shape[1], rows.device
        if rows.shape[1] != self._width:
            wanted = f"{self._width} columns, as in the rows before"
            raise BadInput(ARGUMENT, came=f"a batch of {rows.shape[1]} columns", wanted=wanted)
        self._n += len(rows)
        self._take(rows.to(self._device))

    @abstractmethod
    def _take(self, rows: torch.Tensor) -> None:
        """Keeps the rows, or their moments."""

    @abstractmethod
    def estimates(self, name: str, options: dict, null: bool | str = False, **cloud_options) -> list[Estimate]:
        """The estimates over all rows so far.

        Args:
            name: of the measure.
            options: of the measure.
            null: whether to add the chance level of each.
            cloud_options: of the `PointCloud`: `groups`, `seed`.

        Raises:
            TooFewRows: fewer than two rows.
        """


class KeptRows(Stream):
    """Keeps every row: for measures that compare rows with each other."""

    def _take(self, rows: torch.Tensor) -> None:
        self._rows.append(rows.clone())

    def estimates(self, name: str, options: dict, null: bool | str = False, **cloud_options) -> list[Estimate]:
        rows = self._rows[0] if len(self._rows) == 1 else torch.cat(self._rows)
        return estimates_of(name, PointCloud(rows, argument=ARGUMENT, **cloud_options), options, null)


class FoldedMoments(Stream):
    """Folds rows into `Moments`: memory O(d^2) beside some rows, however many there are. For anisotropy."""

    def __init__(self) -> None:
        super().__init__()
        self._moments: Moments | None = None

    def _take(self, rows: torch.Tensor) -> None:
        self._rows.append(rows)
        if sum(map(len, self._rows)) >= FOLDED_ROWS:
            self._fold()
        else:
            self._rows[-1] = rows.clone()

    def _fold(self) -> None:
        rows = torch.cat(self._rows) if len(self._rows) > 1 else self._rows[0]
        moments = Moments.of(rows)
        self._moments = moments if self._moments is None else self._moments + moments
        self._rows = []

    def estimates(self, name: str, options: dict, null: bool | str = False, **cloud_options) -> list[Estimate]:
        if self._n < 2:
            raise TooFewRows(ARGUMENT, came=f"{self._n} row(s)", wanted="at least 2")
        if null:
            cure = "Give them to one call: compute(representations=X, null=True)."
            raise BadInput("null", came="rows that were folded into moments", wanted="all rows at once", cure=cure)
        if self._rows:
            self._fold()
        assert self._moments is not None  # two rows were added
        estimate = anisotropy_of_moments(self._moments, ARGUMENT)
        return [estimate if estimate.value is None else estimate.warned(NO_ERROR)]
