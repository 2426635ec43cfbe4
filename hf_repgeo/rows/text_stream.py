"""Documents one by one, for corpora that are larger than memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadInput
from .corpus import Chat, Corpus, as_texts, says_something
from .files import is_table
from .records import documents_one_by_one
from .text_files import check_file, parquet_records, parsed
from .texts import corpus_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class TextStream:
    """The counterpart of a `Corpus` for documents that are read one by one.

    Attributes:
        documents: starts reading them again from the beginning.
        source: provenance for the report.
        separator: as of a `Corpus`.
    """

    documents: Callable[[], Iterator[str | Chat]]
    source: dict
    separator: str = ""

    def provenance(self) -> dict:
        """`source` alone: the documents are not read yet."""
        return self.source

    def texts(self, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
        """The documents as strings; blank ones are left out."""
        return as_texts(filter(says_something, self.documents()), tokenizer)


def text_stream(texts: Any, clean: str = "none", text_column: str | None = None) -> TextStream | Corpus:
    """All documents of what `profile` was given, one by one: of JSON Lines and Parquet files and of data sets.

    Other texts are held in memory, as a `Corpus`.

    Raises:
        BadInput: no such file, broken JSON or Parquet, or entries that are not texts; the last two while it is read.
        UnknownName: a column that does not exist.
    """
    if is_table(texts):
        return _of(lambda: texts, clean, text_column, "the data set", {"name": "data set", "read": _now()})
    suffix = Path(texts).suffix.lower() if isinstance(texts, (str, Path)) else ""
    if suffix not in (*LINES, ".parquet"):
        return corpus_of(texts, clean, text_column)
    path = Path(texts)
    check_file(path)
    records = (lambda: parquet_records(path, text_column)) if suffix == ".parquet" else (lambda: _lines(path))
    with path.open("rb") as file:
        source = {"name": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    return _of(records, clean, text_column, str(path), source)


def _of(records: Callable, clean: str, column: str | None, where: str, source: dict) -> TextStream:
    _, column = documents_one_by_one(records(), column, clean, where)
    facts = source | {"clean": clean, "column": column}
    return TextStream(lambda: documents_one_by_one(records(), column, clean, where)[0], facts)


def _now() -> str:
    """The present time, as the identity of a data set without a fingerprint: no two readings count as the same."""
    return datetime.now(UTC).isoformat()


def _lines(path: Path) -> Iterator[object]:
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield parsed(line, path, f"line {number}")
        except UnicodeDecodeError as error:
            raise BadInput("text", came=f"{str(path)!r} ({error.reason})", wanted="text in UTF-8") from None
