"""Readers of the authors' own files, from a path of yours: their data has no licence, so none of it ships here.

Formats: `fragments.csv` and `sequences.csv` of chunk sentences; folders with `x.json`, `y.json`, `labels.json` of
matrices; the jsonl of their GenBench submission. Identical candidates are kept as they are and flagged.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BadInput
from .chunks import PATTERNS, Sentence
from .lexicon import Row

if TYPE_CHECKING:
    from datasets import Dataset

NEEDED = tuple(f"{slot}-{number}" for slot in ("np", "pp1", "pp2", "vp") for number in "sp")


def load_fragments(path: str | Path) -> list[Row]:
    """Rows of a `fragments.csv` (`;`-separated), usable wherever a lexicon is.

    Args:
        path: of the file.

    Returns:
        Rows with the file's columns, names in lower case; forms keep their spelling. Singular and plural may be the
        same (the past tense of English), so two patterns can hold one text.

    Raises:
        BadInput: no such file, a missing column, a missing form (row and column named).
    """
    with _existing(path).open(encoding="utf-8-sig", newline="") as file:
        records = list(csv.reader(file, delimiter=";"))
    names = [name.strip().lower() for name in records[0]] if records else []
    absent = [name for name in NEEDED if name not in names]
    if absent:
        raise BadInput(
            "path", came=f"{Path(path).name} without the column(s) {', '.join(absent)}", wanted=", ".join(NEEDED)
        )
    rows = []
    for number, record in enumerate((r for r in records[1:] if any(cell.strip() for cell in r)), 1):
        forms = {name: cell.strip() for name, cell in zip(names, record, strict=False) if name}
        missing = [name for name in NEEDED if not forms.get(name)]
        if missing:
            raise BadInput(
                "path", came=f"no form in row {number}, column {missing[0]!r}", wanted="a form in every cell"
            )
        rows.append(Row(number, f"row {number}", forms))
    return rows


def load_sequences(path: str | Path) -> list[Sentence]:
    """The grammatical sentences of a `sequences.csv` (tab-separated, a column per pattern).

    Args:
        path: of the file.

    Returns:
        Sentences whose column is one of the 14 patterns; other columns (broken agreement) are left out. Chunks are not
        marked in these files, so each sentence is one chunk.

    Raises:
        BadInput: no such file, or no column that is one of the patterns.
    """
    with _existing(path).open(encoding="utf-8-sig", newline="") as file:
        header, *records = list(csv.reader(file, delimiter="\t")) or [[]]
    columns = {index: " ".join(re.split(r"[\s_,]+", name.strip())) for index, name in enumerate(header)}
    columns = {index: pattern for index, pattern in columns.items() if pattern in PATTERNS}
    if not columns:
        raise BadInput("path", came=f"columns {', '.join(header[:4])} ...", wanted=f"patterns such as {PATTERNS[2]!r}")
    return [
        Sentence(record[index].strip(), pattern, number, (record[index].strip(),))
        for index, pattern in columns.items()
        for number, record in enumerate(records, 1)
        if index < len(record) and record[index].strip()
    ]


def load_matrices(folder: str | Path) -> Dataset:
    """Matrices of one folder of `x.json`, `y.json` and, where they exist, `labels.json` and `truth_bool.json`.

    Args:
        folder: such as `.../type_I/datasets/train/sentences`.

    Returns:
        A `Dataset` with `context`, `candidates`, `errors`, `label` and `has_duplicates` (two candidates are one
        string).

    Raises:
        BadInput: a file is missing, lengths differ, or a candidate set has not exactly one answer.
    """
    folder = Path(folder)
    contexts, candidates = _read_json(folder / "x.json"), _read_json(folder / "y.json")
    names = _read_json(folder / "labels.json") if (folder / "labels.json").is_file() else None
    truth = _read_json(folder / "truth_bool.json") if (folder / "truth_bool.json").is_file() else None
    names = _names_from_truth(names, truth)
    if not len(contexts) == len(candidates) == len(names):
        raise BadInput(
            "folder",
            came=f"{len(contexts)} contexts, {len(candidates)} candidate sets and {len(names)} label sets",
            wanted="as many of each",
        )
    records = zip(contexts, candidates, names, strict=True)
    return _to_dataset(_matrix(i, context, answers, errors) for i, (context, answers, errors) in enumerate(records))


def load_genbench(path: str | Path) -> Dataset:
    """Matrices of a GenBench jsonl: `input` joined by `</s>`, `target_options`, `target`.

    Args:
        path: of the file.

    Returns:
        A `Dataset` like that of `load_matrices`; errors are not labelled there, so they are `"Correct"` or `"wrong"`.

    Raises:
        BadInput: no such file, or a target that is not an option (line named).
    """
    with _existing(path).open(encoding="utf-8") as file:
        records = [json.loads(line) for line in file if line.strip()]
    return _to_dataset(_genbench_record(number, record) for number, record in enumerate(records, 1))


def _genbench_record(number: int, record: dict) -> dict:
    options, target = record["target_options"], int(record["target"])
    if not 0 <= target < len(options):
        raise BadInput(
            "path", came=f"target {target} of {len(options)} options in line {number}", wanted="one of the options"
        )
    errors = ["Correct" if i == target else "wrong" for i in range(len(options))]
    return _matrix(number, [part.strip() for part in record["input"].split("</s>")], options, errors)


def _names_from_truth(names, truth) -> list[list[str]]:
    """Error names per candidate; the released name of the answer, `True`, becomes `Correct`."""
    if names is None and truth is None:
        raise BadInput("folder", came="neither labels.json nor truth_bool.json", wanted="one of them")
    if names is None:
        return [["Correct" if str(value) == "True" else "wrong" for value in row] for row in truth]
    return [["Correct" if str(value) in ("True", "Correct") else str(value) for value in row] for row in names]


def _matrix(number: int, context: Sequence[str], candidates: Sequence[str], errors: Sequence[str]) -> dict:
    if len(candidates) != len(errors) or errors.count("Correct") != 1:
        raise BadInput(
            "folder",
            came=f"instance {number} with {len(candidates)} candidates, {errors.count('Correct')} of them right",
            wanted="exactly one answer",
        )
    return {
        "context": list(context),
        "candidates": list(candidates),
        "errors": list(errors),
        "label": errors.index("Correct"),
        "has_duplicates": len(set(candidates)) < len(candidates),
    }


def _to_dataset(records: Iterable[dict]) -> Dataset:
    from datasets import Dataset

    return Dataset.from_list(list(records))


def _read_json(path: Path):
    return json.loads(_existing(path).read_text(encoding="utf-8"))


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise BadInput("path", came=f"{path}, which does not exist", wanted="a file of the authors' data that you have")
    return path
