"""Sources of texts: files, data sets, lists, conversations, the packaged sample."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import BadInput
from .corpus import Chat, Corpus, checked, is_chat
from .files import is_table
from .records import documents_of
from .text_datasets import corpus_of_dataset, read_dataset
from .text_files import read_text

__all__ = ["Corpus", "corpus_of", "packaged_sample", "read_dataset", "read_text"]

SAMPLE = Path(__file__).parents[1] / "data" / "wikipedia-sample.txt"
WANTED = "the path of a file, a list of texts or conversations, a data set, or a Corpus"


def corpus_of(
    texts: Iterable[str | Chat | Mapping[str, Any]] | Corpus | str | Path,
    clean: str = "none",
    text_column: str | None = None,
) -> Corpus:
    """Documents from whatever `profile` was given.

    Args:
        texts: texts or conversations, one document each, taken as they are; the path of a file; a `datasets` data set,
            of which the first 20,000 rows are read; or a `Corpus`, which is handed through. A single string is always
            a path.
        clean: `"none"`, `"wikitext"` or `"wiki"`; see `read_text`.
        text_column: of a data set, JSON or Parquet file; see `read_text`.

    Raises:
        BadInput: no such file, nothing but blank text, or entries that are not texts.
        UnknownName: a column that does not exist.

    Example:
        >>> from hf_repgeo.rows.texts import corpus_of
        >>> corpus_of(["def f():\\n\\n    return 1\\n", "x"]).documents
        ['def f():\\n\\n    return 1\\n', 'x']
    """
    if isinstance(texts, Corpus):
        return texts
    if isinstance(texts, (str, Path)):
        return _of_path(texts, clean, text_column)
    if is_table(texts):
        return corpus_of_dataset(texts, text_column, clean)
    items = _items(texts)
    documents, column = documents_of(items, text_column, clean, "texts")
    source = {"name": "texts in memory", "clean": clean} | ({"column": column} if column else {})
    return checked(documents, source, "texts")


def packaged_sample() -> Corpus:
    """Excerpts of English Wikipedia that the package carries (CC BY-SA 3.0, see the file beside it)."""
    return read_text(SAMPLE)


def _of_path(path: str | Path, clean: str, text_column: str | None) -> Corpus:
    if os.path.exists(path) or isinstance(path, Path):
        return read_text(path, clean, text_column=text_column)
    short = path if len(path) <= 60 else path[:57] + "..."
    cure = "To measure one text, pass it in a list: texts=[text]."
    raise BadInput("texts", came=f"the string {short!r}, which is not a file", wanted=WANTED, cure=cure)


def _items(texts: Any) -> list:
    """The entries of a list or iterable, where they can be documents."""
    pandas = sys.modules.get("pandas")
    if isinstance(texts, Mapping) or (pandas and isinstance(texts, pandas.DataFrame)):
        names = ", ".join(map(str, list(texts)[:6]))
        cure = "Pass one of them: texts[...]."
        raise BadInput("texts", came=f"a {type(texts).__name__} of {names}", wanted=WANTED, cure=cure)
    if isinstance(texts, (bytes, bytearray)) or not isinstance(texts, Iterable):
        raise BadInput("texts", came=f"a {type(texts).__name__}", wanted=WANTED)
    items = list(texts)
    if is_chat(items):
        cure = "Pass it in a list: texts=[conversation]."
        raise BadInput("texts", came="the messages of one conversation", wanted=WANTED, cure=cure)
    if items and all(isinstance(item, (str, Path)) and _is_file(item) for item in items):
        cure = "Read each with hf_repgeo.read_text, or pass one path."
        raise BadInput("texts", came=f"a list of file names ({str(items[0])!r} ...)", wanted=WANTED, cure=cure)
    return items


def _is_file(item: str | Path) -> bool:
    return len(str(item)) < 4096 and os.path.isfile(item)
