"""Readers of the authors' own files. Their data has no licence, so the package holds none: get the files from them.

Formats: `fragments.csv` and `sequences.csv` of chunk sentences; matrices in folders with `x.json`, `y.json`,
`labels.json`, in `type_*.csv`, `data.tsv` and the CSV files of the first version; the jsonl of their GenBench data.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BadInput, UnknownName
from ..rows.small_files import json_value, table_records, utf8_text
from .chunks import PATTERNS, Sentence
from .lexicon import Row

if TYPE_CHECKING:
    from datasets import Dataset

SEPARATORS = {";": "a semicolon", "\t": "a tab", ",": "a comma"}
DUPLICATES = ("error", "merge", "drop")
SHUFFLED = ("candidates", "errors", "candidates_templates")
CONTEXT = 7
NEEDED = tuple(f"{slot}-{number}" for slot in ("np", "pp1", "pp2", "vp") for number in "sp")


def load_fragments(path: str | Path) -> list[Row]:
    """Rows of a `fragments.csv`, separated by semicolons or tabs, for `chunk_sentences` and `pair_instances`.

    Args:
        path: of the file.

    Returns:
        Rows with the file's columns, names in lower case; forms keep their spelling. Singular and plural may be the
        same (the past tense of English), so two patterns can hold one text. Prefixes and relative clauses have other
        names there than in our lexicons, so agreement matrices and the ladder need a lexicon of ours.

    Raises:
        BadInput: no such file, a missing column, a missing form (file, line, separator and column named).
    """
    header, records = _table(path, lambda names: set(NEEDED) <= {name.lower() for name in names}, ", ".join(NEEDED))
    names = [name.lower() for name in header]
    rows = []
    for number, (line, record) in enumerate(records, 1):
        forms = {name: cell for name, cell in zip(names, record, strict=False) if name}
        missing = [name for name in NEEDED if not forms.get(name)]
        if missing:
            came = f"{path}, line {line}: no form in column {missing[0]!r}"
            raise BadInput("path", came=came, wanted="a form in every cell")
        rows.append(Row(number, f"row {number}", forms))
    return rows


def load_sequences(path: str | Path) -> list[Sentence]:
    """The grammatical sentences of a `sequences.csv` (separated by tabs or semicolons, a column per pattern).

    Args:
        path: of the file.

    Returns:
        Sentences whose column is one of the 14 patterns; other columns (broken agreement) are left out. Chunks are not
        marked in these files, so each sentence is one chunk. `pair_instances` takes them as they are.

    Raises:
        BadInput: no such file, or no column that is one of the patterns.
    """
    wanted = f"a column per pattern, such as {PATTERNS[2]!r}"
    header, records = _table(path, lambda names: any(_pattern(name) in PATTERNS for name in names), wanted)
    columns = {index: _pattern(name) for index, name in enumerate(header) if _pattern(name) in PATTERNS}
    return [
        Sentence(record[index], pattern, number, (record[index],))
        for index, pattern in columns.items()
        for number, (_, record) in enumerate(records, 1)
        if index < len(record) and record[index]
    ]


def _pattern(name: str) -> str:
    return " ".join(re.split(r"[\s_,]+", name.strip()))


def _table(path: str | Path, fits: Callable[[list[str]], bool], wanted: str) -> tuple[list[str], list]:
    """Header and `(line, cells)` of a table whose separator makes its header fit."""
    text = utf8_text(path, "path")
    for separator in SEPARATORS:
        records = table_records(text, "path", str(path), delimiter=separator)
        header = [name.strip() for name in next(records, (1, []))[1]]
        if fits(header):
            return header, [(line, [cell.strip() for cell in cells]) for line, cells in records if any(cells)]
    came = f"{path}, line 1: {text.split(chr(10), 1)[0][:60]!r}"
    separators = ", ".join(SEPARATORS.values())
    raise BadInput("path", came=came, wanted=f"{wanted}, separated by {separators}")


def load_matrices(path: str | Path, *, duplicated_answer: str = "error", seed: int = 0) -> Dataset:
    """Matrices of the authors: a folder of `x.json`, `y.json` ..., a `type_*.csv`, a `data.tsv`, the first version.

    Error candidates of one text are merged, their names joined (`"AEN1/AEN2"`); candidates are shuffled.

    Args:
        path: a folder such as `.../type_I/datasets/train/sentences`, or a file of these.
        duplicated_answer: what to do where an error candidate has the answer's text: `"error"` refuse; `"merge"` count
            it as the answer; `"drop"` leave the matrix out.
        seed: of the shuffling.

    Returns:
        A `Dataset` with `context`, `candidates`, `errors`, `label`, `has_duplicates` (the file had two candidates of
        one text) and, where the file has them, `context_templates` and `candidates_templates`. Matrices may have
        different numbers of candidates; training and scoring take that.

    Raises:
        BadInput: a file is missing or not in UTF-8, lengths differ, a matrix has not seven sentences or an empty one, a
            candidate set has not exactly one answer, or its answer twice (file and line or number named).
        UnknownName: an unknown `duplicated_answer`.
    """
    if duplicated_answer not in DUPLICATES:
        raise UnknownName("way of a duplicated answer", duplicated_answer, DUPLICATES)
    path = Path(path)
    found = _of_folder(path) if path.is_dir() else _of_table(path)
    rng, kept = random.Random(seed), []
    for place, record in found:
        if len(record["context"]) != CONTEXT:
            came = f"{place}: {len(record['context'])} sentences before the answer"
            raise BadInput("path", came=came, wanted=f"{CONTEXT} sentences")
        merged = _merged(record, place, duplicated_answer)
        if merged is not None:
            kept.append(_shuffled(merged, rng))
    if not kept:
        raise BadInput("path", came=f"{path} without a matrix", wanted="at least one")
    return _to_dataset(kept)


def _of_folder(folder: Path) -> list[tuple[str, dict]]:
    contexts, candidates = _read_json(folder / "x.json"), _read_json(folder / "y.json")
    names = _read_json(folder / "labels.json") if (folder / "labels.json").is_file() else None
    truth = _read_json(folder / "truth_bool.json") if (folder / "truth_bool.json").is_file() else None
    columns = {"context": contexts, "candidates": candidates, "errors": _names_from_truth(names, truth, folder)}
    for name, file in (("context_templates", "x_templates.json"), ("candidates_templates", "y_templates.json")):
        if (folder / file).is_file():
            columns[name] = _read_json(folder / file)
    for name, values in columns.items():
        if not isinstance(values, list) or not all(isinstance(value, list) for value in values):
            raise BadInput("path", came=f"{folder}: {name} {str(values)[:60]}", wanted="a list with a list per matrix")
    sizes = {name: len(values) for name, values in columns.items()}
    if len(set(sizes.values())) > 1:
        came = f"{folder}: " + ", ".join(f"{size} {name}" for name, size in sizes.items())
        raise BadInput("path", came=came, wanted="as many of each")
    rows = zip(*columns.values(), strict=True)
    return [(f"{folder}, matrix {i}", dict(zip(columns, row, strict=True))) for i, row in enumerate(rows, 1)]


def _of_table(path: Path) -> list[tuple[str, dict]]:
    wanted = "columns Sent_1 ... and Answer_1 ..., or the first version's numbered ones"
    fits = lambda names: "Sent_1" in names or names[1:4] == ["0", "1", "2"]  # noqa: E731
    header, records = _table(path, fits, wanted)
    read = _named_columns if "Sent_1" in header else _numbered_columns
    return [(f"{path}, line {line}", read(header, cells)) for line, cells in records]


def _named_columns(header: list[str], cells: list[str]) -> dict:
    """Keeps the first of two columns of one name: only then the labels of the spray/load files fit."""
    told: dict[str, str] = {}
    for name, cell in zip(header, cells, strict=False):
        told.setdefault(name, cell)
    groups = {"context": "Sent", "candidates": "Answer", "errors": "Answer_label"}
    record = {name: _numbered(told, prefix) for name, prefix in groups.items()}
    templates = {"context_templates": "Sent_template", "candidates_templates": "Answer_template"}
    for name, prefix in templates.items():
        found = _numbered(told, prefix)
        if len(found) == len(record[name.split("_")[0]]):
            record[name] = found
    return record


def _numbered(told: dict[str, str], prefix: str) -> list[str]:
    found = {int(m[1]): cell for name, cell in told.items() if (m := re.fullmatch(prefix + r"_(\d+)", name))}
    return [found[i] for i in sorted(found)]


def _numbered_columns(header: list[str], cells: list[str]) -> dict:
    """The first version: an index, seven sentences, candidates, as many truth values, as many names."""
    count = (len(header) - 1 - CONTEXT) // 3
    parts = cells[1 : 1 + CONTEXT], cells[1 + CONTEXT : 1 + CONTEXT + count], cells[1 + CONTEXT + 2 * count :]
    return dict(zip(("context", "candidates", "errors"), parts, strict=True))


def _merged(record: dict, place: str, duplicated_answer: str) -> dict | None:
    """One candidate per text; None where the matrix is left out."""
    _check_texts(record, place)
    candidates, errors = record["candidates"], [_error_name(name) for name in record["errors"]]
    if len(candidates) != len(errors) or errors.count("Correct") != 1:
        came = f"{place}: {len(candidates)} candidates, {errors.count('Correct')} of {len(errors)} labels right"
        raise BadInput("path", came=came, wanted="exactly one answer")
    answer = candidates[errors.index("Correct")]
    if candidates.count(answer) > 1 and duplicated_answer != "merge":
        if duplicated_answer == "drop":
            return None
        cure = "Choose duplicated_answer='drop' or 'merge'."
        raise BadInput("path", came=f"{place}: the answer {answer!r} twice", wanted="an answer of its own", cure=cure)
    first = list(dict.fromkeys(candidates))
    if len(first) < 2:
        raise BadInput("path", came=f"{place}: one candidate alone", wanted="the answer and at least one other")
    names = ["Correct" if text == answer else "/".join(_of(text, candidates, errors)) for text in first]
    kept = {**record, "candidates": first, "errors": names, "has_duplicates": len(first) < len(candidates)}
    if "candidates_templates" in record:
        kept["candidates_templates"] = [record["candidates_templates"][candidates.index(text)] for text in first]
    return kept


def _check_texts(record: dict, place: str) -> None:
    for name in ("context", "candidates"):
        texts = record[name]
        if not (isinstance(texts, list) and all(isinstance(text, str) and text.strip() for text in texts)):
            empty = next((i for i, text in enumerate(texts, 1) if not str(text).strip()), None)
            came = f"{place}: {name} number {empty} empty" if empty else f"{place}: {name} {str(texts)[:60]}"
            raise BadInput("path", came=came, wanted="a list of sentences, none empty")


def _of(text: str, candidates: Sequence[str], errors: Sequence[str]) -> list[str]:
    return [name for other, name in zip(candidates, errors, strict=True) if other == text]


def _error_name(name: object) -> str:
    return "Correct" if str(name) in ("True", "Correct") else str(name)


def _shuffled(record: dict, rng: random.Random) -> dict:
    order = rng.sample(range(len(record["candidates"])), len(record["candidates"]))
    turned = {name: [record[name][i] for i in order] for name in SHUFFLED if name in record}
    return {**record, **turned, "label": turned["errors"].index("Correct")}


def load_genbench(path: str | Path, *, duplicated_answer: str = "error", seed: int = 0) -> Dataset:
    """Matrices of a GenBench jsonl: `input` joined by `</s>`, `target_options`, `target`.

    Args:
        path: of the file.
        duplicated_answer, seed: as in `load_matrices`.

    Returns:
        A `Dataset` like that of `load_matrices`; errors are not labelled there, so they are `"Correct"` or `"wrong"`.

    Raises:
        BadInput: no such file, a line that is not JSON or has other fields, or a target that is not an option (line
            named).
    """
    if duplicated_answer not in DUPLICATES:
        raise UnknownName("way of a duplicated answer", duplicated_answer, DUPLICATES)
    rng, kept = random.Random(seed), []
    for number, line in enumerate(utf8_text(path, "path").split("\n"), 1):
        if line.strip():
            place = f"{path}, line {number}"
            merged = _merged(_genbench_record(place, line), place, duplicated_answer)
            kept += [] if merged is None else [_shuffled(merged, rng)]
    if not kept:
        raise BadInput("path", came=f"{path} without a matrix", wanted="at least one")
    return _to_dataset(kept)


def _genbench_record(place: str, line: str) -> dict:
    record = json_value(line, "path", place)
    record = record if isinstance(record, dict) else {}
    options, target, given = (record.get(name) for name in ("target_options", "target", "input"))
    if not (isinstance(options, list) and isinstance(given, str) and str(target).isdigit()):
        wanted = "an object with input, target_options and target"
        raise BadInput("path", came=f"{place}: {line[:60]}", wanted=wanted)
    target = int(str(target))
    if not 0 <= target < len(options):
        came = f"{place}: target {target} of {len(options)} options"
        raise BadInput("path", came=came, wanted="one of the options")
    errors = ["Correct" if i == target else "wrong" for i in range(len(options))]
    return {"context": [part.strip() for part in given.split("</s>")], "candidates": options, "errors": errors}


def _names_from_truth(names, truth, folder: Path) -> list[list[str]]:
    """Error names per candidate; without names, `Correct` and `wrong`."""
    if names is None and truth is None:
        came = f"{folder}: neither labels.json nor truth_bool.json"
        raise BadInput("path", came=came, wanted="one of them")
    if names is None and isinstance(truth, list) and all(isinstance(row, list) for row in truth):
        return [["Correct" if str(value) == "True" else "wrong" for value in row] for row in truth]
    return names


def _to_dataset(records: Iterable[dict]) -> Dataset:
    from datasets import Dataset

    return Dataset.from_list(list(records))


def _read_json(path: Path):
    return json_value(utf8_text(path, "path"), "path", str(path))
