"""Reads and checks tables of scores and measures for regressions, wide or long, from our studies or elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import BadInput, MissingExtra, UnknownName
from .probes import PROBES
from .results import AVERAGES, FINETUNED

if TYPE_CHECKING:
    import pandas

ARCHITECTURES = ("architecture", "arch", "family")
DOSES = ("alpha", "dose")
BOOKKEEPING = ("run", "seed", "index", "how", "model", "held_out")
SCORES = (*FINETUNED, *PROBES, *AVERAGES, "glue", "glue_with_wnli")
LEAST_ROWS = 6  # for a correlation with an interval; a regression also needs more rows than parameters


@dataclass(frozen=True)
class ScoreTable:
    """Rows of a table, their columns sorted by role.

    Attributes:
        frame: one row per model, as read; rows without a score are left out.
        score: `(n,)` float64.
        measures: name -> `(n,)` float64, NaN where missing.
        baselines: what the measures are compared with, such as a validation loss, in the same form.
        architecture: `(n,)` names; all equal when there is no such column.
        dose: `(n,)` float64, or `None`.
        held_out: `(n,)` bool; these rows are predicted and not fitted.
        notes: what was left out and why, a sentence each.
        score_name: of the column.
    """

    frame: pandas.DataFrame
    score: np.ndarray
    measures: dict[str, np.ndarray]
    baselines: dict[str, np.ndarray]
    architecture: np.ndarray
    dose: np.ndarray | None
    held_out: np.ndarray
    notes: list[str] = field(default_factory=list)
    score_name: str = "score"

    @property
    def families(self) -> list[str]:
        return sorted(set(self.architecture[~self.held_out].tolist()))

    @property
    def log_dose(self) -> np.ndarray | None:
        """Base-10 logarithm; dose 0 counts as half of the smallest dose above it."""
        if self.dose is None:
            return None
        smallest = self.dose[self.dose > 0].min(initial=np.inf)
        return np.log10(np.maximum(self.dose, smallest / 2 if np.isfinite(smallest) else 1.0))

    def cells(self, rows: np.ndarray) -> np.ndarray:
        """Number of each row's (architecture, dose); without doses every row has its own number."""
        if self.dose is None:
            return np.arange(int(rows.sum()))
        keys = list(zip(self.architecture[rows].tolist(), self.dose[rows].tolist()))
        number = {key: position for position, key in enumerate(dict.fromkeys(keys))}
        return np.array([number[key] for key in keys])


def read_scores(
    table: str | Path | pandas.DataFrame,
    score: str,
    *,
    measures: Sequence[str] | None = None,
    baselines: Sequence[str] | None = None,
    architecture: str | None = None,
    dose: str | None = None,
) -> ScoreTable:
    """Reads a table for `regress`.

    Args:
        table: a CSV (or TSV, or Parquet) file, or a data frame. Wide: one row per model, a column each for the score,
            the architecture and every measure. Long: columns `measure` (or `quantity`) and `value`; all other columns
            name the model. `tidy.csv` and `table.csv` of a study are one of each.
        score: column of the score.
        measures: columns; default: all numeric ones except scores, doses, losses and runs.
        baselines: columns that the measures are compared with, such as a validation loss.
        architecture: column of the family; default: `architecture`, `arch` or `family`, if there is one.
        dose: column of the noise's dose; default: `alpha` or `dose`, if there is one.

    Raises:
        BadInput: no such file, a score that is missing or constant, a measure asked for that is constant or not
            numeric, no measure left, fewer rows than a regression needs.
        UnknownName: a column that does not exist.
    """
    frame = _wide(frame_of(table))
    notes: list[str] = []
    for column in [score, *(measures or ()), *(baselines or ()), *filter(None, (architecture, dose))]:
        if column not in frame.columns:
            raise UnknownName("column", column, map(str, frame.columns))
    architecture = architecture or next((name for name in ARCHITECTURES if name in frame.columns), None)
    dose = dose or next((name for name in DOSES if name in frame.columns), None)
    frame = _scored(frame, score, [name for name in (architecture, dose) if name], notes)
    if len(frame) < LEAST_ROWS:
        raise BadInput("table", came=f"{len(frame)} rows with a score", wanted=f"at least {LEAST_ROWS}")
    roles = {score, architecture, dose, *(baselines or ())}
    asked = _measure_columns(frame, roles) if measures is None else list(measures)
    held_out = _flags(frame)
    values = _usable(frame, asked, measures is not None, held_out, notes)
    if not values:
        raise BadInput("table", came="no numeric column that varies beside the score", wanted="at least one measure")
    table_of = ScoreTable(
        frame,
        _numbers(frame, score),
        values,
        {name: _numbers(frame, name) for name in baselines or ()},
        frame[architecture].astype(str).to_numpy() if architecture else np.array(["all"] * len(frame)),
        _numbers(frame, dose) if dose else None,
        held_out,
        notes,
        score,
    )
    _check_rows(table_of)
    return table_of


