"""The base of the three measurements: takes rows in any form, and returns estimates as flat numbers.

One process holds its rows in memory: a tensor or array given to `compute` is measured without Arrow and without a
copy. Several processes write their rows to evaluate's own files, and process 0 measures them all.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import datasets
import evaluate
import numpy as np
import pyarrow as pa
import torch

from ..errors import BadInput, UnknownName
from ..measures import MEASURES, Estimate, PointCloud, check_null, check_options
from ..rows.files import is_dataset, row_blocks
from .streams import ARGUMENT, KeptRows, Stream, as_matrix, checked_rows, count_of, estimates_of, whole_column

CLOUD_OPTIONS = ("groups", "seed")
CHANCE = ("null", "null_low", "null_high", "p")

# `evaluate.combine` hands every keyword to every module. These belong to others and are ignored here: the options of
# our other measures, and those of the metrics that are combined most often. Anything else raises UnknownName.
FOREIGN_OPTIONS = frozenset(option for measure in MEASURES.values() for option in measure.takes) | {
    "average",
    "beta",
    "labels",
    "multioutput",
    "normalize",
    "pos_label",
    "sample_weight",
    "squared",
    "zero_division",
}

INPUTS = """
Args:
    representations: rows `(n_samples, hidden_size)`: a torch tensor on any device, a numpy array, lists of numbers, or
        a column of a `datasets.Dataset`, which is read in blocks. Optional if rows were added before.
    groups: `(n_samples,)` integers, rows that belong together; standard errors leave out whole groups. Without them
        runs of neighbouring rows are left out, so that the errors, and never the values, depend on the order.
    seed: for everything random in the measure; default 0, or the seed given to `evaluate.load`.
"""


def measurement_info(description: str, citation: str, inputs: str, homepage: str) -> evaluate.MeasurementInfo:
    """The description of one of our measurements; a row is a vector of float32 of any length.

    Args:
        description: what the number means.
        citation: BibTeX.
        inputs: further arguments, what is returned, an example.
        homepage: of the paper.
    """
    return evaluate.MeasurementInfo(
        description=description,
        citation=citation,
        inputs_description=INPUTS + inputs,
        features=datasets.Features({ARGUMENT: datasets.Sequence(datasets.Value("float32"))}),
        homepage=homepage,
        reference_urls=[homepage],
        license="Apache-2.0",
    )


class GeometryMeasurement(evaluate.Measurement, ABC):
    """A measure of this package as an `evaluate.Measurement`. Abstract, so that evaluate's loader skips it.

    A subclass says which measure it is, how it streams, and what it means:

    - `measure`: name in the table of measures;
    - `stream`: how added batches are kept;
    - `_info()`: description, citation, features.

    Args:
        config_name: evaluate's name for variants; there are none, since every convention is in the result.
        seed: the measures' seed if `compute` gets none.
        options: of `evaluate.EvaluationModule`.
    """

    measure: str
    data: Any  # evaluate sets it to the gathered rows
    stream: type[Stream] = KeptRows

    def __init__(self, config_name: str | None = None, *, seed: int | None = None, **options):
        if config_name not in (None, "default"):
            raise UnknownName(f"configuration of {self.measure}", config_name, ["default"])
        super().__init__(config_name, seed=seed, **options)
        self._measure_seed = 0 if seed is None else seed
        self._stream = self.stream()

    @abstractmethod
    def _info(self) -> evaluate.MeasurementInfo:
        """Description, citation and features."""

    def _build_data_dir(self) -> str:
        """The folder in which several processes meet; a single process needs none."""
        if self.num_process > 1:
            return super()._build_data_dir()
        return os.path.join(self._data_dir_root, self.name, self.config_name)

    def download_and_prepare(self, download_config=None, dl_manager=None) -> None:
        """Does nothing: there is nothing to download."""

    def __len__(self) -> int:
        """The rows that were added and not measured yet."""
        return len(self._stream) if self.num_process == 1 else super().__len__()

    # --- rows in ----------------------------------------------------------------------------------------------------

    def add(self, *, representations) -> None:
        """Adds one row, `(hidden_size,)`.

        Raises:
            BadInput: not a vector of finite numbers, or of another length than the rows before.
        """
        row = representations if isinstance(representations, torch.Tensor) else np.asarray(representations)
        self.add_batch(representations=row[None])

    def add_batch(self, *, representations) -> None:
        """Adds rows, `(n, hidden_size)`; an empty batch adds nothing, and the caller may reuse its memory.

        Raises:
            BadInput: not a matrix of finite numbers, or of another width than the rows before.
        """
        for block in row_blocks(representations) if is_dataset(representations) else [representations]:
            if count_of(block) != 0:
                rows = checked_rows(block)
                self._stream.add(rows) if self.num_process == 1 else self._write(rows)

    def _write(self, rows: torch.Tensor) -> None:
        """Appends rows to this process's Arrow file, as lists of fixed size, which need no Python objects."""
        array = rows.cpu().numpy()
        column = pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])
        if self.writer is None:
            feature = datasets.Sequence(datasets.Value(str(array.dtype)), length=array.shape[1])
            self.selected_feature_format = datasets.Features({ARGUMENT: feature})
            self._init_writer()  # waits for the other processes
        self.writer.write_table(pa.table({ARGUMENT: column}))

    # --- numbers out --------------------------------------------------------------------------------------------------

    def compute(self, *, representations=None, predictions=None, references=None, **options) -> dict | None:
        """Measures the rows given here, or those added before, or both together.

        `null=True` puts `NAME_null`, `NAME_null_low`, `NAME_null_high` and `NAME_p` beside each value.

        A tensor or array alone is measured without copying or writing anything. `predictions` and `references` are for
        other modules in an `evaluate.combine`, and are ignored.

        Returns:
            dict of plain numbers, or `None` on every process but the first. If a measure cannot be computed, its value
            is `None` and `..._reason` says why; `..._warnings` is there if the measure warns.

        Raises:
            BadInput: no rows, or not a matrix of finite numbers.
            UnknownName: an option that no measure has.
        """
        self._check(options)
        check_options(self._own(options))
        check_null(options.get("null"))
        if self.num_process > 1:
            return super().compute(representations=representations, **options)
        if representations is None and not len(self._stream):
            came = "predictions" if predictions is not None else "nothing"
            raise BadInput(ARGUMENT, came=came, wanted=f"rows: compute({ARGUMENT}=X), or add_batch before")
        if is_dataset(representations) and not len(self._stream):
            representations = whole_column(representations)
        if representations is None or len(self._stream) or is_dataset(representations):
            return self._compute_streamed(representations, options)
        return self._compute(representations, **options)

    def _compute(self, representations, **options) -> dict:
        cloud = PointCloud(as_matrix(representations), argument=ARGUMENT, **self._cloud_options(options))
        return flat(self.measure, estimates_of(self.measure, cloud, self._own(options), options.get("null", False)))

    def _compute_streamed(self, representations, options: dict) -> dict:
        if representations is not None:
            self.add_batch(representations=representations)
        stream, self._stream = self._stream, self.stream()
        if not len(stream):
            raise BadInput(ARGUMENT, came="no rows", wanted="at least 2")
        own = self._own(options)
        return flat(
            self.measure,
            stream.estimates(self.measure, own, options.get("null", False), **self._cloud_options(options)),
        )

    def _finalize(self) -> None:
        """Reads the rows of all processes in process 0 as one array, where evaluate would make lists of Python floats.

        Raises:
            BadInput: the processes wrote rows of different widths or dtypes.
        """
        try:
            super()._finalize()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, TypeError) as error:
            came = f"rows of different widths or dtypes in the processes ({error})"
            raise BadInput(ARGUMENT, came=came, wanted="the same in every process") from None
        if self.process_id == 0:
            self.data = _Merged(self.data)

    # --- options ------------------------------------------------------------------------------------------------------

    def _check(self, options: dict) -> None:
        known = {*CLOUD_OPTIONS, *FOREIGN_OPTIONS, "null"}
        for option in options:
            if option not in known:
                own = {ARGUMENT, *CLOUD_OPTIONS, "null", *MEASURES[self.measure].takes}
                raise UnknownName("option", option, sorted(own))

    def _own(self, options: dict) -> dict:
        return {name: value for name, value in options.items() if name in MEASURES[self.measure].takes}

    def _cloud_options(self, options: dict) -> dict:
        given = {name: options[name] for name in CLOUD_OPTIONS if options.get(name) is not None}
        return {"seed": self._measure_seed, **given}


