"""GeometryReport: what was measured, one tidy row per case; to and from JSON, Parquet, pandas, datasets."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from .errors import BadInput, RepgeoError, UnknownName
from .writing import write_whole, written_whole

if TYPE_CHECKING:
    import datasets
    import pandas
    import pyarrow

FORMAT = 2
BOUNDS = (("low", "high"), ("null_low", "null_high"))
MAY_BE_NONE = {"step", "p", "p_corrected"}
SHOWN_DETAILS = {"interval_level", "null", *MAY_BE_NONE, *BOUNDS[0], *BOUNDS[1]}

COLUMNS: dict[str, type] = {
    "layer": int,
    "stack": str,
    "point": str,
    "tokens": str,
    "measure": str,
    "convention": str,
    "protocol": str,
    "value": float,
    "sd": float,
    "se": float,
    "se_method": str,
    "n": int,
    "n_distinct": int,
    "n_per_batch": int,
    "n_batches": int,
    "warnings": list,
    "details": dict,
}
CASE = ("stack", "layer", "point", "tokens", "measure", "convention")
STREAM = "residual"  # the point between two blocks


@dataclass
class ReportTable:
    """A table of measured numbers and where they came from.

    Columns of a row:

    - `layer` (0 is what enters block 1, i what leaves block i; `None` for plain rows), `stack` (`"encoder"` or
      `"decoder"`), `point` (`"residual"` for the stream between blocks, `"final_norm"` for what leaves the norm after
      the last one), `tokens` (the token policy)
    - `measure`, `convention`
    - `protocol`: `"whole"` for one value over all rows, `"batches"` for the mean over batches
    - `value` (`None` if it cannot be computed: the first warning says why), `sd` over batches, the standard error `se`
      and how it was computed (`se_method`)
    - `n` rows, `n_distinct` of them distinct, `n_per_batch`, `n_batches`
    - `warnings`: `"code: sentence"` each; `details`: further numbers of the measure

    Attributes:
        rows: one dict per case, with the columns above.
        provenance: model, commit, data, seed, versions, time.

    Example:
        >>> import torch, hf_repgeo
        >>> report = hf_repgeo.measure(torch.eye(4), measures=["participation_ratio"])
        >>> round(report.value("participation_ratio"), 6)
        3.0
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)

    # --- reading ----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def select(self, **columns: Any) -> Self:
        """The rows whose columns have these values; a list, tuple or set allows any of its values.

        Raises:
            UnknownName: a column that does not exist.
        """
        for column in columns:
            if column not in COLUMNS:
                raise UnknownName("column", column, COLUMNS)
        wanted = {c: set(v) if isinstance(v, (list, tuple, set)) else {v} for c, v in columns.items()}
        rows = [row for row in self.rows if all(row[column] in values for column, values in wanted.items())]
        return type(self)(rows, self.provenance)

    def row(self, measure: str, **columns: Any) -> dict[str, Any]:
        """The one row of `measure` with these columns; `"name:convention"`, or a name for the default convention.

        Without `point` it is that of the residual stream.

        Raises:
            RepgeoError: no row fits, or several do; the message says which columns would decide.
        """
        measure, _, convention = measure.partition(":")
        columns |= {"convention": convention} if convention else {}
        found = self.select(measure=measure, **columns).rows
        if "point" not in columns:
            found = [row for row in found if row["point"] == STREAM] or found
        if "convention" not in columns and found:
            found = [row for row in found if row["convention"] == found[0]["convention"]]
        if len(found) == 1:
            return found[0]
        if not found:
            raise RepgeoError(self._absent({"measure": measure} | columns))
        free = [column for column in CASE if len({row[column] for row in found}) > 1]
        raise RepgeoError(f"{len(found)} rows of {measure!r}; choose by {', '.join(free)}")

    def _absent(self, columns: dict[str, Any]) -> str:
        """Which column lacks the value asked for, and the values it holds."""
        part = self
        for column, wanted in columns.items():
            found = part.select(**{column: wanted})
            if not len(found):
                break
            part = found
        known = ", ".join(map(str, part.unique(column)))
        return f"no row with {column}={wanted!r}; measured{' of it' if part is not self else ''}: {known}"

    def value(self, measure: str, **columns: Any) -> float | None:
        """The value of the one row that `row` finds."""
        return self.row(measure, **columns)["value"]

    def stream(self) -> Self:
        """The rows of the residual stream, layer by layer, and rows of no layer; other points are left out.

        A report of format 1 holds its last layer after the final norm only: that row is then taken instead.
        """
        known = {(row["stack"], row["layer"]) for row in self.rows if row["point"] == STREAM}
        return type(self)([row for row in self.rows if _in_stream(row, known)], self.provenance)

    def unique(self, column: str) -> list:
        """The values of a column, each once, in order of appearance."""
        return list(dict.fromkeys(row[column] for row in self.rows))

    def warnings(self) -> list[str]:
        """Every warning, once, in order of appearance."""
        return list(dict.fromkeys(warning for row in self.rows for warning in row["warnings"]))

    # --- growing ----------------------------------------------------------------------------------------------------

    def add(self, **columns: Any) -> None:
        """Appends a row; columns left out are `None`.

        Raises:
            RepgeoError: an unknown column, or a number that is not finite.
        """
        unknown = set(columns) - set(COLUMNS)
        if unknown:
            raise UnknownName("column", sorted(unknown)[0], COLUMNS)
        for column in ("value", "sd", "se"):
            number = columns.get(column)
            if number is not None and not math.isfinite(number):
                raise RepgeoError(
                    f"column {column!r} of {columns.get('measure')!r} is {number}; use None and a warning"
                )
        row = {column: columns.get(column) for column in COLUMNS}
        row["warnings"], row["details"] = list(row["warnings"] or ()), dict(row["details"] or {})
        self.rows.append(row)

    def __add__(self, other: ReportTable) -> Self:
        """Rows of both, provenance of the first."""
        return type(self)(self.rows + other.rows, self.provenance)

    # --- writing and reading ------------------------------------------------------------------------------------------

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values, as `to_json` writes them."""
        return {"format": FORMAT, "provenance": self.provenance, "rows": self.rows}

    def as_json(self) -> str:
        """The report as `to_json` writes it, with a row on each line.

        Python indents ten times slower than it encodes, and a run writes its report after every layer.
        """
        content = self.as_dict()
        rows = [json.dumps(row, allow_nan=False) for row in content.pop("rows")]
        head = json.dumps(content, indent=1, allow_nan=False).removesuffix("\n}")
        listed = "\n  " + ",\n  ".join(rows) + "\n " if rows else ""
        return f'{head},\n "rows": [{listed}]\n}}\n'

    def to_json(self, path: str | Path) -> Path:
        """Writes the report; an existing file is replaced in one step, so that a reader never sees half of it."""
        return write_whole(Path(path), self.as_json())

    @classmethod
    def from_json(cls, path: str | Path) -> Self:
        """Reads what `to_json` wrote.

        Raises:
            BadInput: no such file, or not a report.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            if content["format"] > FORMAT:
                raise BadInput(
                    "path",
                    came=f"{str(path)!r}, format {content['format']}",
                    wanted="a report",
                    cure="Upgrade hf_repgeo.",
                )
            return cls(_checked(content["rows"], content["provenance"]), content["provenance"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            if isinstance(error, RepgeoError):
                raise
            came = f"{str(path)[:200]!r} ({str(error)[:200]})"  # where a report's text is taken for its path
            raise BadInput("path", came=came, wanted="a report written by to_json") from None

    def to_parquet(self, path: str | Path) -> Path:
        """Writes the rows as a Parquet table, the provenance into its metadata; replaces a file in one step."""
        import pyarrow.parquet

        path = Path(path)
        with written_whole(path) as unfinished:
            pyarrow.parquet.write_table(self.to_arrow(), unfinished)
        return path

    @classmethod
    def from_parquet(cls, path: str | Path) -> Self:
        """Reads what `to_parquet` wrote.

        Raises:
            BadInput: no such file, or not a report.
        """
        import pyarrow.parquet

        try:
            table = pyarrow.parquet.read_table(path)
            provenance = json.loads(table.schema.metadata[b"hf_repgeo"])["provenance"]
            rows = [{**row, "details": json.loads(row["details"])} for row in table.to_pylist()]
            return cls(_checked(rows, provenance), provenance)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise BadInput("path", came=f"{str(path)!r} ({error})", wanted="a report written by to_parquet") from None

    def to_arrow(self) -> pyarrow.Table:
        """The rows as a `pyarrow.Table`; `details` as JSON text."""
        import pyarrow as pa

        types = {int: pa.int64(), float: pa.float64(), str: pa.string(), list: pa.list_(pa.string()), dict: pa.string()}
        schema = pa.schema([(column, types[kind]) for column, kind in COLUMNS.items()])
        metadata = {"hf_repgeo": json.dumps({"format": FORMAT, "provenance": self.provenance})}
        return pa.Table.from_pylist(_flat(self.rows), schema=schema.with_metadata(metadata))

    def to_pandas(self) -> pandas.DataFrame:
        """The rows as a data frame."""
        import pandas

        return pandas.DataFrame(self.rows, columns=list(COLUMNS))

    def to_dataset(self) -> datasets.Dataset:
        """The rows as a `datasets.Dataset`; `details` as JSON text."""
        import datasets

        return datasets.Dataset(self.to_arrow().replace_schema_metadata(None))


def _in_stream(row: dict[str, Any], known: set[tuple[str, int]]) -> bool:
    return row["point"] in (None, STREAM) or (
        row["point"] == "final_norm" and (row["stack"], row["layer"]) not in known
    )


def _checked(rows: list[dict[str, Any]], provenance: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a file with every column, each of its type.

    Raises:
        TypeError: rows or provenance of another kind, or a value of another type.
        KeyError: a column is missing.
    """
    if not isinstance(rows, list) or not isinstance(provenance, dict):
        raise TypeError("rows are not a list, or the provenance is not an object")
    rows = _with_points(rows, provenance)
    for number, row in enumerate(rows):
        needed = {"warnings", "details"} if row["protocol"] == "failed" else {"measure", "warnings", "details"}
        for column, kind in COLUMNS.items():
            value = row[column]
            fits = isinstance(value, (float, int) if kind is float else kind) and not isinstance(value, bool)
            if not fits and (value is not None or column in needed):
                raise TypeError(f"row {number} has {value!r:.40} as {column!r}")
            if kind is float and value is not None and not math.isfinite(value):
                raise TypeError(f"row {number} has {value!r} as {column!r}")
            if kind is int and value is not None and value.bit_length() > 63:
                raise TypeError(f"row {number} has {value!r:.40} as {column!r}, which no 64 bits hold")
        _check_shown(number, row["warnings"], row["details"])
    return rows


def _check_shown(number: int, warnings: list, details: dict[str, Any]) -> None:
    """That what a report shows of a row's warnings and details can be shown."""
    for warning in warnings:
        if not isinstance(warning, str):
            raise TypeError(f"row {number} has {warning!r:.40} among its warnings")
    for name in SHOWN_DETAILS & details.keys():
        value = details[name]
        needed = name not in MAY_BE_NONE
        if not isinstance(value, (int, float)) and (needed or value is not None):
            raise TypeError(f"row {number} has {value!r:.40} as {name!r} in its details")
    for first, second in BOUNDS:
        if (first in details) != (second in details):
            raise TypeError(f"row {number} has one of {first!r} and {second!r} in its details")


def _with_points(rows: list[dict[str, Any]], provenance: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of a report of format 1, which had no points: its last layer came after the final norm if it says so."""
    if not rows or "point" in rows[0]:
        return rows
    last: dict[str, int] = {}
    for row in rows:
        if row["layer"] is not None:
            last[row["stack"]] = max(row["layer"], last.get(row["stack"], 0))
    normed = last if provenance.get("final_norm") == "applied" else {}
    return [{column: _old_value(row, column, normed) for column in COLUMNS} for row in rows]


def _old_value(row: dict[str, Any], column: str, normed: dict[str, int]) -> Any:
    if column != "point" or row["layer"] is None:
        return row.get(column)
    return "final_norm" if normed.get(row["stack"]) == row["layer"] else STREAM


def _flat(rows: Iterable[dict]) -> list[dict]:
    return [{**row, "details": json.dumps(row["details"], sort_keys=True)} for row in rows]
