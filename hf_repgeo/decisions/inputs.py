"""The inputs of decisions: texts in groups, pairs that belong together, and matrices of embeddings."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import BadInput
from ..measures.inputs import as_matrix, finite_peak, in_working_dtype
from ..rows.files import read_rows
from ..rows.small_files import json_value, table_records, utf8_text
from ..rows.texts import corpus_of, packaged_sample

QUERIES = ("query", "question", "anchor", "sentence1", "text")
DOCUMENTS = ("document", "answer", "sentence", "positive", "sentence2", "text2")
LABELS = ("label", "relevant", "score")
GROUPS = ("group", "class", "label", "document")
TRUE = {"1", "1.0", "true", "yes", "entailment", "duplicate", "relevant"}
FALSE = {"0", "0.0", "false", "no", "not_entailment", "not_duplicate", "irrelevant"}
UNRELATED = (  # articles of the packaged text on unrelated subjects
    *("Anarchism", "Autism", "Albedo", "Alabama", "Achilles", "Abraham Lincoln", "An American in Paris"),
    *("Academy Awards", "International Atomic Time", "Agriculture", "Alchemy", "ASCII", "Animation", "Andre Agassi"),
    *("Afroasiatic languages", "Arithmetic mean", "American Football Conference", "Amphibian", "Alkane"),
    "Appellate procedure in the United States",
)
TABLES = (".csv", ".tsv", ".jsonl", ".json")
SENTENCES = 25  # of each article
READ_AT_ONCE = 4096  # rows of a file
LEAST_ROWS = 50  # of a matrix
LARGE = 1e15  # magnitudes whose squares, and whose inverses' squares, float32 holds
SENTENCE = re.compile(r"(?<=[.!?]) +(?=[A-Z])")


@dataclass(frozen=True)
class GroupedTexts:
    """Texts in groups; texts of different groups are unrelated.

    Attributes:
        texts: one row each.
        groups: `(n,)` whole numbers, from 0 on.
        name: for provenance.
        labels: names of the groups, by their numbers; empty where each text is a group of its own.
    """

    texts: list[str]
    groups: np.ndarray
    name: str
    labels: tuple[str, ...] = ()

    @property
    def n_groups(self) -> int:
        return len(np.unique(self.groups))


@dataclass(frozen=True)
class Pairs:
    """Queries and the document that belongs to each.

    Attributes:
        queries: `n` texts.
        documents: distinct texts.
        target: `(n,)` position of each query's document.
        name: for provenance.
    """

    queries: list[str]
    documents: list[str]
    target: np.ndarray
    name: str

    def __len__(self) -> int:
        return len(self.queries)


# --- groups -----------------------------------------------------------------------------------------------------------


def unrelated_domains() -> GroupedTexts:
    """500 sentences from 20 articles of the packaged text on unrelated subjects.

    All are English and from an encyclopedia: texts that also differ in style lie further apart.
    """
    articles = re.split(r"^= (.+) =$", "\n".join(map(str, packaged_sample().documents)), flags=re.MULTILINE)
    bodies = dict(zip(articles[1::2], articles[2::2]))
    texts, groups = [], []
    for number, title in enumerate(UNRELATED):
        sentences = [s for line in bodies[title].splitlines() for s in SENTENCE.split(line) if 40 <= len(s) <= 400]
        texts += sentences[:SENTENCES]
        groups += [number] * len(sentences[:SENTENCES])
    return GroupedTexts(texts, np.array(groups), "packaged: unrelated domains", UNRELATED)


def read_groups(data: Any, labels: Any = None) -> GroupedTexts:
    """Texts in groups.

    Args:
        data: a `.csv`, `.tsv` or `.jsonl` file with the columns `text` and `group` (or `class`, `label`, `document`);
            a mapping from a group's name to its texts; a list of texts or any other file of them, where without
            `labels` each text is a group of its own; `None`: `unrelated_domains()`.
        labels: of a list or plain file of texts: the name of each text's group, or a file with one on each line.

    Raises:
        BadInput: no such file or column, an empty text, fewer than two groups, labels that do not match; file and line
            named.
    """
    if data is None:
        return unrelated_domains()
    if isinstance(data, GroupedTexts):
        return data
    in_file = isinstance(data, (str, Path))
    grouped = isinstance(data, Mapping) or (in_file and Path(data).suffix in TABLES)
    if labels is not None and grouped:
        raise BadInput("labels", came="labels beside texts in groups", wanted="a list or plain file of texts")
    if not grouped:
        return _plain(data, labels, Path(data).name if in_file else "texts in memory")
    if in_file:
        table = _Table.read(data, "texts")
        text, group = (table.column("texts", names) for names in (("text",), GROUPS))
        return _of_groups([str(row[text]) for row in table.rows], [row[group] for row in table.rows], Path(data).name)
    rows = [(str(text), name) for name, texts in data.items() for text in texts]
    return _of_groups([text for text, _ in rows], [name for _, name in rows], "texts in memory")


def _plain(data: Any, labels: Any, name: str) -> GroupedTexts:
    """A list or plain file of texts: each a group of its own, or in the groups that the labels name."""
    texts = [str(document) for document in corpus_of(data).documents]
    if labels is None:
        return GroupedTexts(texts, np.arange(len(texts)), name)
    names = read_lines(labels, "labels") if isinstance(labels, (str, Path)) else list(labels)
    if len(names) != len(texts):
        raise BadInput("labels", came=f"{len(names)} labels for {len(texts)} texts", wanted="one for each text")
    return _of_groups(texts, names, name)


def _of_groups(texts: list[str], names: list[Any], name: str) -> GroupedTexts:
    labels = sorted({str(one) for one in names})
    if len(labels) < 2:
        wanted = "texts of at least two groups: pairs across groups are the unrelated ones"
        raise BadInput("texts", came=f"{len(texts)} texts of {len(labels)} group(s)", wanted=wanted)
    number = {label: i for i, label in enumerate(labels)}
    return GroupedTexts(texts, np.array([number[str(one)] for one in names]), name, tuple(labels))


def read_lines(path: str | Path, argument: str) -> list[str]:
    """The lines of a file, such as a name for each row.

    Raises:
        BadInput: no such file, or not UTF-8.
    """
    return utf8_text(path, argument).removesuffix("\n").split("\n")


# --- pairs ------------------------------------------------------------------------------------------------------------


def read_pairs(data: str | Path | Iterable[tuple[str, str]] | Pairs, least: int = 20) -> Pairs:
    """Pairs of texts that belong together.

    Args:
        data: a file with a header, `.csv`, `.tsv` or `.jsonl`, with a column for the queries (`query`, `question`,
            `anchor`, `sentence1` or `text`) and one for the documents (`document`, `answer`, `sentence`, `positive`,
            `sentence2` or `text2`); if it has a column `label`, rows labelled 0, false or not_entailment are left out.
            Or `(query, document)` tuples.
        least: pairs wanted.

    Raises:
        BadInput: no such file or column, an unknown label, too few pairs; file and line named.
    """
    if isinstance(data, Pairs):
        return data
    if isinstance(data, (str, Path)):
        found, name = _pairs_of_file(data), Path(data).name
    else:
        found, name = [_checked_pair(pair, i) for i, pair in enumerate(data)], "pairs in memory"
    found = list(dict.fromkeys(found))
    if len(found) < least:
        raise BadInput("pairs", came=f"{len(found)} true pairs", wanted=f"at least {least}")
    documents = list(dict.fromkeys(document for _, document in found))
    place = {document: i for i, document in enumerate(documents)}
    target = np.array([place[document] for _, document in found])
    return Pairs([query for query, _ in found], documents, target, name)


def _checked_pair(pair: Any, position: int) -> tuple[str, str]:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
        wanted = "tuples of two texts (query, document), or a file"
        raise BadInput("pairs", came=f"{pair!r} at position {position}"[:100], wanted=wanted)
    return pair[0], pair[1]


def _pairs_of_file(path: str | Path) -> list[tuple[str, str]]:
    table = _Table.read(path, "pairs")
    query = table.column("pairs", QUERIES)
    document = table.column("pairs", tuple(name for name in DOCUMENTS if name != query))
    label = next((name for name in LABELS if name in table.header), None)
    rows = enumerate(table.rows, table.first_line)
    return [(row[query], row[document]) for line, row in rows if label is None or _is_true(row[label], path, line)]


def _is_true(label: Any, path: str | Path, line: int) -> bool:
    said = str(label).strip().lower()
    if said not in TRUE | FALSE:
        came = f"label {label!r} in {path}, line {line}"
        raise BadInput("pairs", came=came, wanted=f"one of {', '.join(sorted(TRUE | FALSE))}")
    return said in TRUE


# --- tables -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Table:
    """The rows of a small file; each has a value for every column."""

    path: Path
    header: list[str]
    rows: list[dict[str, Any]]
    first_line: int

    @classmethod
    def read(cls, path: str | Path, argument: str) -> _Table:
        path = Path(path)
        text = utf8_text(path, argument)
        if path.suffix in (".jsonl", ".json"):
            return cls._of_jsonl(path, text, argument)
        options: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if path.suffix == ".tsv" else {}
        records = table_records(text, argument, str(path), **options)
        _, header = next(records, (1, []))
        rows = []
        for line, cells in records:
            if cells and len(cells) != len(header):
                came = f"{path}, line {line}, with another number of columns than the header"
                raise BadInput(argument, came=came, wanted=f"{len(header)} columns")
            rows += [dict(zip(header, cells))] if cells else []
        return cls(path, header, rows, 2)

    @classmethod
    def _of_jsonl(cls, path: Path, text: str, argument: str) -> _Table:
        rows: list[dict[str, Any]] = []
        lines = [(line, said) for line, said in enumerate(text.split("\n"), 1) if said.strip()]
        for line, said in lines:
            row = json_value(said, argument, f"{path}, line {line}")
            if not isinstance(row, dict) or (rows and row.keys() != rows[0].keys()):
                came = f"{path}, line {line}: {said[:60]}"
                raise BadInput(argument, came=came, wanted="one JSON object per line, with the same keys in each")
            rows.append(row)
        return cls(path, list(rows[0]) if rows else [], rows, 1)

    def column(self, argument: str, names: tuple[str, ...]) -> str:
        """The first of these columns that the file has.

        Raises:
            BadInput: it has none, or holds something that is not a text, or a blank one.
        """
        found = next((name for name in names if name in self.header), None)
        if found is None:
            came = f"{self.path} with the columns {', '.join(self.header) or '(none)'}"
            raise BadInput(argument, came=came, wanted=f"a column {' or '.join(names)}")
        for line, row in enumerate(self.rows, self.first_line):
            if not isinstance(row[found], (str, int)) or not str(row[found]).strip():
                came = f"{row[found]!r} in column {found} of {self.path}, line {line}"
                raise BadInput(argument, came=came, wanted="a text")
        return found


# --- matrices ---------------------------------------------------------------------------------------------------------


def is_matrix(data: Any) -> bool:
    """Whether `data` is a matrix of embeddings, or a file of one, and not a model."""
    if isinstance(data, (str, Path)):
        return Path(data).suffix in (".npy", ".safetensors", ".parquet") and Path(data).is_file()
    return isinstance(data, (list, tuple)) or hasattr(data, "__array__")


def read_matrix(data: Any, column: str | None = None, least: int = LEAST_ROWS) -> torch.Tensor:
    """Embeddings as `(n, d)` float32, scaled by a power of two where float32 could not hold their squares.

    Args:
        data: a tensor, an array, or a `.npy`, `.safetensors` or `.parquet` file.
        column: tensor or column of the file.
        least: rows wanted.

    Raises:
        BadInput: not a matrix of finite numbers, masked entries, too few rows, or a row of zeros, which has no
            direction.
    """
    if isinstance(data, (str, Path)):
        data = _file_rows(data, column)
    given = as_matrix(data, "X")
    rows = in_working_dtype(given.detach().cpu())
    if rows.shape[1] < 2:
        raise BadInput("X", came=f"shape {tuple(rows.shape)}", wanted="(n_samples, hidden_size)")
    if len(rows) < least:
        raise BadInput("X", came=f"{len(rows)} rows", wanted=f"at least {least}")
    peak = finite_peak(rows, given.dtype, "X")
    if peak and not 1 / LARGE < peak < LARGE:
        rows = torch.ldexp(rows, torch.tensor(-math.frexp(peak)[1]))
    rows = rows.float()
    bad = (rows == 0).all(1)
    if bad.any():
        came = f"{int(bad.sum())} rows of zeros, the first at {int(bad.nonzero()[0])}"
        raise BadInput("X", came=came, wanted="rows with a direction", cure="Drop them: X = X[keep].")
    return rows


def _file_rows(path: str | Path, column: str | None) -> np.ndarray:
    found = read_rows(path, column)
    if isinstance(found, np.ndarray):
        return found
    blocks = [torch.as_tensor(block) for block in found.blocks(READ_AT_ONCE)]
    return torch.cat(blocks).numpy() if blocks else np.zeros((0, 2))