class _Merged:
    """The rows that all processes wrote, in the shape in which `EvaluationModule.compute` asks for them."""

    def __init__(self, dataset: datasets.Dataset):
        self._blocks = list(row_blocks(dataset, ARGUMENT))

    def set_format(self, type=None) -> None:
        """Does nothing; evaluate calls it, but there is only one format."""

    def __getitem__(self, name: str) -> np.ndarray:
        return np.concatenate(self._blocks)


def flat(name: str, estimates: Iterable[Estimate]) -> dict[str, float | int | str | None]:
    """Estimates of one measure as one flat dict; the first convention has the measure's own name.

    Args:
        name: of the measure, which begins every key, so that modules never clash in `evaluate.combine`.
        estimates: one per convention, the default one first.

    Returns:
        `NAME`, `NAME_standard_error`, likewise `NAME_CONVENTION` for further conventions; `NAME_n` and, where copies
        matter, `NAME_n_distinct`. If a value is `None`, also `NAME_reason`; if there are warnings, `NAME_warnings`.
    """
    estimates = list(estimates)
    first = estimates[0]
    result: dict[str, float | int | str | None] = {}
    for estimate in estimates:
        key = name if estimate is first else f"{name}_{estimate.convention}"
        result |= {key: estimate.value, f"{key}_standard_error": estimate.standard_error}
        chance = {part: estimate.details[part] for part in CHANCE if part in estimate.details}
        result |= {f"{key}_{part}": number for part, number in chance.items()}
        if estimate.value is None:
            result[f"{key}_reason"] = estimate.warnings[0]
    result[f"{name}_n"] = first.n
    if first.n_distinct is not None:
        result[f"{name}_n_distinct"] = first.n_distinct
    warnings = [said for estimate in estimates for said in estimate.warnings[estimate.value is None :]]
    if warnings:
        result[f"{name}_warnings"] = "; ".join(dict.fromkeys(warnings))
    return result
