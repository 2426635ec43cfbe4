"""Reads your sentences from a file or a data set: texts, one column of values per property, and groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadInput, UnknownName
from ..rows.small_files import json_value, table_records, utf8_text
from .effects import as_list, lacks

if TYPE_CHECKING:
    from datasets import Dataset

TEXT, GROUP = "text", "group"
SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab"}
ENDINGS = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json", ".parquet")
WANTED = "the columns text, one or more of values, and, if sentences share material, group"


@dataclass(frozen=True)
class Sentences:
    """Distinct sentences with their properties.

    Args:
        texts: n distinct strings.
        labels: property -> n values, None where a sentence does not have it.
        groups: n names, or None: every sentence is a group of its own.
        source: file or data set, for reports.
    """

    texts: list[str]
    labels: dict[str, list[str | None]]
    groups: list[str] | None
    source: str


def read_sentences(sentences: str | Path | Dataset | Mapping, properties: Sequence[str] | None = None) -> Sentences:
    """Sentences of a file, a `datasets.Dataset`, or columns.

    Args:
        sentences: a file with the columns `text`, one or more of values, and if wanted `group`: `.csv`, `.tsv` or
            `.txt` (comma, semicolon or tab, as in the header), `.jsonl`, `.json` or `.parquet`; a
            `datasets.Dataset`; a pandas DataFrame; or column -> values.
        properties: columns to take as properties; default: all but `text` and `group`.

    Raises:
        BadInput: no such file, another layout (file, line and separator named), a text that is empty or has two values.
        UnknownName: a property that is not a column.

    Example:
        >>> read = read_sentences({"text": ["a key", "keys"], "number": ["s", "p"]})
        >>> read.texts, read.labels
        (['a key', 'keys'], {'number': ['s', 'p']})
    """
    if isinstance(sentences, (str, Path)):
        path = Path(sentences)
        records, lines = _records(path)
        return _sentences(records, lines, path.name, properties)
    columns = {name: _plain(sentences, name) for name in _column_names(sentences)}
    if len({len(values) for values in columns.values()}) > 1:
        sizes = ", ".join(f"{name} {len(values)}" for name, values in columns.items())
        raise BadInput("sentences", came=f"columns of different lengths ({sizes})", wanted="one length")
    records = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return _sentences(records, range(len(records)), "data set", properties, unit="row")


def _column_names(sentences: Any) -> list[str]:
    if isinstance(sentences, Mapping) and all(hasattr(part, "column_names") for part in sentences.values()):
        cure = f"Pass one of them, such as data[{next(iter(sentences), 'train')!r}]."
        raise BadInput("sentences", came=f"a {type(sentences).__name__} of splits", wanted="one data set", cure=cure)
    tables = [getattr(sentences, name, None) for name in ("column_names", "columns")]  # of datasets, of pandas
    names = next((t for t in tables if t is not None), list(sentences) if isinstance(sentences, Mapping) else None)
    if names is None:
        wanted = "a file, a datasets.Dataset, a DataFrame, or columns by name"
        raise BadInput("sentences", came=f"a {type(sentences).__name__}", wanted=wanted)
    return list(names)


def _plain(sentences: Any, name: Any) -> list:
    """A column as plain values; classes of a `datasets.ClassLabel` by their names."""
    values = as_list(sentences[name])
    names = getattr((getattr(sentences, "features", None) or {}).get(name), "names", None)
    return [None if value is None or value < 0 else names[value] for value in values] if names else values


def _records(path: Path) -> tuple[list[dict], list[int]]:
    """Rows of a file as column -> value, and the line (or row) of each."""
    if not path.is_file():
        raise BadInput("sentences", came=f"{str(path)!r}, which is not a file", wanted=f"a file with {WANTED}")
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise BadInput("sentences", came=f"{str(path)!r}", wanted=f"a file that ends in one of {', '.join(ENDINGS)}")
    if ending == ".parquet":
        rows = _parquet(path)
        return rows, list(range(1, len(rows) + 1))
    text = utf8_text(path, "sentences")
    return (_json if ending in (".jsonl", ".ndjson", ".json") else _table)(path, text)


def _table(path: Path, text: str) -> tuple[list[dict], list[int]]:
    separator = _separator(path, text)
    rows = table_records(text, "sentences", str(path), delimiter=separator)
    header = [name.strip() for name in next(rows)[1]]
    twice = next((name for name in header if name and header.count(name) > 1), None)
    if twice is not None:
        raise BadInput("sentences", came=f"{path}, line 1: the column {twice!r} twice", wanted="one of each name")
    records, lines = [], []
    for began, row in rows:
        if any(cell.strip() for cell in row):
            if len(row) != len(header):
                came = f"{path}, line {began}: {len(row)} cells"
                wanted = f"{len(header)} cells, as in the header, separated by {SEPARATORS[separator]}"
                cure = 'Put a text that holds the separator into "double quotes".'
                raise BadInput("sentences", came=came, wanted=wanted, cure=cure)
            records.append({name: cell for name, cell in zip(header, row, strict=True) if name})  # "": row numbers
            lines.append(began)
    return records, lines


def _separator(path: Path, text: str) -> str:
    """The separator that splits the header into columns of which one is `text`."""
    header = text.split("\n", 1)[0]
    for separator in SEPARATORS:
        _, names = next(table_records(header, "sentences", str(path), delimiter=separator), (1, []))
        if separator in header and TEXT in [name.strip() for name in names]:
            return separator
    came = f"{path}, line 1: {header.strip()[:60]!r}"
    wanted = f"a header with {WANTED}, separated by {', '.join(SEPARATORS.values())}"
    raise BadInput("sentences", came=came, wanted=wanted)


def _json(path: Path, text: str) -> tuple[list[dict], list[int]]:
    whole = path.suffix.lower() == ".json" and text.lstrip().startswith("[")
    parts = [(1, text)] if whole else [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    records: list[Any] = []
    lines: list[int] = []
    for number, part in parts:
        found = json_value(part, "sentences", f"{path}, line {number}")
        records += found if whole else [found]
        lines += list(range(1, len(found) + 1)) if whole else [number]
    wrong = next((line for record, line in zip(records, lines) if not isinstance(record, dict)), None)
    if wrong is not None:
        raise BadInput("sentences", came=f"{path}, entry {wrong}: no object", wanted=f"objects with {WANTED}")
    names = list(dict.fromkeys(name for record in records for name in record))
    return [{name: record.get(name) for name in names} for record in records], lines


def _parquet(path: Path) -> list[dict]:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise BadInput("sentences", came=f"{path} ({str(error).splitlines()[0]})", wanted="a Parquet file") from None


def _sentences(records, lines, source: str, properties: Sequence[str] | None, unit: str = "line") -> Sentences:
    if not records:
        raise BadInput("sentences", came=f"{source} without a row", wanted=f"rows with {WANTED}")
    names = list(records[0])
    if TEXT not in names:
        raise BadInput("sentences", came=f"{source} with the columns {', '.join(map(str, names))}", wanted=WANTED)
    found = [name for name in names if name not in (TEXT, GROUP)]
    properties = [properties] if isinstance(properties, str) else properties
    unknown = [name for name in properties or () if name not in found]
    if unknown:
        raise UnknownName("property", unknown[0], found)
    chosen = list(properties or found)
    if not chosen:
        raise BadInput("sentences", came=f"{source} with the columns {', '.join(names)}", wanted=WANTED)
    kept: dict[str, tuple[dict, int]] = {}
    for record, line in zip(records, lines):
        values = {name: _value(record[name]) for name in (*chosen, *([GROUP] if GROUP in names else []))}
        _keep(kept, record[TEXT], values, f"{source}, {unit} {line}", line)
    labels = {name: [values[name] for values, _ in kept.values()] for name in chosen}
    groups = [str(values[GROUP]) for values, _ in kept.values()] if GROUP in names else None
    return Sentences(list(kept), labels, groups, source)


def _keep(kept: dict, text: Any, values: dict, place: str, line: int) -> None:
    """Adds a text; one that occurred before must have the same values."""
    if not isinstance(text, str) or not text.strip():
        raise BadInput("sentences", came=f"{place}: no text", wanted="a text in every row")
    if GROUP in values and values[GROUP] is None:
        raise BadInput("sentences", came=f"{place}: no group", wanted="a group in every row, or no such column")
    text = text.strip()
    earlier, first = kept.setdefault(text, (values, line))
    changed = next((name for name in values if values[name] != earlier[name]), None)
    if changed is not None:
        came = f"{place}: {text[:40]!r} with {changed} {values[changed]!r}, and {earlier[changed]!r} before ({first})"
        raise BadInput("sentences", came=came, wanted="one value of a property for one text")


def _value(value: Any) -> str | None:
    return None if lacks(value) else str(value).strip()
