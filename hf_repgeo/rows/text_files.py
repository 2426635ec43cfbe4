"""Documents of a file: plain text, JSON Lines, JSON, Parquet."""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from ..errors import BadInput, UnknownName
from .cleaning import cleaner_of, split_documents
from .corpus import Corpus, checked
from .records import READ_LIMIT, documents_of

BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
TABLES = (".csv", ".tsv")


def read_text(
    path: str | Path, clean: str = "none", *, text_column: str | None = None, encoding: str | None = None
) -> Corpus:
    """Documents of a file.

    A text file: a line `= Title =`, as in WikiText, starts a document; without such lines, blank lines separate
    documents. `.jsonl` and `.json`: one document per line or list entry, a string or the text column of an object.
    `.parquet`: one document per row. A column of chat messages gives conversations. Of JSON and Parquet, at most 20,000
    rows are read, from the start.

    Args:
        path: the file.
        clean: `"none"` takes the text as it is. `"wikitext"` is for WikiText's word-level files: drops headings, undoes
            ` @-@ ` and spaced punctuation, writes `unknown` for `<unk>`. `"wiki"` is for a raw MediaWiki dump such as
            enwik8: takes the article texts out of the XML and leaves out code, media, tables, references, HTML and
            wiki markup (needs the extra `wiki`).
        text_column: of JSON or Parquet; default: `text`, else the only column of texts, else one of messages.
        encoding: such as `"latin-1"`; default: UTF-8, or what the file's byte order mark says.

    Returns:
        Corpus: the documents, with the file's name and SHA-256.

    Raises:
        BadInput: no such file, another encoding, broken JSON or Parquet, or nothing left after cleaning.
        UnknownName: an unknown `clean`, or a column that does not exist.

    Example:
        >>> from hf_repgeo import read_text
        >>> read_text("corpus.jsonl", text_column="body").documents  # doctest: +SKIP
    """
    path = Path(path)
    cleaner_of(clean, split_documents)
    check_file(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    source = {"name": path.name, "sha256": digest, "clean": clean}
    if path.suffix.lower() in (".jsonl", ".ndjson", ".json", ".parquet"):
        records = parquet_records(path, text_column) if path.suffix.lower() == ".parquet" else _json(path, encoding)
        documents, column = documents_of(islice(records, READ_LIMIT), text_column, clean, str(path))
        return checked(documents, source | {"column": column, "limit": READ_LIMIT}, "text")
    passages = cleaner_of(clean, split_documents)(_decoded(path, encoding))
    return checked([*passages], source, "text", separator="\n")


def check_file(path: Path) -> None:
    """Raises:
    BadInput: not a file, or a table of another kind.
    """
    wanted = "the path of a text, JSON or Parquet file"
    if not path.is_file():
        folder = path.is_dir()
        cure = "Read a folder of data with hf_repgeo.read_dataset (--dataset)." if folder else ""
        came = f"{str(path)!r}, which is {'a folder' if folder else 'not a file'}"
        raise BadInput("text", came=came, wanted=wanted, cure=cure)
    if path.suffix.lower() in TABLES:
        cure = "Read it with datasets.load_dataset('csv', data_files=...) and pass its text column."
        raise BadInput("text", came=f"{str(path)!r}, a table", wanted=wanted, cure=cure)


def _decoded(path: Path, encoding: str | None) -> str:
    """The file's text without byte order mark, lines ending in `\\n`."""
    data = path.read_bytes()
    found = encoding or next((name for mark, name in BYTE_ORDER_MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(found)
    except UnicodeDecodeError as error:
        came = f"{str(path)!r}, not {found.upper().removesuffix('-SIG')} at byte {error.start}"
        cure = "Say what it is: hf_repgeo.read_text(path, encoding='latin-1')."
        wanted = f"text in {encoding or 'UTF-8'}"
        raise BadInput("text", came=came, wanted=wanted, cure=cure) from None
    except LookupError:
        raise BadInput("encoding", came=repr(encoding), wanted="an encoding that Python knows") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _json(path: Path, encoding: str | None) -> Iterator[object]:
    text = _decoded(path, encoding)
    if path.suffix.lower() == ".json" and text.lstrip().startswith("["):
        yield from parsed(text, path, "the file")
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield parsed(line, path, f"line {number}")


def parsed(text: str, path: Path, where: str):
    """The value of a JSON text; `where` is its place in the file.

    Raises:
        BadInput: not JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput("text", came=f"{str(path)!r}, where {where} is not JSON ({error})", wanted="JSON") from None


def parquet_records(path: Path, column: str | None) -> Iterator[dict]:
    """Rows of a Parquet file, one by one: all columns, or the one asked for.

    Raises:
        BadInput: not Parquet.
        UnknownName: no such column.
    """
    import pyarrow as pa
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        if column and column not in file.schema_arrow.names:
            raise UnknownName("column", column, file.schema_arrow.names)
        for batch in file.iter_batches(1024, columns=[column] if column else None):
            yield from batch.to_pylist()
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        came = f"{str(path)!r} ({str(error).splitlines()[0]})"
        raise BadInput("text", came=came, wanted="a Parquet file") from None
