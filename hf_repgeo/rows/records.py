"""Documents of records: strings, conversations, or rows of a table with a column of either."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path

from ..errors import BadInput, UnknownName
from .cleaning import as_it_is, cleaner_of
from .corpus import Chat, is_chat

READ_LIMIT = 20_000  # rows of a data set or table that are read: more than any draw of windows needs
PEEKED = 100  # rows that are looked at to find the column of texts


def documents_of(records: Iterable, column: str | None, clean: str, where: str) -> tuple[list[str | Chat], str | None]:
    """Documents of records, and the name of their column; a record without text (`None`) is left out.

    Args:
        records: strings, conversations (lists of messages), or rows: `column -> value`.
        column: of rows; default: `text`, else the only column of texts, else one of messages.
        clean: as in `read_text`, applied to each text.
        where: the records' name in errors.

    Raises:
        BadInput: a record that is neither, or rows with no column or several to choose from.
        UnknownName: a column that does not exist.
    """
    documents, column = documents_one_by_one(records, column, clean, where)
    return list(documents), column


def documents_one_by_one(
    records: Iterable, column: str | None, clean: str, where: str
) -> tuple[Iterator[str | Chat], str | None]:
    """As `documents_of`, but an iterator, which holds one document at a time."""
    records = iter(records)
    first = list(islice(records, PEEKED))
    if any(isinstance(record, Mapping) for record in first):
        column = text_column([record for record in first if isinstance(record, Mapping)], column)
    else:
        column = None
    return _documents(chain(first, records), column, cleaner_of(clean, as_it_is), where), column


def _documents(records: Iterable, column: str | None, cleaner: Callable, where: str) -> Iterator[str | Chat]:
    for position, record in enumerate(records):
        document = record.get(column) if isinstance(record, Mapping) and column else record
        if isinstance(document, str):
            yield from cleaner(document)
        elif document is not None and is_chat(document):
            yield document
        elif document is not None or not isinstance(record, Mapping):
            _refuse(document, position, column, where)


def text_column(rows: list[Mapping], column: str | None) -> str:
    """The column of texts or of conversations; see `documents_of`."""
    known = list(dict.fromkeys(name for row in rows for name in row))
    if column is not None:
        if column not in known:
            raise UnknownName("column", column, known)
        return column
    texts = [name for name in known if _holds(rows, name, str)]
    chats = [name for name in known if any(is_chat(row.get(name)) for row in rows)]
    if "text" in texts or len(texts) == 1:
        return "text" if "text" in texts else texts[0]
    if len(chats) == 1:
        return chats[0]
    cure = "Name it with text_column= (--text-column)."
    raise BadInput("text_column", came="none", wanted=f"the text column, one of {known}", cure=cure)


def _holds(rows: list[Mapping], name: str, kind: type) -> bool:
    values = [row.get(name) for row in rows if row.get(name) is not None]
    return bool(values) and all(isinstance(value, kind) for value in values)


def _refuse(document: object, position: int, column: str | None, where: str) -> None:
    cure = ""
    if isinstance(document, Path):
        cure = "Read a file with hf_repgeo.read_text(path)."
    elif column:
        cure = "Name another column with text_column= (--text-column)."
    came = f"{type(document).__name__} at position {position}" + (f" of column {column!r} of {where}" if column else "")
    raise BadInput("texts", came=came, wanted="strings, or conversations: lists of role and content", cure=cure)