def frame_of(table) -> pandas.DataFrame:
    """The table of a file, or a copy of one in memory.

    Raises:
        BadInput: not a file, or not a table.
        MissingExtra: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise MissingExtra("pandas", "downstream", "Reading tables of scores") from None
    if isinstance(table, pandas.DataFrame):
        return table.copy()
    path = Path(table)
    if not path.is_file():
        raise BadInput("table", came=f"{str(path)!r}, which is not a file", wanted="a CSV, TSV or Parquet file")
    try:
        if path.suffix == ".parquet":
            return pandas.read_parquet(path)
        return pandas.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",")
    except Exception as error:  # whatever the parser raises
        said = str(error).splitlines()[0]
        raise BadInput("table", came=f"{str(path)!r} ({said})", wanted="a table with a header") from None


def _wide(frame: pandas.DataFrame) -> pandas.DataFrame:
    """A long table with its measures as columns; a wide one as it is."""
    named = next((name for name in ("measure", "quantity") if name in frame.columns), None)
    if named is None or "value" not in frame.columns:
        return frame
    if "task" in frame.columns:  # a study's tidy table: a task's score gets the task's name
        geometry, scores = frame["task"] == "geometry", frame[named] == "score"
        named_by_task = frame[named].astype(str) + "_" + frame["task"].astype(str)
        frame = frame.assign(**{named: frame[named].where(geometry, frame["task"].where(scores, named_by_task))})
        frame = frame.drop(columns="task")
    keys = [column for column in frame.columns if column not in (named, "value")]
    doubled = frame.duplicated([*keys, named])
    if doubled.any():
        row = frame[doubled].iloc[0]
        came = f"{row[named]!r} twice for {', '.join(f'{k}={row[k]}' for k in keys)}"
        raise BadInput("table", came=came, wanted="one value per measure and model in a long table")
    wide = frame.pivot(index=keys, columns=named, values="value").reset_index()
    wide.columns.name = None
    return wide


def _scored(frame: pandas.DataFrame, score: str, needed: list[str], notes: list[str]) -> pandas.DataFrame:
    """Rows with a score and all other needed columns, each once; the score must vary."""
    numbers = _numbers(frame, score)
    missing = ~np.isfinite(numbers) | frame[needed].isna().any(axis=1).to_numpy()
    if missing.any():
        notes.append(f"{int(missing.sum())} of {len(frame)} rows lack {' or '.join([score, *needed])}: left out.")
    frame = frame[~missing]
    copies = frame.drop(columns=[name for name in ("run", "seed") if name in frame.columns]).duplicated()
    if copies.any():
        notes.append(f"{int(copies.sum())} rows repeat another one in all but run and seed: left out.")
    frame = frame[~copies.to_numpy()].reset_index(drop=True)
    if len(frame) and np.ptp(_numbers(frame, score)) == 0:
        raise BadInput("score", came=f"{score!r}, the same in all {len(frame)} rows", wanted="a score that varies")
    return frame


def _numbers(frame: pandas.DataFrame, column: str) -> np.ndarray:
    import pandas

    numbers = pandas.to_numeric(frame[column], errors="coerce").to_numpy(dtype=np.float64)
    wrong = np.isnan(numbers) & frame[column].notna().to_numpy()
    if wrong.any():
        at = int(np.argmax(wrong))
        raise BadInput("table", came=f"{frame[column].iloc[at]!r} in column {column!r}", wanted="numbers")
    return numbers


def _measure_columns(frame: pandas.DataFrame, roles: set) -> list[str]:
    numeric = frame.select_dtypes("number").columns
    skipped = {*roles, *BOOKKEEPING, *SCORES, *ARCHITECTURES, *DOSES}
    return [name for name in numeric if name not in skipped and not str(name).startswith("loss_")]


def _flags(frame: pandas.DataFrame) -> np.ndarray:
    if "held_out" not in frame.columns:
        return np.zeros(len(frame), dtype=bool)
    return frame["held_out"].astype(str).str.lower().isin(("1", "1.0", "true", "yes")).to_numpy()


def _usable(frame, names: list[str], asked: bool, held_out: np.ndarray, notes: list[str]) -> dict[str, np.ndarray]:
    values = {}
    for name in names:
        numbers = _numbers(frame, name)
        fitted = numbers[~held_out & np.isfinite(numbers)]
        constant = "the same in all rows" if len(fitted) and np.ptp(fitted) == 0 else ""
        why = f"{len(fitted)} values" if len(fitted) < LEAST_ROWS else constant
        if why and asked:
            raise BadInput("measures", came=f"{name!r}, {why}", wanted=f"at least {LEAST_ROWS} values that vary")
        if why:
            notes.append(f"{name} is left out: {why}.")
            continue
        values[name] = np.where(np.isfinite(numbers), numbers, np.nan)
    return values


def _check_rows(table: ScoreTable) -> None:
    n, parameters = int((~table.held_out).sum()), 1 + len(table.families)
    if n < max(LEAST_ROWS, parameters + 2):
        wanted = f"at least {max(LEAST_ROWS, parameters + 2)}: two more than the {parameters} parameters of the model"
        raise BadInput("table", came=f"{n} rows with a score", wanted=wanted)
    if len(table.families) == 1:
        table.notes.append(
            "One architecture only: models with architecture and leave-one-family-out need two, and are left out."
        )
    if table.dose is None:
        table.notes.append("No column of doses: the checks against the dose are left out.")
